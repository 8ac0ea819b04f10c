"""The copy's ends of pairs: made against the proxy's own legs, given to a child as to a copy."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from checkpoint.api import Changed, Connections, Socket
from checkpoint.core import pairs
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added
from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.moves.pairing import Pairing
from checkpoint.processes import procfs
from checkpoint.processes.tree import Tree, hold_all
from checkpoint.sockets import live, profile
from proxy.api import Endpoint, Leg
from proxy.io.adopted import foresee_leg
from proxy.sys import repair
from proxy.sys.kernel import Kernel as ProxyKernel
from tests.harness import made_images
from tests.harness.standing import standing_still
from tests.harness.told_child import ToldChild

SOL_SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
FLOWS = (11, 22, 33)
ESTABLISHED, CLOSED = 1, 7
DOOR = 100
ONE_SHOT = 1 << 30  # linux/eventpoll.h: EPOLLONESHOT
NODELAY = ("TCP_NODELAY", TCP, socket.TCP_NODELAY, "01000000")
NOT_HERE = ("TCP_CONGESTION", TCP, socket.TCP_CONGESTION, b"nonsense".hex())


class Scene:
    """The legs of some connections to one port, and the ends that are made for them."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.images = Images(folder, made_images.MESSAGES)
        self._folder = folder
        app, kernel = Endpoint("127.0.0.1", self.port), ProxyKernel()
        self.said = [foresee_leg(flow, Endpoint("127.0.0.9", 4000 + flow), app, 1460) for flow in FLOWS]
        self.legs = {leg.flow: self._leg(kernel, leg) for leg in self.said}
        self.pairing = Pairing(Kernel())
        self.doors: list[tuple[int, int]] = []
        """What the images say of the copy's processes."""
        self.watches: list[pairs.Watch] = []

    def _leg(self, kernel: ProxyKernel, leg: Leg) -> socket.socket:
        made = repair.build(kernel, leg, repair.blank(kernel, socket.AF_INET))
        repair.leave(kernel, made)
        made.settimeout(10)
        return made

    async def make(self, **different: Socket) -> list[int]:
        """An end for each, as `different` says of some."""
        sockets = [different.get(f"flow{flow}", a_socket()) for flow in FLOWS]
        wanted = Connections(msgspec.Raw(msgspec.json.encode(self.said)), sockets)
        return (await self.pairing.make(wanted)).flows

    def ask_for(self, *flows: int, **places: list[tuple[int, int, bool]]) -> list[str]:
        """As the images do."""
        wanted = [pairs.Connection(flow, places.get(f"flow{flow}", [])) for flow in flows]
        left = pairs.Left(self.doors, wanted, self.watches)
        (self._folder / pairs.FILE).write_bytes(msgspec.json.encode(left))
        keys = self.pairing.choose(self.images)
        self.pairing.check()
        return keys

    async def give(self) -> None:
        """To a copy that is given all in no process."""
        await self.pairing.give(Tree())

    def end(self, flow: int) -> socket.socket:
        """What was made of it: a duplicate."""
        return socket.socket(fileno=os.dup(self.pairing._ends[flow].fileno()))

    @property
    def flows(self) -> list[int]:
        """Those of which there is an end."""
        return list(self.pairing._ends)

    def close(self) -> None:
        self.pairing.close()
        for leg in self.legs.values():
            repair.enter(ProxyKernel(), leg)
            leg.close()


def a_socket(*options: tuple[str, int, int, str], flags: int = os.O_RDWR, reuse_address: bool = False) -> Socket:
    return Socket(socket.AF_INET, flags, (os.getuid(), os.getgid()), list(options), reuse_address)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


async def test_each_is_the_other_end_of_its_leg(scene: Scene):
    assert await scene.make(flow22=a_socket(NODELAY, flags=os.O_RDWR | os.O_NONBLOCK)) == list(FLOWS)
    assert scene.flows == list(FLOWS)
    await scene.give()
    for flow, leg in scene.legs.items():
        with scene.end(flow) as end:
            assert end.getpeername() == leg.getsockname()
            end.send(b"%d" % flow)
            assert leg.recv(9) == b"%d" % flow
            assert end.getsockopt(TCP, socket.TCP_NODELAY) == (flow == 22)
            assert bool(profile.flags_of(end) & os.O_NONBLOCK) == (flow == 22)


async def test_one_that_cannot_be_made_is_left_to_its_image(scene: Scene):
    assert await scene.make(flow22=a_socket(NOT_HERE)) == [11, 33]
    assert scene.flows == [11, 33]


async def test_legs_that_make_no_sense_are_an_error_in_words(scene: Scene):
    with pytest.raises(AgentError, match="the legs make no sense") as caught:
        await scene.pairing.make(Connections(msgspec.Raw(b'[["11"]]'), [a_socket()]))
    assert caught.value.code is Code.PROXY_REFUSED


async def test_those_that_the_images_do_not_ask_for_end_without_a_word(scene: Scene):
    await scene.make()
    with scene.end(22) as unwanted, scene.end(11) as wanted:
        scene.ask_for(11, 33)
        assert (live.state_of(unwanted), live.state_of(wanted)) == (CLOSED, ESTABLISHED)
    assert scene.flows == [11, 33]
    scene.legs[22].setblocking(False)
    with pytest.raises(BlockingIOError):
        scene.legs[22].recv(1)


async def test_images_that_ask_for_none_have_none(scene: Scene):
    await scene.make()
    assert scene.pairing.choose(scene.images) == []
    assert scene.flows == []


async def test_criu_will_ask_for_the_door_where_there_is_one(scene: Scene):
    """Whatever was made before CRIU was started, or after: it is one and the same."""
    inherited = scene.pairing.inherited
    assert list(inherited) == [added.DOOR]
    await scene.make()
    assert scene.pairing.inherited == inherited
    assert scene.ask_for(11) == []
    scene.doors.append((7, 90))
    assert scene.ask_for(11, flow11=[(7, 40, True)]) == [added.DOOR]
    scene.pairing.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(inherited[added.DOOR])


async def test_images_that_ask_for_one_that_has_ended_cannot_be_restored(scene: Scene):
    await scene.make()
    with scene.end(11) as end:
        Kernel().disconnect(end)
    with pytest.raises(AgentError, match=r"ahead of the flows \[11\] has ended: try again") as caught:
        scene.ask_for(11, 22)
    assert caught.value.code is Code.CONNECTION_STATE


async def test_images_that_ask_for_one_that_is_not_there_cannot_be_restored(scene: Scene):
    await scene.make()
    with pytest.raises(AgentError, match="ask for connections that are not here") as caught:
        scene.ask_for(11, 44)
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize(
    ("doors", "watches"),
    [
        ([], []),
        ([(7, 90), (8, 90)], []),
        ([(7, 90)], [pairs.Watch(7, 4, [(40, 1, 40), (41, 1, 41)])]),
        ([(7, 90)], [pairs.Watch(8, 4, [(40, 1, 40)])]),
    ],
    ids=["no door", "a door for nothing", "what is not given is watched", "another process watches it"],
)
async def test_images_that_contradict_themselves_cannot_be_restored(
    scene: Scene, doors: list[tuple[int, int]], watches: list[pairs.Watch]
):
    await scene.make()
    scene.doors, scene.watches = doors, watches
    with pytest.raises(AgentError, match=r"pairs\.json makes no sense") as caught:
        scene.ask_for(11, flow11=[(7, 40, True)])
    assert caught.value.code is Code.IMAGE_DAMAGED


async def test_nobody_else_is_given_anything(scene: Scene):
    await scene.make()
    scene.doors = [(os.getpid(), 1000)]
    scene.ask_for(11, flow11=[(os.getpid(), 999, True)])
    with pytest.raises(AgentError, match="not about these processes") as caught:
        await scene.give()
    assert caught.value.code is Code.IMAGE_DAMAGED


async def test_what_was_not_given_ends_wherever_it_is_open(scene: Scene):
    """In half a copy, too."""
    await scene.make()
    with scene.end(11) as end:
        scene.pairing.close()
        assert live.state_of(end) == CLOSED
    assert await scene.make() == list(FLOWS)  # once more, at once


@pytest.fixture
def copy(scene: Scene) -> Iterator[ToldChild]:
    """A process that has the door, at a number above all others, and an epoll."""
    door = scene.pairing.inherited[added.DOOR]
    child = ToldChild(door)
    child.tell(f"epoll = select.epoll(); door = socket.socket(fileno=fcntl.fcntl({door}, fcntl.F_DUPFD, {DOOR}))")
    child.tell(f"os.close({door})")
    scene.doors.append(child.place("door"))
    yield child
    child.close()


async def give(scene: Scene, copy: ToldChild) -> None:
    tree = hold_all(Kernel(), copy.pids)
    try:
        with standing_still(copy.pid):
            await scene.pairing.give(tree)
    finally:
        tree.close()


async def test_the_copy_keeps_what_it_is_given(scene: Scene, copy: ToldChild):
    """Its listeners have got their port by then, beside it; nobody else has any."""
    await scene.make(flow22=a_socket(reuse_address=True))
    scene.ask_for(11, 22, flow11=[(copy.pid, 40, False), (copy.pid, 41, True)], flow22=[(copy.pid, 50, True)])
    with socket.socket() as listener:
        listener.setsockopt(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", scene.port))
        listener.listen()
        await give(scene, copy)
        with scene.end(11) as one, scene.end(22) as other:
            reuse = [end.getsockopt(SOL_SOCKET, socket.SO_REUSEADDR) for end in (one, other)]
        assert reuse == [0, 1]
        scene.pairing.close()
        assert scene.flows == []
        assert sorted(map(int, procfs.names(f"/proc/{copy.pid}/fd"))) == [0, 1, 2, copy.fd["epoll"], 40, 41, 50]
        copy.tell("assert [os.get_inheritable(fd) for fd in (40, 41, 50)] == [True, False, False]")
        copy.tell("[os.write(fd, b'%d' % fd) for fd in (40, 41, 50)]")
        assert [scene.legs[flow].recv(size, socket.MSG_WAITALL) for flow, size in ((11, 4), (22, 2))] == [
            b"4041",
            b"50",
        ]
        copy.tell("os.closerange(40, 51)")
        assert [scene.legs[flow].recv(9) for flow in (11, 22)] == [b"", b""]


async def test_its_epolls_watch_what_it_is_given(scene: Scene, copy: ToldChild):
    """By the numbers that these have there, and with the data that they were given."""
    await scene.make()
    pid, epoll = copy.place("epoll")
    scene.watches.append(pairs.Watch(pid, epoll, [(40, select.EPOLLIN, 7), (50, select.EPOLLIN | ONE_SHOT, 8)]))
    scene.ask_for(11, 22, flow11=[(pid, 40, True)], flow22=[(pid, 50, True)])
    await give(scene, copy)
    for flow in (11, 22):
        scene.legs[flow].send(b"more")
        with scene.end(flow) as end:
            assert end.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"more"
    copy.tell("assert sorted(epoll.poll(0)) == [(7, select.EPOLLIN), (8, select.EPOLLIN)]")
    copy.tell("assert epoll.poll(0) == [(7, select.EPOLLIN)]")
    copy.tell("assert os.read(50, 4) == b'more'; epoll.modify(50, select.EPOLLOUT)")
    copy.tell("assert os.read(40, 4) == b'more'; epoll.unregister(40); assert epoll.poll(5) == [(50, select.EPOLLOUT)]")


async def test_what_cannot_be_given_is_an_error_in_words_and_ends(scene: Scene, copy: ToldChild):
    """In half a copy, too."""
    await scene.make()
    copy.tell("door.close()")
    scene.ask_for(11, flow11=[(copy.pid, 40, True)])
    with scene.end(11) as end:
        with pytest.raises(AgentError, match="cannot be given its connections: Bad file descriptor") as caught:
            await give(scene, copy)
        assert caught.value.code is Code.KERNEL
        scene.pairing.close()
        assert live.state_of(end) == CLOSED


async def test_what_has_changed_is_set(scene: Scene):
    await scene.make()
    await scene.give()
    nonblocking = os.O_RDWR | os.O_NONBLOCK
    scene.pairing.adjust([Changed(11, [NODELAY]), Changed(22, flags=nonblocking), Changed(33, [NODELAY], nonblocking)])
    for flow in FLOWS:
        with scene.end(flow) as end:
            assert end.getsockopt(TCP, socket.TCP_NODELAY) == (flow != 22)
            assert bool(profile.flags_of(end) & os.O_NONBLOCK) == (flow != 11)


@pytest.mark.parametrize(
    ("changed", "words", "code"),
    [
        (Changed(11, [NODELAY, NOT_HERE]), "TCP_NODELAY, TCP_CONGESTION cannot be set here: No such file", Code.KERNEL),
        (Changed(44), "flow 44 is of no pair", Code.BAD_REQUEST),
    ],
)
async def test_what_cannot_be_set_is_an_error_in_words(scene: Scene, changed: Changed, words: str, code: Code):
    await scene.make()
    with pytest.raises(AgentError, match=words) as caught:
        scene.pairing.adjust([changed])
    assert caught.value.code is code
