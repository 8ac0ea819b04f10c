"""A workload with every kind of memory that a process may have; says what is in it.

usage: memories.py PORT MEBIBYTES. A line "sum" is answered with the digests of all kinds, here and in a child that
was forked before anything moved; "fork" with those of a child that is forked then.
"""

import ctypes
import hashlib
import json
import mmap
import os
import random
import socket
import struct
import sys

PAGE = 4096
GUARD_INSTALL = 102  # madvise(2), Linux 6.13; older ones refuse it, and then the page is as any other
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
chance = random.Random(11)


def dense():
    """Large, every page written."""
    made = mmap.mmap(-1, 17 << 20, flags=PRIVATE)
    made[:] = chance.randbytes(len(made))
    return made


def sparse():
    """Large, a page written here and there, one of them with zeros."""
    made = mmap.mmap(-1, 24 << 20, flags=PRIVATE)
    for number, at in enumerate(range(0, len(made) - PAGE, 331 * PAGE)):
        made[at : at + PAGE] = bytes(PAGE) if number == 7 else chance.randbytes(PAGE)
    return made


def guarded():
    """Large, with guard pages in the middle, which nobody may read."""
    made = dense()
    begin = ctypes.addressof(ctypes.c_char.from_buffer(made))
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin + (8 << 20)), 3 * PAGE, GUARD_INSTALL)
    return made


def shared():
    made = mmap.mmap(-1, 2 << 20)
    made[:] = chance.randbytes(len(made))
    return made


def changed():
    """A file's pages, some of them changed in this process alone."""
    with open(os.path.realpath(sys.executable), "rb") as file:
        made = mmap.mmap(file.fileno(), 1 << 20, flags=mmap.MAP_PRIVATE)
    for at in range(0, len(made), 5 * PAGE):
        made[at : at + 9] = b"midstream"
    return made


def small():
    made = mmap.mmap(-1, 3 << 20, flags=PRIVATE)
    made[PAGE : 2 << 20] = chance.randbytes((2 << 20) - PAGE)
    return made


def much():
    """As many MiB as are wanted."""
    return bytearray(b"7" * (int(sys.argv[2]) << 20))


kinds = {one.__name__: one() for one in (dense, sparse, guarded, shared, changed, small, much)}


def sums():
    found = {name: hashlib.sha256(made if name != "guarded" else without_guards(made)).hexdigest()
             for name, made in kinds.items()} | {"guards": guards()}  # fmt: skip
    return json.dumps(found).encode() + b"\n"


def without_guards(made):
    return made[: 8 << 20] + made[(8 << 20) + 3 * PAGE :]


def guards():
    """Which of a few pages are guard pages, as this process's page map says (bit 58)."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(kinds["guarded"])) + (8 << 20)
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek((first // PAGE - 1) * 8)
        return [bool(entry >> 58 & 1) for (entry,) in struct.iter_unpack("<Q", pagemap.read(5 * 8))]


def child(change):
    """Its end of a pair of sockets: any byte is answered with the sums."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    if change:  # pages of its own, beside those that it shares with us
        kinds["dense"][5 * PAGE : 6 * PAGE] = b"c" * PAGE
        kinds["small"][0:PAGE] = b"d" * PAGE
    while theirs.recv(1):
        theirs.sendall(sums())
    os._exit(0)


def ask(one):
    one.sendall(b"?")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += one.recv(10000)
    return json.loads(answer)


def main():
    old = child(change=True)
    server = socket.create_server(("", int(sys.argv[1])))
    while True:
        with server.accept()[0] as sock:
            for line in sock.makefile("rb", 0):
                sock.sendall(json.dumps(answer(line, old)).encode() + b"\n")


def answer(line, old):
    if line.strip() != b"fork":
        return [json.loads(sums()), ask(old)]
    with child(change=False) as new:
        answered = [ask(new)]
    os.wait()
    return answered


main()
