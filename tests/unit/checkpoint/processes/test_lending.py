"""Processes that are stopped, make system calls for us, and go on as if nothing had been: they say so themselves."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import lending, procfs
from checkpoint.processes.lending import ABI, Borrowed, can_lend
from checkpoint.processes.tracing import seized
from checkpoint.processes.tree import is_stopped, stat, threads
from tests.harness.standing import standing_still, until

KERNEL = Kernel()
ROOM = 8192
GETPID, CLOSE, READING = {"x86_64": (39, 3, 0), "aarch64": (172, 57, 63)}[platform.machine()]
READ_WRITE, PRIVATE_ANONYMOUS = 3, 0x22  # mmap(2)
FAR_TOO_MUCH = 1 << 62

PLAIN = os.environ | {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
"""An environment in which the kernel writes into no process by itself, as it does to say on which processor one runs
(rseq(2))."""

PROLOGUE = """
import ctypes, os, signal, sys, threading
from signal import SIGTRAP, SIGUSR1
libc = ctypes.CDLL(None, use_errno=True)
seen = []
signal.signal(SIGUSR1, lambda *_: seen.append("signalled"))
def say(*words):
    print(*words, flush=True)
def call(what, *arguments):
    say("up")
    return what(*arguments), ctypes.get_errno()
"""
READ = "buffer = ctypes.create_string_buffer(4); say(*call(libc.read, 0, buffer, 4), buffer.raw, *seen)"

Child = subprocess.Popen[bytes]
Start = Callable[[str], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """Have a process run some Python; it is `up` then."""
    made: list[Child] = []

    def begin(body: str) -> Child:
        argv = [sys.executable, "-I", "-S", "-c", PROLOGUE + body]
        made.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=PLAIN))
        assert said(made[-1]) == "up"
        return made[-1]

    yield begin
    for child in made:
        child.kill()
        child.communicate()


def said(child: Child) -> str:
    assert child.stdout is not None
    return child.stdout.readline().decode().strip()


def write(child: Child) -> None:
    assert child.stdin is not None
    child.stdin.write(b"more")
    child.stdin.flush()


def signalled(child: Child) -> None:
    """As soon as it waits again: a handler that has it go on does not hide that it did not."""
    until(lambda: waits(child))
    os.kill(child.pid, signal.SIGUSR1)


def waits(child: Child) -> bool:
    """All of its threads, in the kernel."""
    states = [stat(child.pid, tid) for tid in threads(child.pid)]
    return all(one is not None and one.state == "S" for one in states)


def account(pid: int) -> dict[str, object]:
    """Of a process that is stopped, or will be presently: all that the kernel tells."""
    until(lambda: is_stopped(pid))
    found: dict[str, object] = {"memory": memory_of(pid)}
    for tid in threads(pid):
        said, task = procfs.status(tid), Path(f"/proc/{pid}/task/{tid}")
        found |= {f"{tid} {name}": said[name] for name in ("State", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")}
        found[f"{tid} waits in"] = (task / "syscall").read_text()
    with seized(KERNEL, pid):
        assert ABI is not None
        found["registers"] = KERNEL.words(pid, ABI.words)
    return found


def memory_of(pid: int) -> dict[str, str]:
    """A digest of each area that it may write to, and what there is besides."""
    found = {}
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            raw = os.pread(memory.fileno(), end - start, start) if " rw" in line else b""
            found[line] = hashlib.md5(raw).hexdigest()
    return found


def lend(pid: int) -> None:
    with Borrowed(KERNEL, pid, ROOM) as borrowed:
        assert [borrowed.call(GETPID) for _ in range(3)] == [pid] * 3
        borrowed.write(borrowed.room, bytes(range(256)) * (ROOM // 256))


def lend_without_a_trace(pid: int) -> None:
    before = account(pid)
    lend(pid)
    assert account(pid) == before


@pytest.mark.parametrize(
    ("body", "end", "ending"),
    [
        (READ, write, "4 0 b'more'"),
        # To go on it needs what the kernel has kept of it (restart_syscall(2)).
        ("from_where = ctypes.create_string_buffer(b'\\0\\0\\0\\0\\1\\0\\0\\0', 8)\n"
         "say(*call(libc.poll, from_where, 1, 60_000))", write, "1 0"),
        ("long = (ctypes.c_long * 2)(1000, 0); left = (ctypes.c_long * 2)()\n"
         "say(*call(libc.nanosleep, long, left), 900 < left[0] < 1000, *seen)", signalled, "-1 4 True signalled"),
    ],
    ids=["read", "poll", "nanosleep"],
)  # fmt: skip
def test_who_waits_waits_on(start: Start, body: str, end: Callable[[Child], None], ending: str):
    child = start(body)
    until(lambda: waits(child))
    with standing_still(child.pid):
        lend_without_a_trace(child.pid)
    end(child)
    assert said(child) == ending


def test_who_computes_computes_on(start: Start):
    """Outside the kernel: its registers are all its own."""
    child = start("say('up')\nsums = set()\nwhile not seen:\n    sums.add(sum(range(1000)))\nsay(sums, *seen)")
    began = computed(child)
    until(lambda: computed(child) > began + 1_000_000)
    with standing_still(child.pid):
        assert str(account(child.pid)[f"{child.pid} waits in"]).startswith("-1 ")
        lend_without_a_trace(child.pid)
    os.kill(child.pid, signal.SIGUSR1)
    assert said(child) == "{499500} signalled"


def computed(child: Child) -> int:
    """Nanoseconds (K: Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{child.pid}/schedstat").read_text().split()[0])


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ("call(libc.pause); say(*seen); os.read(0, 4)", "signalled"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [SIGUSR1]); result = call(libc.read, 0, bytes(4), 4)\n"
         "signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR1]); say(*result, *seen)", "4 0 signalled"),
    ],
    ids=["open", "blocked"],
)  # fmt: skip
def test_signals_that_came_while_it_was_stopped_wait_for_it(start: Start, body: str, ending: str):
    """Each is told of once, when it runs, and ends no call of ours."""
    child = start(body)
    until(lambda: waits(child))
    with standing_still(child.pid):
        for _ in range(2):
            os.kill(child.pid, signal.SIGUSR1)
        assert int(str(account(child.pid)[f"{child.pid} ShdPnd"]), 16) >> (signal.SIGUSR1 - 1) & 1
        lend_without_a_trace(child.pid)
    write(child)
    assert said(child) == ending


def test_one_that_it_waits_for_under_another_mask_ends_its_waiting(start: Start):
    """It has the mask of before already when it is given back, and the call, made again, sets the other once more."""
    child = start(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [SIGUSR1]); none = ctypes.create_string_buffer(128)\n"
        "say(*call(libc.sigsuspend, none), signal.pthread_sigmask(signal.SIG_BLOCK, []) == {SIGUSR1}, *seen)"
    )
    until(lambda: waits(child))
    with standing_still(child.pid):
        os.kill(child.pid, signal.SIGUSR1)
        lend(child.pid)
        until(lambda: is_stopped(child.pid))
    assert said(child) == "-1 4 True signalled"


@pytest.mark.parametrize(
    "trap",
    ["signal.signal(SIGTRAP, signal.SIG_IGN)", "signal.signal(SIGTRAP, lambda *_: seen.append('trapped'))",
     "signal.pthread_sigmask(signal.SIG_BLOCK, [SIGTRAP])"],
    ids=["ignored", "handled", "blocked"],
)  # fmt: skip
def test_what_it_does_with_the_signal_of_debuggers_is_its_own(start: Start, trap: str):
    child = start(f"{trap}\n{READ}")
    until(lambda: waits(child))
    with standing_still(child.pid):
        lend_without_a_trace(child.pid)
    write(child)
    assert said(child) == "4 0 b'more'"


def test_its_other_threads_stand_still_meanwhile_and_go_on(start: Start):
    body = (
        "ends = [os.pipe() for _ in range(3)]\n"
        "told = [threading.Thread(target=lambda end=end: seen.append(os.read(end, 1))) for end, _ in ends]\n"
        "[one.start() for one in told]\n"
        "say(*call(libc.read, 0, bytes(4), 4)); [os.write(end, b'x') for _, end in ends]\n"
        "[one.join() for one in told]; say(*seen)"
    )
    child = start(body)
    until(lambda: waits(child))
    with standing_still(child.pid):
        assert len(threads(child.pid)) == 4
        before = account(child.pid)
        with Borrowed(KERNEL, child.pid, ROOM):
            states = {tid: one.state for tid in threads(child.pid) if (one := stat(child.pid, tid)) is not None}
            assert states == dict.fromkeys(threads(child.pid), "T") | {child.pid: "t"}
        assert account(child.pid) == before
    write(child)
    assert [said(child) for _ in range(2)] == ["4 0", "b'x' b'x' b'x'"]


@pytest.fixture
def waiting() -> Iterator[Child]:
    """One that is stopped while it waits for something to read."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=PLAIN) as child:
        until(lambda: waits(child) and Path(f"/proc/{child.pid}/syscall").read_text().startswith(f"{READING} 0x0 "))
        with standing_still(child.pid):
            yield child
        child.kill()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_who_was_told_once_more_to_stop_is_borrowed_and_goes_on_when_told(waiting: Child, number: signal.Signals):
    os.kill(waiting.pid, number)
    lend(waiting.pid)
    until(lambda: is_stopped(waiting.pid))
    os.kill(waiting.pid, signal.SIGCONT)
    write(waiting)
    assert waiting.stdout is not None
    assert waiting.stdout.read(4) == b"more"


def test_what_a_call_does_is_done_there(waiting: Child):
    assert ABI is not None
    with Borrowed(KERNEL, waiting.pid, ROOM) as borrowed:
        at = borrowed.call(ABI.mmap, 0, ROOM, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
        assert is_mapped(waiting.pid, at)
        assert is_mapped(waiting.pid, borrowed.room)
        borrowed.write(at + 5, b"there")
        assert borrowed.read(at, 12) == b"\0\0\0\0\0there\0\0"
        assert borrowed.call(ABI.munmap, at, ROOM) == 0
        assert not is_mapped(waiting.pid, at)
        assert borrowed.call(CLOSE, 0) == 0
    assert not is_mapped(waiting.pid, borrowed.room)
    assert procfs.names(f"/proc/{waiting.pid}/fd") == ["1", "2"]


def is_mapped(pid: int, at: int) -> bool:
    bounds = (line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return any(int(start, 16) <= at < int(end, 16) for start, end in bounds)


def test_what_a_call_fails_with_is_raised_and_it_can_be_made_another(waiting: Child):
    assert ABI is not None
    wrong = {
        errno.EBADF: (CLOSE, -1),
        errno.ENOMEM: (ABI.mmap, 0, FAR_TOO_MUCH, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0),
        errno.EINVAL: (ABI.munmap, 1, ROOM),
        errno.ENOSYS: (4094,),
    }
    before = account(waiting.pid)
    with Borrowed(KERNEL, waiting.pid, ROOM) as borrowed:
        for number, call in wrong.items():
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                borrowed.call(*call)
            assert caught.value.errno == number
            assert borrowed.call(GETPID) == waiting.pid
    assert account(waiting.pid) == before


def test_it_is_given_back_whatever_we_fail_with(waiting: Child):
    before = account(waiting.pid)
    with pytest.raises(KeyError), Borrowed(KERNEL, waiting.pid, ROOM):
        raise KeyError
    assert account(waiting.pid) == before
    with pytest.raises(OSError, match="allocate") as caught, Borrowed(KERNEL, waiting.pid, FAR_TOO_MUCH):
        pass
    assert caught.value.errno == errno.ENOMEM
    assert account(waiting.pid) == before


STEPS = ["words", "set_words", "blocked_signals", "block_signals", "run_to_call", "let_go"]


@pytest.mark.parametrize("step", STEPS)
def test_who_is_killed_meanwhile_is_not_waited_for(waiting: Child, step: str):
    kernel = Kernel()
    taken = getattr(kernel, step)

    def killing(tid: int, *arguments: object) -> object:
        os.kill(tid, signal.SIGKILL)
        return taken(tid, *arguments)

    setattr(kernel, step, killing)
    with pytest.raises(ProcessLookupError), Borrowed(kernel, waiting.pid, ROOM):
        pass


def test_who_is_killed_while_it_runs_is_not_waited_for(waiting: Child):
    class Late(Kernel):
        def run_to_call(self, tid: int) -> None:
            super().run_to_call(tid)
            os.kill(tid, signal.SIGKILL)

    with pytest.raises(ProcessLookupError), Borrowed(Late(), waiting.pid, ROOM):
        pass


def test_who_is_killed_between_two_calls_is_not_waited_for(waiting: Child):
    with pytest.raises(ProcessLookupError), Borrowed(KERNEL, waiting.pid, ROOM) as borrowed:  # noqa: PT012
        assert borrowed.call(GETPID) == waiting.pid
        os.kill(waiting.pid, signal.SIGKILL)
        borrowed.write(borrowed.room, b"what for")
        borrowed.call(GETPID)


def test_who_is_gone_cannot_be_borrowed(waiting: Child):
    """Whether or not it has been waited for."""
    waiting.kill()
    until(lambda: (one := stat(waiting.pid)) is not None and one.state == "Z")
    for _ in range(2):
        with pytest.raises((ProcessLookupError, FileNotFoundError)), Borrowed(KERNEL, waiting.pid, ROOM):
            pass
        waiting.wait()


def test_a_machine_that_is_not_known_has_none(waiting: Child, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lending, "ABI", None)
    assert not can_lend(waiting.pid)
    with pytest.raises(OSError, match="not known") as caught:
        Borrowed(KERNEL, waiting.pid, ROOM)
    assert caught.value.errno == errno.ENOSYS


def test_programs_of_this_machine_can(waiting: Child):
    assert can_lend(waiting.pid)
    assert can_lend(os.getpid())


def test_what_runs_a_script_is_asked_about_and_not_the_script(tmp_path: Path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho up; read line\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert said(child) == "up"
        assert can_lend(child.pid)


@pytest.mark.parametrize("head", [b"\x7fELF\1\1\1", b"#!/bin/sh\n", b""])
def test_programs_of_another_kind_cannot(head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those of 32 bits above all, which call the kernel by other numbers. Not every kernel runs such a one: so it is
    put where the kernel shows it."""
    (tmp_path / "exe").write_bytes(head)
    asked: list[str] = []
    monkeypatch.setattr(lending, "Path", lambda name: asked.append(name) or tmp_path / "exe")
    assert not can_lend(7)
    assert asked == ["/proc/7/exe"]


def test_of_a_process_that_is_gone_it_is_not_known(waiting: Child):
    waiting.kill()
    waiting.wait()
    with pytest.raises(FileNotFoundError):
        can_lend(waiting.pid)
