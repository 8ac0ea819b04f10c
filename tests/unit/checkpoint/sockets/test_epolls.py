"""What the epolls of a child watch: the kernel's own account of it, held against the descriptors that are there."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

import pytest

from checkpoint.core.descriptors import Epoll
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import hold_all
from checkpoint.sockets import duplicates, epolls
from checkpoint.sockets.epolls import OddError, Watching
from tests.harness.told_child import ToldChild

IN, OUT, ONE_SHOT, EDGE = 1, 4, 1 << 30, 1 << 31
ODD = (OddError, OSError)
"""Where nothing is open under the number, the kernel says EBADF."""
ALWAYS = 0x18  # EPOLLERR, EPOLLHUP: watched for unasked (epoll_ctl(2))


class Child(ToldChild):
    def __init__(self) -> None:
        super().__init__()
        self.tell("one, other = socket.socketpair(socket.AF_UNIX); epoll = select.epoll()")
        self.tell("wanted, unwanted = socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0))")

    def watched(self, *names: str, watching: Watching | None = None) -> list[Epoll]:
        """The epolls that watch these sockets."""
        tree = hold_all(Kernel(), self.pids)
        inventory, opened = duplicates.looked_for(Kernel(), tree)
        try:
            inodes = {place: ino for ino, places in inventory.connections.items() for place in places}
            wanted = {self.ino(name) for name in names}
            return (watching or Watching()).watching(Kernel(), inventory.epolls, inodes, wanted)
        finally:
            opened.close()
            tree.close()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


def targets(epoll: Epoll) -> dict[int, int]:
    return {one.fd: one.events for one in epoll.targets}


def test_what_an_epoll_watches_is_said_as_it_was_asked_for(child):
    child.tell("epoll.register(wanted, select.EPOLLIN | select.EPOLLET | select.EPOLLONESHOT)")
    child.tell("epoll.register(one, select.EPOLLOUT)")
    (found,) = child.watched("wanted")
    assert found.places == [child.place("epoll")]
    assert found.flags == os.O_RDWR
    wanted, one = child.fd["wanted"], child.fd["one"]
    assert targets(found) == {wanted: IN | EDGE | ONE_SHOT | ALWAYS, one: OUT | ALWAYS}
    said = {target.fd: target for target in found.targets}
    assert [said[wanted].data & 0xFFFFFFFF, said[one].data & 0xFFFFFFFF] == [wanted, one]
    assert (said[wanted].ino, said[one].ino) == (child.ino("wanted"), child.ino("one"))
    assert said[wanted].device == child.stat("wanted").st_dev
    assert said[wanted].position == 0


def test_an_epoll_that_watches_others_alone_is_not_said(child):
    child.tell("epoll.register(unwanted, select.EPOLLIN); second = select.epoll(); second.register(one)")
    assert child.watched("wanted") == []
    child.tell("third = select.epoll(); third.register(wanted)")
    assert [one.places for one in child.watched("wanted")] == [[child.place("third")]]


def test_a_socket_may_be_watched_by_several(child):
    child.tell("second = select.epoll(); second.register(wanted); epoll.register(wanted)")
    assert [one.places for one in child.watched("wanted")] == [[child.place("epoll")], [child.place("second")]]


def test_one_epoll_may_be_open_in_several_places(child):
    """Of a process, and of one that it has forked; two epolls that watch the same are two."""
    child.tell("copy = select.epoll.fromfd(os.dup(epoll.fileno())); second = select.epoll()")
    child.tell("epoll.register(wanted); second.register(wanted)")
    forked = child.fork()
    first, second = child.watched("wanted")
    names = ("epoll", "copy")
    assert first.places == sorted((pid, child.fd[name]) for pid in (child.pids[0], forked) for name in names)
    assert second.places == [(pid, child.fd["second"]) for pid in sorted((child.pids[0], forked))]


def test_an_epoll_that_watches_such_an_epoll_is_one_too(child):
    child.tell("epoll.register(wanted); outer = select.epoll(); outer.register(epoll)")
    child.tell("outermost = select.epoll(); outermost.register(outer); beside = select.epoll(); beside.register(one)")
    found = [one.places for one in child.watched("wanted")]
    assert sorted(found) == [[child.place(name)] for name in ("epoll", "outer", "outermost")]


def test_a_target_under_another_number_is_odd(child):
    """It was closed there, and is open elsewhere: CRIU would look for it."""
    child.tell("epoll.register(wanted); epoll.register(unwanted)")
    child.tell("copy = socket.socket(fileno=os.dup(unwanted.fileno())); unwanted.close()")
    with pytest.raises(ODD):
        child.watched("wanted")


def test_a_number_that_is_anothers_since_is_odd(child):
    child.tell("epoll.register(wanted); epoll.register(unwanted); copy = unwanted.dup(); number = unwanted.fileno()")
    child.tell("unwanted.close(); later = socket.socket()")
    child.tell("assert later.fileno() == number")
    with pytest.raises(OddError, match="no longer descriptor"):
        child.watched("wanted")
    child.tell("epoll.register(later)")
    with pytest.raises(OddError, match="two files under one number"):
        child.watched("wanted")


@pytest.mark.parametrize("other", ["one", "select.epoll()", "os.fdopen(os.pipe()[0], 'rb', 0)"])
def test_what_is_no_tcp_socket_is_asked_of_the_kernel(child, other):
    """Whether it is where its number says: the inodes of those nobody has."""
    child.tell(f"epoll.register(wanted); file = {other}; epoll.register(file)")
    assert len(child.watched("wanted")) == 1
    child.tell("copy = os.fdopen(os.dup(file.fileno()), 'rb', 0); number = file.fileno(); file.close(); one = None")
    child.tell("os.dup2(os.open('/dev/null', 0), number)")
    with pytest.raises(ODD):
        child.watched("wanted")


def test_what_a_forked_process_alone_has_is_odd(child):
    """CRIU makes the epoll in the first process that has it."""
    child.tell("epoll.register(unwanted)")
    child.fork()
    child.tell("copy = unwanted.dup(); unwanted.close(); epoll.register(wanted)")
    with pytest.raises(ODD):
        child.watched("wanted")


def test_what_was_learnt_is_not_read_again(child, monkeypatch):
    watching = Watching()
    child.tell("epoll.register(wanted)")
    watching.learn([child.place("epoll"), child.place("one"), (child.pids[0], 1 << 20), (1 << 22, 3)])
    read: list[str] = []
    target: Callable[[str], object] = epolls._target
    monkeypatch.setattr(epolls, "_target", lambda line: read.append(line) or target(line))
    assert child.watched("wanted", watching=watching) == child.watched("wanted")
    assert len(read) == 1  # by the one that has learnt nothing
    child.tell("epoll.modify(wanted, select.EPOLLOUT)")
    (found,) = child.watched("wanted", watching=watching)
    assert targets(found) == {child.fd["wanted"]: OUT | ALWAYS}
    assert len(read) == 2
    child.tell("new = select.epoll(); new.register(wanted, select.EPOLLPRI); os.dup2(new.fileno(), epoll.fileno())")
    child.tell("new.close()")
    (found,) = child.watched("wanted", watching=watching)  # what has the number now
    assert targets(found) == {child.fd["wanted"]: select.EPOLLPRI | ALWAYS}
    watching.close()
    assert child.watched("wanted", watching=watching) == [found]


def test_many_epolls_are_not_told_apart(child):
    child.tell("epoll.register(wanted); more = [select.epoll() for _ in range(63)]")
    assert len(child.watched("wanted")) == 1
    child.tell("last = select.epoll()")
    with pytest.raises(OddError, match="many"):
        child.watched("wanted")
