"""CRIU, made to believe that this kernel tracks what processes write.

The real CRIU runs, and does all it does; only what a kernel with CONFIG_MEM_SOFT_DIRTY would say is said by somebody
else (seccomp_unotify(2)), where this kernel has none:

- a write to /proc/<pid>/clear_refs succeeds;
- a page of CRIU's own is soft-dirty when it looks whether there is such a thing (criu: kerndat.c);
- PAGEMAP_SCAN says soft-dirty of every page that is not, byte for byte, in the rounds before.

The last is what a kernel's bit promises, and no more. `program` makes a file that can be given for CRIU, in a pod that
nothing is restored in: what CRIU makes would have the filter too.
"""

from __future__ import annotations

import array
import errno
import fcntl
import functools
import os
import re
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from checkpoint.core.chain import PARENT
from checkpoint.criu.shade import PAGEMAP_SCAN
from checkpoint.images.folder import entries
from checkpoint.images.pb import Messages
from checkpoint.memory import scan
from tests.harness import bpf

_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_QUESTION, _ANSWER = struct.Struct("<QIIiIQ6Q"), struct.Struct("<QqiI")
_SOFT_DIRTY_REGION, _SOFT_DIRTY_ENTRY = 1 << 7, 1 << 55  # K: linux/fs.h, PAGE_IS_SOFT_DIRTY; mm/pagemap.rst
_PAGE, _WORD, _PRESENT = 4096, 8, 4
_FOLDER = re.compile(r"(.*)/(?:images|rounds/\d+)")


@functools.cache
def tracked(criu: Path) -> bool:
    """Whether this kernel itself tracks what is written, as `criu` sees it."""
    return subprocess.run([criu, "check", "--feature", "mem_dirty_track"], capture_output=True).returncode == 0


def program(folder: Path, criu: Path) -> Path:
    """`criu`, or where this kernel does not track a program in `folder` that stands for it."""
    if tracked(criu):
        return criu
    made = folder / "criu"
    begin = f"import sys; sys.path.insert(0, '{Path(__file__).parents[2]}'); from {__name__} import main; main()"
    made.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{begin}" {criu.resolve()} "$@"\n')
    made.chmod(0o755)
    (folder / "python").symlink_to(criu.parent.resolve() / "python")
    return made


def main() -> None:
    """Becomes the CRIU that the first argument names, with the others."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        if not os.fork():  # no child of CRIU's, which waits for all that it has
            theirs.close()
            _supervise(ours, Path(sys.argv[1]).parent / "python")
        os._exit(0)
    os.waitpid(child, 0)
    try:
        listener = _install()
    except OSError as error:
        if error.errno != errno.EBUSY:  # else somebody answers questions already: this one is for no pre-copy
            raise
    else:
        socket.send_fds(theirs, [b"!"], [listener])
        os.close(listener)
    theirs.close()
    ours.close()
    os.execv(sys.argv[1], sys.argv[1:])


def _install() -> int:
    """Asks about ioctl(…, PAGEMAP_SCAN, …), and about reads of 8 bytes and writes of 2."""
    steps = [
        (bpf.LOAD, 0, 0, bpf.ARCHITECTURE_AT), (bpf.JUMP_IF_EQUAL, 0, 10, bpf.AUDIT),
        (bpf.LOAD, 0, 0, bpf.NUMBER_AT), (bpf.JUMP_IF_EQUAL, 0, 2, bpf.IOCTL),
        (bpf.LOAD, 0, 0, bpf.SECOND_AT), (bpf.JUMP_IF_EQUAL, 7, 6, PAGEMAP_SCAN),
        (bpf.JUMP_IF_EQUAL, 0, 2, bpf.WRITE), (bpf.LOAD, 0, 0, bpf.THIRD_AT), (bpf.JUMP_IF_EQUAL, 4, 3, 2),
        (bpf.JUMP_IF_EQUAL, 0, 2, bpf.READ), (bpf.LOAD, 0, 0, bpf.THIRD_AT), (bpf.JUMP_IF_EQUAL, 1, 0, _WORD),
        (bpf.RETURN, 0, 0, bpf.ALLOW), (bpf.RETURN, 0, 0, bpf.NOTIFY),
    ]  # fmt: skip
    return bpf.install(steps, bpf.NEW_LISTENER)


def _supervise(sock: socket.socket, pycriu: Path) -> None:
    """Answer until nobody is left who could ask. Nothing of CRIU's stays open here: its end must be seen."""
    _, listeners, _, _ = socket.recv_fds(sock, 1, 1)
    if not listeners:
        return
    (listener,) = listeners
    fcntl.fcntl(listener, fcntl.F_DUPFD, 100)
    os.closerange(0, 100)
    tracker = Tracker(pycriu)
    poll = select.poll()
    poll.register(100, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        with suppress(OSError):  # the asker was killed in between
            raw = bytearray(_QUESTION.size)
            fcntl.ioctl(100, _RECEIVE, raw)
            number, asker, _, call, _, _, *arguments = _QUESTION.unpack(raw)
            value = _value(tracker, asker, call, *arguments[:3])
            flags = _CONTINUE if value is None else 0
            fcntl.ioctl(100, _SEND, _ANSWER.pack(number, value or 0, 0, flags))


def _value(tracker: Tracker, asker: int, call: int, fd: int, second: int, third: int) -> int | None:
    """What the call gives; None: whatever the kernel says."""
    link = Path(f"/proc/{asker}/fd/{fd}").readlink()
    if call == bpf.WRITE:
        return 2 if link.name == "clear_refs" else None
    if link.name != "pagemap":
        return None
    if call == bpf.READ:
        return _read_entry(asker, fd, second)
    pid = int(link.parent.name)
    return None if pid == asker else tracker.scan(asker, pid, third)


def _read_entry(asker: int, fd: int, address: int) -> int:
    position = int(Path(f"/proc/{asker}/fdinfo/{fd}").read_text().split()[1])
    with open(f"/proc/{asker}/pagemap", "rb", buffering=0) as pagemap:
        (entry,) = struct.unpack("<Q", os.pread(pagemap.fileno(), _WORD, position))
    _poke(asker, address, struct.pack("<Q", entry | _SOFT_DIRTY_ENTRY))
    return _WORD


def _poke(pid: int, address: int, raw: bytes) -> None:
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        os.pwrite(memory.fileno(), raw, address)


class Tracker:
    """Knows what the rounds before have of each process."""

    def __init__(self, pycriu: Path) -> None:
        self._messages = Messages(pycriu)
        self._pages: dict[int, dict[int, int]] = {}

    def scan(self, asker: int, pid: int, address: int) -> int:
        """Does what the kernel does, and says for each page whether it is soft-dirty. Gives the number of regions."""
        with open(f"/proc/{asker}/mem", "rb", buffering=0) as memory:
            asked = scan.decode(os.pread(memory.fileno(), scan.ARGUMENT_BYTES, address))
        if pid not in self._pages:
            self._pages[pid] = dict(self._copied(_rounds(asker), pid))
        regions, end = _kernels(pid, asked)
        split = list(self._split(pid, regions))
        if len(split) > asked.vector_length:
            end = split[asked.vector_length][0]
            del split[asked.vector_length :]
        _poke(asker, asked.vector, b"".join(struct.pack("<3Q", *one) for one in split))
        _poke(asker, address + scan.WALK_END_AT, struct.pack("<Q", end))
        return len(split)

    def _split(self, pid: int, regions: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
        known = self._pages[pid]
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for start, end, kinds in regions:
                began, before = start, -1
                raw = os.pread(memory.fileno(), end - start, start)
                for at in range(start, end, _PAGE):
                    dirty = known.get(at) != hash(raw[at - start : at - start + _PAGE])
                    now = kinds & ~_SOFT_DIRTY_REGION | (_SOFT_DIRTY_REGION if dirty else 0)
                    if now != before and before >= 0:
                        yield began, at, before
                        began = at
                    before = now
                yield began, end, before

    def _copied(self, rounds: list[Path], pid: int) -> Iterator[tuple[int, int]]:
        """Each page that is in the chain, and what is in it; the later rounds last."""
        for folder in rounds:
            path = folder / f"pagemap-{pid}.img"
            if path.exists():
                head, *maps = entries(str(path), self._messages.pagemap_head, self._messages.pagemap)
                with open(folder / f"pages-{head.pages_id}.img", "rb") as pages:
                    for one in maps:
                        for at in range(one.nr_pages if one.flags & _PRESENT else 0):
                            yield one.vaddr + at * _PAGE, hash(pages.read(_PAGE))


def _rounds(asker: int) -> list[Path]:
    """The folders of the rounds before, as CRIU has them: its images' folder is open, and leads to the one below."""
    for fd in Path(f"/proc/{asker}/fd").iterdir():
        link = str(fd.readlink())
        if _FOLDER.fullmatch(link):
            break
    else:
        return []
    found: list[Path] = []
    folder = Path(link)
    while (folder / PARENT).is_symlink():
        folder = (folder / PARENT).resolve()
        found.insert(0, folder)
    return found


def _kernels(pid: int, asked: scan.Argument) -> tuple[list[tuple[int, int, int]], int]:
    room = array.array("Q", bytes(3 * _WORD * asked.vector_length))
    argument = bytearray(struct.pack("<12Q", *asked._replace(vector=room.buffer_info()[0])))
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        count = fcntl.ioctl(pagemap, scan.REQUEST, argument)
    flat = room[: 3 * count]
    return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True)), scan.decode(bytes(argument)).walk_end
