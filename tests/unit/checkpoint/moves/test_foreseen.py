"""Connections of a child that runs, and what can be said of them before the freeze and in it: the kernel's own."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from checkpoint.api import Changed, Connections, Socket
from checkpoint.core import pairs
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added
from checkpoint.kernel import Kernel
from checkpoint.moves import foreseen as module
from checkpoint.moves.foreseen import Foreseen
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import lending, procfs, tree
from checkpoint.processes.openfiles import OpenFiles
from checkpoint.processes.tree import Tree, hold_all
from checkpoint.sockets import duplicates, inventory, legs, live
from checkpoint.sockets.adopt import PairedSocket
from checkpoint.sockets.duplicates import OpenSockets
from tests.harness import made_images, standing
from tests.harness.adopter import Adopter
from tests.harness.told_child import ToldChild

SOL_SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
COUNT = 4
HIGH = 100
ALWAYS = 0x18  # EPOLLERR, EPOLLHUP: watched for unasked (epoll_ctl(2))
NODELAY = ("TCP_NODELAY", TCP, socket.TCP_NODELAY, "01000000")


def ino(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


class Scene:
    """A child with a listener, connections to it and an epoll that watches them, which are ours as well."""

    def __init__(self, path: Path, files: OpenFiles, kernel: Kernel | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.peers = [socket.create_connection(self.listener.getsockname()) for _ in range(COUNT)]
        self.ends = [self.listener.accept()[0] for _ in self.peers]
        self.child = ToldChild(*(one.fileno() for one in (self.listener, *self.ends)))
        self.child.tell(f"ends = [socket.socket(fileno=number) for number in {[one.fileno() for one in self.ends]}]")
        self.child.tell("epoll = select.epoll(); [epoll.register(one, select.EPOLLIN) for one in ends]")
        self.adopter = Adopter(path)
        self.files = files
        around = Surroundings(
            kernel or Kernel(), None, made_images.MESSAGES, None, str(path), lambda: None, asyncio.create_task, print,
            open_files=self.files,
        )  # fmt: skip
        self.foreseen = Foreseen(around, "m")
        self.held = Tree()
        self.sockets: OpenSockets | None = None
        self.said = Connections(b"[]", [])

    async def look(self, fewest: int = 1) -> list[int]:
        """The flows that can be made ahead."""
        self.said = await self.foreseen.look(self.child.pid, fewest)
        flows = [leg.flow for leg in legs.numbers_of(self.said.legs)]
        assert len(flows) == len(self.said.sockets)
        return flows

    async def stand(self) -> None:
        self.foreseen.stand(await self.look())

    def choose(self, but: Collection[int] = ()) -> set[int]:
        """Which of the connections CRIU need not see, by their place in `ends`."""
        if self.sockets is not None:
            self.sockets.close()
        self.held.close()
        self.held = held = hold_all(Kernel(), self.child.pids)
        said = inventory.asked(self.files, held)
        if said is not None:
            self.sockets, unread = OpenSockets(Kernel(), held, said), said.unread()
        else:
            said, self.sockets = duplicates.looked_for(Kernel(), held, self.foreseen.families)
            unread = live.unread({ino: self.sockets.of(ino).sock for ino in said.connections})
        self.foreseen.choose(said, unread, replaced=(), but=but)
        self.foreseen.describe(self.sockets)
        places = {ino(one): number for number, one in enumerate(self.ends)}
        return {places[one] for one in self.foreseen.chosen}

    @property
    def hidden(self) -> dict[int, set[int]]:
        """The descriptors of each process that CRIU is not shown."""
        there = {pid: set(map(int, procfs.names(f"/proc/{pid}/fd"))) for pid in self.foreseen.shown}
        assert all(set(some) < there[pid] for pid, some in self.foreseen.shown.items())
        return {pid: there[pid].difference(some) for pid, some in self.foreseen.shown.items()}

    def given(self, end: socket.socket) -> PairedSocket:
        assert self.sockets is not None
        return self.foreseen.given(ino(end), self.sockets.of(ino(end)).sock)

    def compare(self) -> list[Changed]:
        assert self.sockets is not None
        return self.foreseen.compare(self.sockets)

    def close(self) -> None:
        self.foreseen.close()
        self.held.close()
        if self.sockets is not None:
            self.sockets.close()
        self.child.close()
        self.adopter.die()
        for one in (self.listener, *self.peers, *self.ends):
            one.close()


@pytest.fixture(params=[True, False], ids=["the kernel is asked", "one by one"])
def files(request: pytest.FixtureRequest, open_files: OpenFiles, unasked: OpenFiles) -> OpenFiles:
    return open_files if request.param else unasked


@pytest.fixture
async def scene(tmp_path: Path, files: OpenFiles) -> AsyncIterator[Scene]:
    made = Scene(tmp_path / "adopt.sock", files)
    yield made
    made.close()


async def until(state: int, sock: socket.socket) -> None:
    async with asyncio.timeout(30):
        while live.state_of(sock) != state:  # noqa: ASYNC110 - what is waited for is told nobody
            await asyncio.sleep(0.001)


def attach_filter(sock: socket.socket) -> None:
    """One instruction: take everything (SO_ATTACH_FILTER, socket(7))."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF))
    sock.setsockopt(SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(program)))


def own(sock: socket.socket) -> None:
    fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, -os.getpgrp())


async def test_each_connection_is_named_with_what_its_end_is_to_be(scene: Scene):
    first, second, *_ = scene.ends
    first.setsockopt(TCP, socket.TCP_NODELAY, 1)
    second.setblocking(False)
    os.fchown(second.fileno(), 1234, 5678)
    second.setsockopt(SOL_SOCKET, socket.SO_REUSEADDR, 0)
    legs = await scene.look()
    assert len(set(legs)) == COUNT
    asked = {tuple(one["peer"]): one for one in scene.adopter.said}
    assert set(asked) == {one.getsockname() for one in scene.peers}
    assert {tuple(one["local"]) for one in asked.values()} == {scene.listener.getsockname()}
    assert {one["direction"] for one in asked.values()} == {"inbound"}
    assert {one["flow"] for one in asked.values()} == set(legs)
    ours = dict(zip(legs, scene.said.sockets, strict=True))

    def of(end: socket.socket) -> Socket:
        return ours[asked[end.getpeername()]["flow"]]

    assert NODELAY in of(first).options
    assert "TCP_NODELAY" not in [name for name, *_ in of(second).options]
    assert (of(first).flags & os.O_NONBLOCK, of(second).flags & os.O_NONBLOCK) == (0, os.O_NONBLOCK)
    assert (of(first).owner, of(second).owner) == ((os.getuid(), os.getgid()), (1234, 5678))
    assert (of(first).reuse_address, of(second).reuse_address) == (True, False)
    assert {one.family for one in scene.said.sockets} == {socket.AF_INET}


@pytest.mark.parametrize(
    "change",
    [
        own,
        attach_filter,
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: sock.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"),
        lambda sock: sock.setsockopt(TCP, socket.TCP_WINDOW_CLAMP, 5000),
    ],
    ids=["owner", "filter", "half-closed", "device", "clamp"],
)
async def test_one_that_is_not_plain_is_not_named(scene: Scene, change: Callable[[socket.socket], None]):
    change(scene.ends[1])
    assert len(await scene.look()) == COUNT - 1
    assert scene.ends[1].getpeername() not in {tuple(one["peer"]) for one in scene.adopter.said}


async def test_one_that_its_peer_has_half_closed_or_that_has_urgent_data_is_not_named(scene: Scene):
    scene.peers[0].shutdown(socket.SHUT_WR)
    await until(8, scene.ends[0])  # TCP_CLOSE_WAIT
    scene.peers[1].send(b"!", socket.MSG_OOB)
    assert len(await scene.look()) == COUNT - 2


async def test_connections_within_the_workload_and_other_sockets_are_not_named(scene: Scene):
    scene.child.tell("server = socket.create_server(('127.0.0.1', 0)); dialled = socket.create_connection("
                     "server.getsockname()); accepted = server.accept()[0]; udp = socket.socket(type=2)")  # fmt: skip
    assert len(await scene.look()) == COUNT


async def test_one_that_the_workload_dials_is_outbound(scene: Scene):
    with socket.create_server(("127.0.0.1", 0)) as server:
        scene.child.tell(f"dialled = socket.create_connection({server.getsockname()})")
        with server.accept()[0]:
            assert len(await scene.look()) == COUNT + 1
        (said,) = [one for one in scene.adopter.said if one["direction"] == "outbound"]
        assert tuple(said["peer"]) == server.getsockname()


async def test_of_fewer_than_are_worth_it_nobody_is_asked(scene: Scene):
    assert await scene.look(fewest=COUNT + 1) == []
    assert scene.adopter.requests == []
    assert not scene.foreseen.is_any
    assert scene.choose() == set()


async def test_the_proxy_is_asked_of_many_in_several_messages(scene: Scene, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", COUNT - 1)
    assert len(await scene.look()) == COUNT
    assert [len(one["sockets"]) for one in scene.adopter.requests] == [COUNT - 1, 1]


class Closing(Kernel):
    """Has a connection closed while it is looked at."""

    close: Callable[[], None] = staticmethod(lambda: None)

    def has_filter(self, sock: socket.SocketType) -> bool:
        self.close()
        self.close = lambda: None
        return super().has_filter(sock)


async def test_one_that_is_closed_just_then_is_passed_over(tmp_path: Path, unasked: OpenFiles):
    kernel = Closing()
    scene = Scene(tmp_path / "adopt.sock", unasked, kernel)
    try:
        kernel.close = lambda: scene.child.tell("[one.close() for one in ends[:2]]")
        assert len(await scene.look()) == COUNT - 2
    finally:
        scene.close()


async def test_a_workload_that_has_gone_has_none(scene: Scene):
    assert (await scene.foreseen.look(1 << 22, 1)).sockets == []


async def test_nothing_is_foreseen_of_who_cannot_be_given_anything(scene: Scene, monkeypatch):
    other = scene.child.fork()
    monkeypatch.setattr(lending, "can_lend", lambda pid: pid != other)
    assert await scene.look() == []


async def test_who_ends_before_that_is_known_is_passed_over(scene: Scene, monkeypatch):
    other, can_lend = scene.child.fork(), lending.can_lend

    def late(pid: int) -> bool:
        os.kill(other, signal.SIGKILL)
        standing.until(lambda: (one := tree.stat(other)) is not None and one.state == "Z")
        return can_lend(pid)

    monkeypatch.setattr(lending, "can_lend", late)
    assert len(await scene.look()) == COUNT


async def test_those_that_stand_are_hidden_with_the_epoll_that_watches_them(scene: Scene):
    assert not scene.foreseen.is_any
    await scene.stand()
    assert scene.foreseen.is_any
    assert set(scene.foreseen.families.values()) == {socket.AF_INET}
    assert scene.choose() == set(range(COUNT))
    numbers = [*(one.fileno() for one in scene.ends), scene.child.fd["epoll"]]
    assert scene.hidden == {scene.child.pid: set(numbers)}
    assert set(left(scene)) == {leg.flow for leg in legs.numbers_of(scene.said.legs)}
    for end in scene.ends:
        given = scene.given(end)
        assert (given.flow, given.unread) == (scene.foreseen.number_of(ino(end)), 0)
        assert ino(given.sock) == ino(end)
        assert scene.foreseen.held(ino(end)).socket.peer == end.getpeername()


async def test_only_those_that_stand_are_chosen_and_the_others_keep_their_numbers(scene: Scene):
    """By which what was made ahead of one that goes by its image is known."""
    flows = await scene.look()
    assert scene.choose() == set()
    scene.foreseen.stand(flows[1:3])
    assert len(scene.choose()) == 2
    assert set(left(scene)) == set(flows[1:3])
    assert {scene.foreseen.number_of(ino(one)) for one in scene.ends} == set(flows)
    assert scene.foreseen.number_of(ino(scene.listener)) == 0


async def test_of_none_that_stands_none_is_chosen(scene: Scene):
    await scene.look()
    scene.foreseen.stand([])
    assert not scene.foreseen.is_any
    assert scene.choose() == set()
    assert scene.hidden == {}


async def test_what_either_end_has_shut_down_since_is_not_chosen(scene: Scene):
    await scene.stand()
    scene.peers[0].shutdown(socket.SHUT_WR)
    scene.ends[1].shutdown(socket.SHUT_WR)
    scene.ends[2].shutdown(socket.SHUT_RD)
    await until(8, scene.ends[0])  # TCP_CLOSE_WAIT
    assert scene.choose() == {3}


async def test_one_that_was_reset_or_has_something_urgent_is_not_chosen(scene: Scene):
    await scene.stand()
    scene.peers[0].setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    scene.peers[0].close()
    scene.peers[1].send(b"!", socket.MSG_OOB)
    await until(7, scene.ends[0])  # TCP_CLOSE
    assert scene.choose() == {2, 3}


def unread_is(sock: socket.socket, size: int) -> None:
    assert sock.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL) == bytes(size)


async def test_one_with_too_much_unread_is_not_chosen(scene: Scene):
    await scene.stand()
    for number, size in enumerate((pairs.UNREAD_BYTES, pairs.UNREAD_BYTES + 1, 5)):
        scene.peers[number].sendall(bytes(size))
        unread_is(scene.ends[number], size)
    assert scene.choose() == {0, 2, 3}
    assert [scene.given(scene.ends[one]).unread for one in (0, 2, 3)] == [pairs.UNREAD_BYTES, 5, 0]


async def test_all_of_them_together_may_have_so_much_unread(scene: Scene, monkeypatch):
    await scene.stand()
    monkeypatch.setattr(pairs, "ALL_UNREAD_BYTES", 250)
    for end, peer in zip(scene.ends, scene.peers, strict=True):
        peer.sendall(bytes(100))
        unread_is(end, 100)
    assert len(scene.choose()) == 2


async def test_but_for_some(scene: Scene):
    await scene.stand()
    assert scene.choose(but={ino(scene.ends[2])}) == {0, 1, 3}


async def test_a_number_that_is_anothers_since_leads_to_no_old_connection(scene: Scene):
    await scene.stand()
    number = scene.ends[0].fileno()
    with socket.create_server(("127.0.0.1", 0)) as server:
        scene.child.tell(f"epoll.unregister(ends[0]); later = socket.create_connection({server.getsockname()})")
        scene.child.tell("os.dup2(later.fileno(), ends[0].fileno())")
        with server.accept()[0]:
            assert scene.choose() == {1, 2, 3}
    assert number not in scene.hidden[scene.child.pid]


@pytest.mark.parametrize(
    "what",
    [
        "os.dup2(0, 5000)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    ],
    ids=["far apart", "above its limit"],
)
async def test_where_the_numbers_are_odd_criu_sees_everything(scene: Scene, what: str):
    """The copy could not get these numbers, or hardly."""
    scene.child.tell("import resource")
    await scene.stand()
    assert len(scene.choose()) == COUNT
    scene.child.tell(what)
    assert scene.choose() == set()
    assert scene.hidden == {}


async def test_an_odd_epoll_has_criu_see_everything(scene: Scene):
    await scene.stand()
    assert len(scene.choose()) == COUNT
    scene.child.tell("copy = ends[0].dup(); number = ends[0].fileno(); ends[0].close(); os.dup2(0, number)")
    assert scene.choose() == set()
    assert scene.hidden == {}
    assert list(scene.foreseen.opened()) == []
    assert scene.foreseen.left is None


async def test_descriptors_on_their_way_have_criu_see_everything(scene: Scene):
    """They may be any: nobody can look at them."""
    await scene.stand()
    scene.child.tell("one, other = socket.socketpair(socket.AF_UNIX)")
    assert len(scene.choose()) == COUNT
    scene.child.tell("socket.send_fds(one, [b'x'], [ends[0].fileno()])")
    assert scene.choose() == set()
    scene.child.tell("[os.close(fd) for fd in socket.recv_fds(other, 1, 1)[1]]")
    assert len(scene.choose()) == COUNT


Places = set[tuple[int, int, bool]]
"""PID, number and whether it is closed on exec."""


def left(scene: Scene) -> dict[int, Places]:
    """Where the copy is to be given each flow."""
    said = scene.foreseen.left
    return {} if said is None else {one.flow: set(one.places) for one in said.connections}


def images(scene: Scene) -> dict[str, tuple[Places, list[int]]]:
    """For each open file that the images are to have, by its name: where, and what it watches."""
    messages, found = made_images.MESSAGES, {}
    names = {fd: name for name, fd in scene.child.fd.items()}
    for opened in scene.foreseen.opened():
        entry = opened.entry
        places: Places = set()
        for one in opened.descriptors:
            fdinfo = messages.fdinfo()
            fdinfo.ParseFromString(one.entry[4:])
            assert (fdinfo.id, fdinfo.fd) == (entry.id, one.fd)
            places.add((one.pid, one.fd, bool(fdinfo.flags)))
        name = entry.reg.name if entry.type == messages.REG else names.get(opened.descriptors[0].fd, "")
        found[name] = places, sorted(one.tfd for one in entry.epfd.tfd)
    return found


async def test_each_is_left_for_where_it_is_open_now(scene: Scene):
    """Also where that is elsewhere than when it was looked at."""
    scene.child.tell("[one.set_inheritable(False) for one in ends[1:]]")
    await scene.stand()
    scene.child.tell("copy = ends[0].dup(); epoll.unregister(ends[1]); more = ends[1].dup(); ends[1].close()")
    scene.child.tell("os.set_inheritable(copy.fileno(), True)")
    assert len(scene.choose()) == COUNT
    pid, fd = scene.child.pid, scene.child.fd
    flow = {one: scene.foreseen.number_of(ino(end)) for one, end in enumerate(scene.ends)}
    assert left(scene) == {
        flow[0]: {(pid, scene.ends[0].fileno(), False), (pid, fd["copy"], False)},
        flow[1]: {(pid, fd["more"], True)},
        flow[2]: {(pid, scene.ends[2].fileno(), True)},
        flow[3]: {(pid, scene.ends[3].fileno(), True)},
    }


async def test_the_images_have_a_door_above_all_of_a_process_that_is_given_any(scene: Scene):
    """And of no other: the second has none of them."""
    scene.child.tell(f"high = os.fdopen(fcntl.fcntl(0, fcntl.F_DUPFD, {HIGH}), 'rb', 0)")
    await scene.stand()
    pid, other = scene.child.pid, scene.child.fork()
    assert len(scene.choose()) == COUNT
    door = f"/{added.DOOR}"
    assert images(scene)[door] == ({(pid, HIGH + 1, True), (other, HIGH + 1, True)}, [])
    scene.child.tell("[one.close() for one in ends]; epoll.close(); high.close()")
    assert len(scene.choose()) == COUNT
    assert images(scene)[door] == ({(other, HIGH + 1, True)}, [])
    said = scene.foreseen.left
    assert said is not None
    assert said.doors == [(other, HIGH + 1)]


async def test_an_epoll_watches_all_but_the_chosen_from_the_beginning(scene: Scene):
    """The chosen later, as it was asked to: that is left."""
    scene.child.tell("one, other = socket.socketpair(socket.AF_UNIX); epoll.register(one, select.EPOLLIN)")
    scene.child.tell("epoll.modify(ends[0], select.EPOLLOUT | select.EPOLLET | select.EPOLLONESHOT)")
    await scene.stand()
    assert scene.choose(but={ino(scene.ends[3])}) == {0, 1, 2}
    pid, fd = scene.child.pid, scene.child.fd
    assert images(scene)["epoll"] == ({(pid, fd["epoll"], True)}, sorted([fd["one"], scene.ends[3].fileno()]))
    said = scene.foreseen.left
    assert said is not None
    (watch,) = said.watches
    assert (watch.pid, watch.fd) == scene.child.place("epoll")
    wanted = dict.fromkeys(scene.ends[1:3], select.EPOLLIN)
    wanted[scene.ends[0]] = select.EPOLLOUT | 1 << 30 | select.EPOLLET
    assert {number: events & ~ALWAYS for number, events, _ in watch.targets} == {
        one.fileno(): events for one, events in wanted.items()
    }
    assert [data & 0xFFFFFFFF for _, _, data in watch.targets] == [number for number, *_ in watch.targets]


async def test_of_an_epoll_that_watches_such_an_epoll_nothing_is_left(scene: Scene):
    """It may be in a process that is given nothing at all."""
    await scene.stand()
    scene.child.tell("outer = select.epoll(); outer.register(epoll)")
    assert len(scene.choose()) == COUNT
    assert images(scene)["outer"][1] == [scene.child.fd["epoll"]]
    said = scene.foreseen.left
    assert said is not None
    assert [(one.pid, one.fd) for one in said.watches] == [scene.child.place("epoll")]


async def test_nothing_has_changed_of_what_nobody_has_touched(scene: Scene):
    """Nor of what the other end does meanwhile."""
    await scene.stand()
    assert len(scene.choose()) == COUNT
    scene.peers[0].sendall(b"more")
    scene.peers[1].setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    scene.peers[1].close()
    scene.peers[2].shutdown(socket.SHUT_WR)
    await until(7, scene.ends[1])  # TCP_CLOSE
    await until(8, scene.ends[2])  # TCP_CLOSE_WAIT
    assert scene.compare() == []


async def test_what_has_changed_is_said(scene: Scene):
    await scene.stand()
    scene.ends[0].setsockopt(TCP, socket.TCP_NODELAY, 1)
    scene.ends[1].setblocking(False)
    scene.ends[2].setsockopt(SOL_SOCKET, socket.SO_RCVBUF, 20_000)  # means nothing any more
    assert len(scene.choose()) == COUNT
    flow = [scene.foreseen.number_of(ino(end)) for end in scene.ends]
    first, second = sorted(scene.compare(), key=lambda one: flow.index(one.flow))
    assert (first.flow, first.options, first.flags) == (flow[0], [NODELAY], None)
    assert (second.flow, second.options) == (flow[1], [])
    assert second.flags == os.O_RDWR | os.O_NONBLOCK


def reconnect(scene: Scene) -> None:
    """To another, as the same socket (connect(2), AF_UNSPEC)."""
    scene.child.tell("import ctypes; ctypes.CDLL(None).connect(ends[0].fileno(), bytes(16), 16)")
    scene.child.tell(f"ends[0].connect({scene.listener.getsockname()})")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scene: own(scene.ends[0]), "was made another"),
        (lambda scene: attach_filter(scene.ends[0]), "was made another"),
        (reconnect, "was made another"),
        (lambda scene: scene.child.tell("ends[0].set_inheritable(False)"), "got other descriptors"),
    ],
    ids=["owner", "filter", "another connection", "closed on exec"],
)
async def test_what_would_be_lost_is_an_error_in_words(scene: Scene, change: Callable[[Scene], None], words: str):
    await scene.stand()
    change(scene)
    assert 1 in scene.choose()
    with pytest.raises(AgentError, match=words) as caught:
        scene.compare()
    assert caught.value.code is Code.CONNECTION_STATE


async def test_what_is_forgotten_criu_sees(scene: Scene):
    await scene.stand()
    scene.choose()
    scene.foreseen.forget()
    assert scene.foreseen.chosen == scene.hidden == {}
    assert scene.foreseen.left is None
    assert list(scene.foreseen.opened()) == scene.compare() == []
    assert all(map(scene.foreseen.number_of, map(ino, scene.ends)))
