"""Holds a lock of each kind on files below a path, while a child waits for one; as `locks.py ask PID` it says which of
them somebody else is refused.

Standard library only. It is a workload of tests/system/test_files.py.
"""

import fcntl
import os
import signal
import struct
import sys

EVERY_BYTE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
F_OFD_SETLK = 37
MACHINES = "from-the-machine"
FILES = ("flock", "fcntl", "ofd", "gone", MACHINES)
FIRST = 3
"""The descriptor of the first; the others follow."""


def take(name: str, descriptor: int) -> None:
    if name == "fcntl":
        fcntl.fcntl(descriptor, fcntl.F_SETLK, EVERY_BYTE)
    elif name == "ofd":
        fcntl.fcntl(descriptor, F_OFD_SETLK, EVERY_BYTE)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold(top: str) -> None:
    os.makedirs(top)
    os.chdir(top)
    for name in FILES:
        read_only = name == MACHINES
        take(name, os.open("/etc/debian_version", os.O_RDONLY) if read_only else os.open(name, os.O_RDWR | os.O_CREAT))
    os.unlink("gone")
    if os.fork() == 0:
        waited_for = os.open("flock", os.O_RDWR)
        os.mkdir("waits")
        fcntl.flock(waited_for, fcntl.LOCK_EX)
        os.mkdir("got")
    signal.signal(signal.SIGUSR1, lambda *_: fcntl.flock(FIRST, fcntl.LOCK_UN))
    while True:
        signal.pause()


def ask(pid: str) -> None:
    for descriptor, name in enumerate(FILES, FIRST):
        path = f"/proc/{pid}/fd/{descriptor}"
        how = os.O_RDONLY if name == MACHINES else os.O_RDWR
        another = os.open(path if name == "gone" else os.readlink(path), how)
        try:
            take(name, another)
        except BlockingIOError:
            print(name)


if sys.argv[1] == "ask":
    ask(sys.argv[2])
else:
    hold(sys.argv[1])
