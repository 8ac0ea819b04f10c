"""Descriptors that a stopped process is given, whatever it has already: it has exactly these then, and those."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.kernel import Kernel
from checkpoint.processes import procfd, procfs
from checkpoint.sockets.giving import Door, Gift
from tests.harness.standing import standing_still
from tests.harness.told_child import ToldChild

KERNEL = Kernel()
DOOR = 300
EXAMPLES = 40

NUMBERS = st.integers(3, 40) | st.integers(3, DOOR - 1)
WANTED = st.dictionaries(NUMBERS, st.tuples(st.integers(0, 2), st.booleans()), max_size=25)
"""Which of ours, and whether it is closed on exec."""


class Scene:
    """A process that has the door far above, and files of ours."""

    def __init__(self) -> None:
        self.door, self.ours = Door(), [os.memfd_create(name) for name in ("one", "two", "three")]
        self.child = ToldChild(self.door.fd)
        self.child.tell(f"fcntl.fcntl({self.door.fd}, fcntl.F_DUPFD_CLOEXEC, {DOOR + 1})")

    def has(self, taken: set[int]) -> None:
        """It has standard input under all of these, and the door."""
        self.child.tell(f"os.closerange(3, {DOOR + 1}); os.dup2({DOOR + 1}, {DOOR}, inheritable=False)")
        self.child.tell(f"[os.dup2(0, number, inheritable=number % 2 > 0) for number in {taken}]")

    def table(self) -> dict[int, tuple[str, bool]]:
        """Where each descriptor leads, and whether it is closed on exec."""
        pid = self.child.pid
        found = map(int, procfs.names(f"/proc/{pid}/fd"))
        return {fd: (procfs.link(f"/proc/{pid}/fd/{fd}"), procfd.descriptor(pid, fd).close_on_exec) for fd in found}

    def close(self) -> None:
        self.child.close()
        self.door.close()
        for fd in self.ours:
            os.close(fd)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


@settings(max_examples=EXAMPLES)
@given(taken=st.sets(NUMBERS, max_size=25), wanted=WANTED)
def test_it_has_exactly_what_it_had_and_what_it_is_given(
    scene: Scene, taken: set[int], wanted: dict[int, tuple[int, bool]]
):
    scene.has(taken - wanted.keys())
    expected = scene.table()
    gifts = {number: Gift(scene.ours[which], closed) for number, (which, closed) in wanted.items()}
    with standing_still(scene.child.pid):
        scene.door.give(KERNEL, scene.child.pid, DOOR, gifts)
    del expected[DOOR]
    expected |= {number: (procfs.link(f"/proc/self/fd/{one.fd}"), one.close_on_exec) for number, one in gifts.items()}
    assert scene.table() == expected
