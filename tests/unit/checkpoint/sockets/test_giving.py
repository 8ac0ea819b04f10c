"""Descriptors that a stopped child gets from us: the kernel's own account of what it has then."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfd, procfs
from checkpoint.sockets.giving import Door, Gift
from tests.harness.standing import standing_still
from tests.harness.told_child import ToldChild

KERNEL = Kernel()
NUMBER = 900
CLONE = {"x86_64": 56, "aarch64": 220}[platform.machine()]


class Scene:
    """A child that has the door, and what we may give to it."""

    def __init__(self) -> None:
        self.door = Door()
        self.child = ToldChild(self.door.fd)
        self.child.tell(f"fcntl.fcntl({self.door.fd}, fcntl.F_DUPFD_CLOEXEC, {NUMBER}); os.close({self.door.fd})")
        self.ours = [end for _ in range(3) for end in socket.socketpair()]

    def gift(self, which: int, *, close_on_exec: bool = True) -> Gift:
        return Gift(self.ours[which % len(self.ours)].fileno(), close_on_exec)

    def give(self, wanted: Mapping[int, Gift], number: int = NUMBER, pid: int = 0) -> None:
        with standing_still(pid or self.child.pid):
            self.door.give(KERNEL, pid or self.child.pid, number, wanted)

    def numbers(self) -> set[int]:
        return set(map(int, procfs.names(f"/proc/{self.child.pid}/fd")))

    def has(self, wanted: Mapping[int, Gift]) -> bool:
        """Whether it has these, besides the first three, and nothing else."""
        pid = self.child.pid
        assert self.numbers() == {0, 1, 2, *wanted}
        for number, gift in wanted.items():
            assert KERNEL.are_one_file((os.getpid(), gift.fd), (pid, number))
            assert procfd.descriptor(pid, number).close_on_exec == gift.close_on_exec
        return True

    def close(self) -> None:
        self.child.close()
        self.door.close()
        for one in self.ours:
            one.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


@pytest.mark.parametrize("numbers", [[3], [3, 4, 5], [800], [3, 7, 8, 9, 300, 302], range(3, 290), range(10, 899)])
def test_each_gets_the_number_it_is_to_have(scene: Scene, numbers: list[int]):
    """Whatever stays free in between, and however many messages that takes; and the door is gone."""
    wanted = {number: scene.gift(number) for number in numbers}
    scene.give(wanted)
    assert scene.has(wanted)


@pytest.mark.parametrize("closed", [0b0, 0b1, 0b10, 0b0110_0101])
def test_each_is_closed_on_exec_or_not_as_it_is_to_be(scene: Scene, closed: int):
    wanted = {3 + at * 2: scene.gift(at, close_on_exec=bool(closed >> at & 1)) for at in range(8)}
    scene.give(wanted)
    assert scene.has(wanted)


def test_what_it_is_given_works(scene: Scene):
    scene.give({5: scene.gift(0), 7: scene.gift(0)})
    scene.child.tell("os.write(5, b'five'); os.write(7, b'seven')")
    assert scene.ours[1].recv(9, socket.MSG_WAITALL) == b"fiveseven"


def test_where_nothing_is_wanted_the_door_is_closed(scene: Scene):
    scene.give({})
    assert scene.has({})


def test_what_it_has_already_stays(scene: Scene):
    scene.child.tell("kept = [fcntl.fcntl(0, fcntl.F_DUPFD, at) for at in (4, 6, 700)]")
    scene.give({3: scene.gift(0), 5: scene.gift(1), 701: scene.gift(2)})
    assert scene.numbers() == {0, 1, 2, 3, 4, 5, 6, 700, 701}
    pid = scene.child.pid
    assert all(KERNEL.are_one_file((pid, 0), (pid, kept)) for kept in (4, 6, 700))


def test_one_that_it_has_already_is_not_given_up(scene: Scene):
    """Nor passed over in silence: a copy without its connection looks like one with it."""
    scene.child.tell("fcntl.fcntl(0, fcntl.F_DUPFD, 5)")
    with pytest.raises(OSError, match="have these numbers already") as caught:
        scene.give({4: scene.gift(0), 5: scene.gift(1)})
    assert caught.value.errno == errno.EEXIST
    assert KERNEL.are_one_file((scene.child.pid, 0), (scene.child.pid, 5))


def test_whoever_shares_its_table_has_them_too(scene: Scene):
    """And is given nothing a second time (clone(2), CLONE_FILES)."""
    scene.child.tell("import ctypes; libc = ctypes.CDLL(None)")
    scene.child.tell(f"libc.syscall({CLONE}, 0x400 | {signal.SIGCHLD}, 0, 0, 0, 0) or libc.pause()")
    other = int(Path(f"/proc/{scene.child.pid}/task/{scene.child.pid}/children").read_text())
    scene.child.pids.append(other)
    wanted = {4: scene.gift(0), 6: scene.gift(1)}
    with standing_still(other):
        scene.give(wanted)
        scene.door.give(KERNEL, other, NUMBER, wanted)
    assert scene.has(wanted)


def test_where_there_are_threads_its_table_is_as_large_as_it_was(scene: Scene):
    """The door has made it so: the kernel takes 10 ms and more to make one larger that threads share."""
    scene.child.tell(
        "import threading; end = threading.Event(); threading.Thread(target=end.wait, daemon=True).start()"
    )
    pid = scene.child.pid
    before = procfs.status(pid)["FDSize"]
    wanted = {number: scene.gift(number) for number in range(3, NUMBER)}
    scene.give(wanted)
    assert scene.has(wanted)
    assert procfs.status(pid)["FDSize"] == before
    scene.child.tell("end.set()")


def test_through_another_number_nothing_is_given(scene: Scene):
    for number, wrong in ((NUMBER + 1, errno.EBADF), (1, errno.ENOTSOCK)):
        with pytest.raises(OSError, match=os.strerror(wrong)) as caught:
            scene.give({5: scene.gift(0)}, number)
        assert caught.value.errno == wrong
        assert scene.numbers() == {0, 1, 2, NUMBER}


def test_who_may_not_have_so_many_is_not_given_some(scene: Scene):
    """Nobody is told how many he got: so it is looked at."""
    resource.prlimit(scene.child.pid, resource.RLIMIT_NOFILE, (8, 8))
    with pytest.raises(OSError, match="did not get their numbers"):
        scene.give({5: scene.gift(0), 8: scene.gift(1)})


def test_whoever_is_gone_is_given_nothing(scene: Scene):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as gone:
        gone.kill()
    with pytest.raises(FileNotFoundError):
        scene.door.give(KERNEL, gone.pid, NUMBER, {5: scene.gift(0)})


def test_whoever_is_killed_meanwhile_is_not_waited_for(scene: Scene):
    class Late(Kernel):
        def seize(self, tid: int) -> None:
            super().seize(tid)
            os.kill(tid, signal.SIGKILL)

    pid = scene.child.fork()
    with standing_still(pid), pytest.raises(ProcessLookupError):
        scene.door.give(Late(), pid, NUMBER, {5: scene.gift(0)})
