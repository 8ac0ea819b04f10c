"""Epolls that begin to watch: the kernel's own account of what they do, and what they tell then."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import procfd, procfs
from checkpoint.sockets import epolls
from checkpoint.sockets.watches import Target, Watches

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
    found = [epolls._target(line) for line in procfd.watched(os.getpid(), epoll)]
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


Asked = tuple[int, Sequence[Target]]
"""An epoll of ours, and what it is to watch."""


def begin(*asked: Asked, guessed: Callable[[Target], int] = lambda one: one.number) -> None:
    watches = Watches(KERNEL)
    try:
        watches.place({one.fd: guessed(one) for _, targets in asked for one in targets})
        watches.begin([((os.getpid(), epoll), targets) for epoll, targets in asked])
    finally:
        watches.close()


def test_each_is_watched_as_it_is_asked_for(made: ExitStack):
    """Whatever happens of it the epoll says with its data, as often as was asked."""
    level, edge, once = ends(made, 3)
    epoll = made.enter_context(select.epoll())
    targets = [
        Target(level, FAR, IN | OUT, DATA),
        Target(edge, FAR + 1, IN | EDGE, 1),
        Target(once, FAR + 2, IN | ONE_SHOT, 2),
    ]
    begin((epoll.fileno(), targets))
    assert watched(epoll.fileno()) == wanted(targets)
    assert dict(epoll.poll(0)) == {DATA_SHOWN: IN | OUT, 1: IN, 2: IN}
    assert dict(epoll.poll(0)) == {DATA_SHOWN: IN | OUT}


@pytest.mark.parametrize(
    "guessed",
    [lambda one: one.number, lambda one: one.fd, lambda one: FAR + 7, lambda one: one.number + 1, lambda one: 1 << 30],
    ids=["right", "as they are", "all the same", "wrong", "too high"],
)
def test_numbers_may_be_those_of_ours_in_every_order(made: ExitStack, guessed: Callable[[Target], int]):
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
        asked = [(numbers[-2], one), (numbers[-1], other)]
        begin(*asked, guessed=guessed)
        assert [watched(epoll) for epoll, _ in asked] == [wanted(targets) for _, targets in asked]
    assert table() == before


def test_nothing_is_watched_where_nothing_is_wanted(made: ExitStack):
    epoll = made.enter_context(select.epoll()).fileno()
    begin()
    begin((epoll, []))
    assert watched(epoll) == []


@pytest.mark.parametrize("wrong", [errno.EEXIST, errno.EPERM, errno.EINVAL, errno.EBADF])
def test_what_cannot_be_watched_is_an_error(made: ExitStack, wrong: int):
    """A number twice, what no epoll watches, what is no epoll, and what is not there; we have what we had."""
    one, other = ends(made, 2)
    epoll, file = made.enter_context(select.epoll()).fileno(), os.open("/dev/null", os.O_RDONLY)
    made.callback(os.close, file)
    asked = {
        errno.EEXIST: (epoll, [Target(one, FAR, IN, 1), Target(one, FAR, IN, 2)]),
        errno.EPERM: (epoll, [Target(one, FAR, IN, 1), Target(file, FAR + 1, IN, 2)]),
        errno.EINVAL: (other, [Target(one, FAR, IN, 1)]),
        errno.EBADF: (epoll, [Target(GONE, FAR, IN, 1)]),
    }
    before = table()
    with pytest.raises(OSError, match=os.strerror(wrong)) as caught:
        begin(asked[wrong])
    assert caught.value.errno == wrong
    assert table() == before


def test_what_is_ours_may_be_closed_while_they_wait(made: ExitStack):
    """Nobody else has a duplicate of it then, or the other end would wait for ever; what is wanted stays."""
    (one,) = ends(made, 1)
    epoll = made.enter_context(select.epoll()).fileno()
    ours, theirs = socket.socketpair()
    watches, target = Watches(KERNEL), Target(one, FAR, IN, DATA)
    watches.place({one: FAR})
    try:
        ours.close()
        theirs.settimeout(30)
        assert theirs.recv(1) == b""
        watches.begin([((os.getpid(), epoll), [target])])
        assert watched(epoll) == wanted([target])
    finally:
        watches.close()
        theirs.close()


def test_what_is_placed_is_held_until_it_is_closed():
    one, other = socket.socketpair()
    watches = Watches(KERNEL)
    watches.place({one.fileno(): FAR})
    one.close()
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    watches.close()
    assert other.recv(1) == b""
    other.close()
