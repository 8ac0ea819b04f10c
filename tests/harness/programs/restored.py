"""A process whose memory still comes, and what its threads do meanwhile.

usage: restored.py SOCKET SOURCE ADDRESS BYTES SECONDS. It has an area of so many bytes at ADDRESS, watched by a
userfaultfd that goes over SOCKET as CRIU's would, for the memory of process SOURCE: each page begins with its address.
When a line comes on standard input it begins; at the end it says, as JSON, how often each thing was done and how many
seconds the longest took, and what was read that was wrong. Who is not done by then waits still.

A quarter of the area each: read at random, here and in children; given back, and moved, a page after the other while
others read it; and mapped anew, as well.
"""

import ctypes
import fcntl
import json
import mmap
import os
import platform
import random
import socket
import struct
import sys
import threading
import time

PAGE = 4096
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
FIXED, MAY_MOVE, TO = 0x10, 1, 2
API, REGISTER = 0xC018AA3F, 0xC020AA00
FORK, REMAP, REMOVE, UNMAP = 1 << 1, 1 << 2, 1 << 3, 1 << 6
USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
RESTORE_FINISHED = 0x52535446
FAR = 1 << 36
MOVED_PAGES, CHILDS_PAGES = 4, 8
STILL_SECONDS = 4.0

path, source, area, size, seconds = sys.argv[1], *map(int, sys.argv[2:])
libc = ctypes.CDLL(None, use_errno=True)
address_of, length = ctypes.c_void_p, ctypes.c_size_t
libc.mmap.restype = libc.mremap.restype = address_of
libc.mmap.argtypes = [address_of, length, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [address_of, length, length, ctypes.c_int, address_of]
libc.madvise.argtypes = [address_of, length, ctypes.c_int]
libc.memcpy.argtypes = [address_of, address_of, length]

done: dict[str, list] = {}
doing: dict[int, tuple[str, float]] = {}
wrong: list[str] = []
over = 0.0


def timed(what, act, *arguments):
    began = time.monotonic()
    doing[threading.get_ident()] = what, began
    found = act(*arguments)
    del doing[threading.get_ident()]
    count, longest = done.get(what, (0, 0.0))
    done[what] = [count + 1, max(longest, time.monotonic() - began)]
    return found


def read(at):
    """What a page begins with; it is waited for without Python's lock."""
    into = ctypes.create_string_buffer(8)
    libc.memcpy(into, at, 8)
    return int.from_bytes(into.raw, "little")


def look(what, at, *expected):
    found = timed(what, read, at)
    if found not in expected:
        wrong.append(f"{what} at {at:#x}: {found:#x}")


def quarter(number):
    return range(area + number * size // 4, area + (number + 1) * size // 4, PAGE)


def read_at_random(seed):
    chance = random.Random(seed)
    while time.monotonic() < over:
        at = chance.choice(quarter(0))
        look("read", at, at)


def read_what_changes(pages, cursor):
    chance = random.Random(7)
    while time.monotonic() < over:
        at = pages[cursor[0] + chance.randrange(4)]
        look("read what changes", at, at, 0)


def give_back(pages, cursor):
    for cursor[0], at in enumerate(pages[:-4]):
        if time.monotonic() > over:
            return
        timed("give back", libc.madvise, at, PAGE, mmap.MADV_DONTNEED)
        look("read what was given back", at, 0)


def map_anew(pages, cursor):
    for cursor[0], at in enumerate(pages[:-4]):
        if time.monotonic() > over:
            return
        timed("map anew", libc.mmap, at, PAGE, 3, PRIVATE | FIXED, -1, 0)
        time.sleep(0.0005)


def move(pages):
    for at in pages[::MOVED_PAGES]:
        if time.monotonic() > over:
            return
        to = at + FAR
        timed("move", libc.mremap, at, MOVED_PAGES * PAGE, MOVED_PAGES * PAGE, MAY_MOVE | TO, to)
        look("read what was moved", to + PAGE, at + PAGE)
        time.sleep(0.002)


def fork():
    chance = random.Random(9)
    while time.monotonic() < over:
        child = timed("fork", os.fork)
        if not child:
            for at in chance.choices(quarter(0), k=CHILDS_PAGES):
                look("read", at, at)
            os._exit(len(wrong))
        _, status = timed("child", os.waitpid, child, 0)
        if status:
            wrong.append(f"a child: {status}")
        time.sleep(0.1)


def hand_over():
    """As CRIU does (criu: uffd.c): the PID, the userfaultfd, and that this was all."""
    assert libc.mmap(area, size, 3, PRIVATE | FIXED, -1, 0) == area
    fd = libc.syscall(USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, API, struct.pack("<QQQ", 0xAA, FORK | REMAP | REMOVE | UNMAP, 0))
    fcntl.ioctl(fd, REGISTER, struct.pack("<QQQQ", area, size, 1, 0))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(struct.pack("<i", source))
        socket.send_fds(sock, [b"\0"], [fd])
        sock.sendall(struct.pack("<i", RESTORE_FINISHED))
    os.close(fd)


def main():
    global over
    sys.setswitchinterval(0.0005)
    hand_over()
    print("restored", flush=True)
    sys.stdin.readline()
    over = time.monotonic() + seconds
    given, mapped = [0], [0]
    jobs = [(read_at_random, 1), (read_at_random, 2), (fork,), (move, quarter(2)),
            (give_back, quarter(1), given), (read_what_changes, quarter(1), given),
            (map_anew, quarter(3), mapped), (read_what_changes, quarter(3), mapped)]  # fmt: skip
    threads = [threading.Thread(target=act, args=arguments, daemon=True) for act, *arguments in jobs]
    for one in threads:
        one.start()
    for one in threads:
        one.join(max(0.0, over + STILL_SECONDS - time.monotonic()))
    for what, began in list(doing.values()):
        count, longest = done.get(what, (0, 0.0))
        done[what] = [count, max(longest, time.monotonic() - began)]
    print(json.dumps({"done": done, "wrong": wrong[:9]}), flush=True)
    os._exit(0)


main()
