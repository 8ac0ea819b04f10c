"""Epolls that begin to watch: the kernel's own account of what they do, and what they tell then."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfs
from checkpoint.sockets import epolls, watches
from checkpoint.sockets.watches import Target, Watch

KERNEL = Kernel()
IN, OUT, ONE_SHOT, EDGE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLONESHOT, 1 << 31
ALWAYS = 0x18  # EPOLLERR, EPOLLHUP: watched for unasked (epoll_ctl(2))
DATA = 0xFEDC_BA98_7654_3210
DATA_SHOWN = 0x7654_3210
"""As Python has it."""
FAR, GONE = 500, 600


@pytest.fixture
def made() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ends(stack: ExitStack, count: int) -> list[int]:
    """Sockets, each of which has something to be read."""
    found = []
    for _ in range(count):
        one, other = socket.socketpair()
        found.append(stack.enter_context(one).fileno())
        stack.enter_context(other).send(b"x")
    return found


def watched(epoll: int) -> list[tuple[int, int, int, int]]:
    """Number, events, data and inode of each."""
    found = [epolls._target(line) for line in procfs.watched(os.getpid(), epoll)]
    return sorted((one.fd, one.events, one.data, one.ino) for one in found)


def wanted(targets: Sequence[Target]) -> list[tuple[int, int, int, int]]:
    return sorted((one.number, one.events | ALWAYS, one.data, os.fstat(one.fd).st_ino) for one in targets)


def table() -> dict[str, tuple[str, str]]:
    """Ours: where each descriptor leads, and its flags."""
    found = {}
    for name in procfs.names("/proc/self/fd"):
        if link := procfs.link(f"/proc/self/fd/{name}"):  # or it was the listing's own
            flags = next(line for line in Path(f"/proc/self/fdinfo/{name}").read_text().splitlines() if "flags" in line)
            found[name] = link, flags
    return found


def test_each_is_watched_as_it_is_asked_for(made: ExitStack):
    """Whatever happens of it the epoll says with its data, as often as was asked."""
    level, edge, once = ends(made, 3)
    epoll = made.enter_context(select.epoll())
    targets = [
        Target(level, FAR, IN | OUT, DATA),
        Target(edge, FAR + 1, IN | EDGE, 1),
        Target(once, FAR + 2, IN | ONE_SHOT, 2),
    ]
    watches.begin(KERNEL, [Watch(epoll.fileno(), targets)])
    assert watched(epoll.fileno()) == wanted(targets)
    assert dict(epoll.poll(0)) == {DATA_SHOWN: IN | OUT, 1: IN, 2: IN}
    assert dict(epoll.poll(0)) == {DATA_SHOWN: IN | OUT}


def test_numbers_may_be_those_of_ours_in_every_order(made: ExitStack):
    """Of others that are to be watched, of epolls, and of what has nothing to do with it; and one socket may be watched
    by two epolls, and by one, under several."""
    sockets, stranger = ends(made, 3), made.enter_context(socket.socket()).fileno()
    numbers = [*sockets, stranger, *(made.enter_context(select.epoll()).fileno() for _ in range(2))]
    before = table()
    for some in itertools.permutations(numbers, 3):
        for number in numbers[-2:]:  # at the same numbers again, and watching nothing
            with select.epoll() as fresh:
                os.dup2(fresh.fileno(), number, inheritable=False)
        one = [Target(*each, IN, 1) for each in zip(sockets, some, strict=True)]
        other = [Target(*each, OUT, 2) for each in zip(sockets, (some[1], FAR, some[0]), strict=True)]
        other.append(Target(sockets[0], some[2], IN, 3))
        asked = [Watch(numbers[-2], one), Watch(numbers[-1], other)]
        watches.begin(KERNEL, asked)
        assert [watched(each.epoll) for each in asked] == [wanted(each.targets) for each in asked]
    assert table() == before


def test_nothing_is_watched_where_nothing_is_wanted(made: ExitStack):
    epoll = made.enter_context(select.epoll()).fileno()
    watches.begin(KERNEL, [])
    watches.begin(KERNEL, [Watch(epoll, [])])
    assert watched(epoll) == []


@pytest.mark.parametrize("wrong", [errno.EEXIST, errno.EPERM, errno.EINVAL, errno.EBADF])
def test_what_cannot_be_watched_is_an_error(made: ExitStack, wrong: int):
    """A number twice, what no epoll watches, what is no epoll, and what is not there; we have what we had."""
    one, other = ends(made, 2)
    epoll, file = made.enter_context(select.epoll()).fileno(), os.open("/dev/null", os.O_RDONLY)
    made.callback(os.close, file)
    asked = {
        errno.EEXIST: Watch(epoll, [Target(one, FAR, IN, 1), Target(one, FAR, IN, 2)]),
        errno.EPERM: Watch(epoll, [Target(one, FAR, IN, 1), Target(file, FAR + 1, IN, 2)]),
        errno.EINVAL: Watch(other, [Target(one, FAR, IN, 1)]),
        errno.EBADF: Watch(epoll, [Target(GONE, FAR, IN, 1)]),
    }
    before = table()
    with pytest.raises(OSError, match=os.strerror(wrong)) as caught:
        watches.begin(KERNEL, [asked[wrong]])
    assert caught.value.errno == wrong
    assert table() == before
