"""A program behind the shade lists the descriptors of another process, and sees all but those that are hidden.

The twin of `checkpoint.criu.hiding`, of `questions` and of the shade that asks for files: the real filter and kernel.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from checkpoint.criu import shade
from checkpoint.criu.hiding import Hiding
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs

MANY = 600
"""Of 24 bytes each: more than one getdents64(2) of 4 KiB gives."""

_ASKER = """
import ctypes, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)

def listed(path, room):
    folder, buffer, found, calls = os.open(path, os.O_RDONLY | os.O_DIRECTORY), ctypes.create_string_buffer(room), [], 0
    while (size := libc.syscall(%d, folder, buffer, room)) > 0:
        calls, at = calls + 1, 0
        while at < size:
            _, _, length, _ = struct.unpack_from("<QqHB", buffer.raw, at)
            found.append(buffer.raw[at + 19 : at + length].split(b"\\0")[0].decode())
            at += length
    os.close(folder)
    return {"found": found, "calls": calls, "error": ctypes.get_errno() if size < 0 else 0}

def seized(pid):
    return {"error": ctypes.get_errno() if libc.ptrace(%d, pid, None, None) < 0 else 0}

for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(seized(asked) if isinstance(asked, int) else listed(*asked)), flush=True)
"""


class Asker:
    """Behind the shade; `listener` is for whoever answers."""

    def __init__(self, root: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        getdents = shade.NUMBERS[os.uname().machine][2]
        argv = [sys.executable, "-I", "-S", shade.__file__, str(theirs.fileno()), shade.FILES, str(root)]
        argv += [sys.executable, "-I", "-S", "-c", _ASKER % (getdents, shade.PTRACE_SEIZE)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()], text=True
        )
        theirs.close()
        with ours:
            ours.settimeout(20)
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        (self.listener,) = fds

    async def list(self, path: str, room: int = 1 << 15) -> dict[str, object]:
        self.say(path, room)
        return await self.heard()

    def say(self, path: str, room: int = 1 << 15) -> None:
        self._say([path, room])

    async def seize(self, pid: int) -> int:
        """The error number."""
        self._say(pid)
        said = (await self.heard())["error"]
        assert isinstance(said, int)
        return said

    def _say(self, what: object) -> None:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    async def heard(self) -> dict[str, object]:
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 20)
        found: dict[str, object] = json.loads(line)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def other() -> Iterator[int]:
    """A process with many descriptors; its PID."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(MANY)]
    said = "import sys, time; print('up', flush=True); time.sleep(1000)"
    sleeper = subprocess.Popen([sys.executable, "-I", "-S", "-c", said], pass_fds=fds, stdout=subprocess.PIPE)
    for fd in fds:
        os.close(fd)
    assert sleeper.stdout.readline() == b"up\n"  # it opens nothing more
    yield sleeper.pid
    sleeper.stdout.close()
    sleeper.kill()
    sleeper.wait()


@pytest.fixture
async def asker(other: int) -> AsyncIterator[Asker]:
    made = Asker(other)
    yield made
    made.end()
    made.process.stdin.close()
    made.process.stdout.close()


@pytest.fixture
async def hiding(asker: Asker) -> AsyncIterator[Hiding]:
    made = Hiding(Kernel(), asker.listener)
    yield made
    made.close()


def descriptors(pid: int) -> list[str]:
    return [".", "..", *sorted((one.name for one in Path(f"/proc/{pid}/fd").iterdir()), key=int)]


def all_but(pid: int, hidden: Collection[int]) -> list[int]:
    """What is to be seen, then."""
    return [int(name) for name in descriptors(pid)[2:] if int(name) not in hidden]


@pytest.mark.parametrize("room", [1 << 15, 4096, 512])
async def test_all_but_the_hidden_ones_are_seen(asker, hiding, other, room):
    """Also where the list takes several calls."""
    everything = descriptors(other)
    hidden = [int(name) for name in everything[3::3]]
    hiding.show({other: all_but(other, hidden), os.getpid(): [0, 1, 2]})
    said = await asker.list(f"/proc/{other}/fd", room)
    assert said["found"] == [name for name in everything if not name.isdigit() or int(name) not in hidden]
    assert said["error"] == 0
    assert (said["calls"] > 1) == (room < len(said["found"]) * 24)


async def test_a_call_that_would_give_hidden_ones_alone_is_not_the_end(asker, hiding, other):
    everything = descriptors(other)
    hiding.show({other: all_but(other, [int(name) for name in everything[4:-1]])})
    said = await asker.list(f"/proc/{other}/fd", 512)
    assert said["found"] == [*everything[:4], everything[-1]]


async def test_where_all_are_hidden_the_list_is_empty(asker, hiding, other):
    hiding.show({other: []})
    assert (await asker.list(f"/proc/{other}/fd"))["found"] == [".", ".."]


async def test_it_waits_until_it_is_said_which(asker, hiding, other, wait_until):
    asker.say(f"/proc/{other}/fd")
    hearing = asyncio.create_task(asker.heard())
    await wait_until(lambda: hiding._waiting)
    assert not hearing.done()
    hiding.show({other: all_but(other, [0, 1])})
    assert (await hearing)["found"] == [name for name in descriptors(other) if name not in ("0", "1")]
    assert (await asker.list(f"/proc/{other}/fd"))["found"] == (
        [name for name in descriptors(other) if name not in ("0", "1")]
    )


async def test_of_a_process_of_which_nothing_is_hidden_everything_is_seen(asker, hiding, other):
    hiding.show({})
    assert (await asker.list(f"/proc/{other}/fd"))["found"] == descriptors(other)


async def test_its_own_descriptors_and_other_folders_are_answered_before_anything_is_said(asker, hiding, other):
    """By the kernel."""
    pid = asker.process.pid
    own = {".", "..", "0", "1", "2"}
    for path in ("/proc/self/fd", f"/proc/{pid}/fd"):
        assert own < set((await asker.list(path))["found"])
    assert hiding._waiting is None
    hiding.show({pid: []})
    assert own < set((await asker.list("/proc/self/fd"))["found"])
    for path in (f"/proc/{other}/task", f"/proc/{other}/fdinfo", "/proc/sys"):
        assert sorted((await asker.list(path))["found"])[2:] == sorted(one.name for one in Path(path).iterdir())


async def test_a_process_that_has_gone_has_no_descriptors(asker, hiding):
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        asker.say(f"/proc/{sleeper.pid}/fd", 512)
        assert (await asker_waits(hiding)) == sleeper.pid
        sleeper.kill()
    hiding.show({})
    said = await asker.heard()
    assert said["found"] == []


async def asker_waits(hiding: Hiding) -> int:
    """Whom it asks about."""
    async with asyncio.timeout(20):
        while hiding._waiting is None:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)
    return hiding._waiting.about


async def test_what_it_asks_when_nobody_answers_any_more_fails(asker, hiding, other):
    assert (await asker.list("/proc/sys"))["error"] == 0  # it has started: its Python looks through folders, too
    hiding.close()
    hiding.close()
    said = await asker.list(f"/proc/{other}/fd")
    assert (said["found"], said["error"]) == ([], 38)  # ENOSYS (seccomp_unotify(2))


async def test_its_end_is_noticed(asker, hiding, wait_until):
    asker.end()
    await wait_until(lambda: hiding._listener == -1)


async def test_its_end_while_it_waits_is_noticed_and_what_is_said_then_is_for_nobody(
    asker, hiding, other, wait_until, caplog
):
    asker.say(f"/proc/{other}/fd")
    await asker_waits(hiding)
    asker.end()
    await wait_until(lambda: hiding._listener == -1)
    hiding.show({other: all_but(other, [0])})
    assert caplog.messages == []


async def test_it_begins_when_the_tree_stands_still(asker, hiding, other):
    beginning = asyncio.create_task(asker.seize(other))
    async with asyncio.timeout(20):
        await hiding.is_ready.wait()
    assert procfs.status(other)["TracerPid"] == "0"
    hiding.begin()
    assert await beginning == 0
    assert procfs.status(other)["TracerPid"] == str(asker.process.pid)


async def test_it_begins_at_once_with_a_tree_that_stands_still(asker, hiding, other):
    hiding.begin()
    assert await asker.seize(other) == 0


async def test_with_any_other_process_too(asker, hiding):
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        assert await asker.seize(sleeper.pid) == 0
        asker.end()  # nobody else hears of its end while it is traced
        sleeper.kill()
    assert not hiding.is_ready.is_set()


async def test_it_cannot_begin_when_nobody_answers_any_more(asker, hiding, other):
    beginning = asyncio.create_task(asker.seize(other))
    async with asyncio.timeout(20):
        await hiding.is_ready.wait()
    hiding.close()
    assert await beginning == errno.ENOSYS
    assert procfs.status(other)["TracerPid"] == "0"


async def test_its_end_before_the_tree_stands_still_is_noticed_and_nobody_is_told_that_it_does(
    asker, hiding, other, wait_until, caplog
):
    asker._say(other)
    async with asyncio.timeout(20):
        await hiding.is_ready.wait()
    asker.end()
    await wait_until(lambda: hiding._listener == -1)
    hiding.begin()
    assert caplog.messages == []
