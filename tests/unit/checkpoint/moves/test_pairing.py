"""The copy's ends of pairs: made against the proxy's own legs, given to a child as CRIU's restore gives them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
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
from checkpoint.sockets import live, profile
from proxy.api import Endpoint, Leg
from proxy.io.adopted import foresee_leg
from proxy.sys import repair
from proxy.sys.kernel import Kernel as ProxyKernel
from tests.harness import made_images

SOL_SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
FLOWS = (11, 22, 33)
ESTABLISHED, CLOSED = 1, 7
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

    def ask_for(self, *flows: int) -> list[str]:
        """As the images do."""
        (self._folder / pairs.FILE).write_text(json.dumps(flows))
        return self.pairing.choose(self.images)

    def end(self, flow: int) -> socket.socket:
        """What the copy has of it: a duplicate."""
        return socket.socket(fileno=os.dup(self.pairing.descriptors[added.key(flow)]))

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


async def test_each_is_the_other_end_of_its_leg_under_its_key(scene: Scene):
    assert await scene.make(flow22=a_socket(NODELAY, flags=os.O_RDWR | os.O_NONBLOCK)) == list(FLOWS)
    assert list(scene.pairing.descriptors) == [added.key(flow) for flow in FLOWS]
    scene.pairing.finish()
    for flow, leg in scene.legs.items():
        with scene.end(flow) as end:
            assert end.getpeername() == leg.getsockname()
            end.send(b"%d" % flow)
            assert leg.recv(9) == b"%d" % flow
            assert end.getsockopt(TCP, socket.TCP_NODELAY) == (flow == 22)
            assert bool(profile.flags_of(end) & os.O_NONBLOCK) == (flow == 22)


async def test_one_that_cannot_be_made_is_left_to_its_image(scene: Scene):
    assert await scene.make(flow22=a_socket(NOT_HERE)) == [11, 33]
    assert added.key(22) not in scene.pairing.descriptors


async def test_legs_that_make_no_sense_are_an_error_in_words(scene: Scene):
    with pytest.raises(AgentError, match="the legs make no sense") as caught:
        await scene.pairing.make(Connections(msgspec.Raw(b'[["11"]]'), [a_socket()]))
    assert caught.value.code is Code.PROXY_REFUSED


async def test_those_that_the_images_do_not_ask_for_end_without_a_word(scene: Scene):
    await scene.make()
    with scene.end(22) as unwanted, scene.end(11) as wanted:
        assert set(scene.ask_for(11, 33)) == {added.key(11), added.key(33)}
        assert (live.state_of(unwanted), live.state_of(wanted)) == (CLOSED, ESTABLISHED)
    assert set(scene.pairing.descriptors) == {added.key(11), added.key(33)}
    scene.legs[22].setblocking(False)
    with pytest.raises(BlockingIOError):
        scene.legs[22].recv(1)


async def test_images_that_ask_for_none_have_none(scene: Scene):
    await scene.make()
    assert scene.pairing.choose(scene.images) == []
    assert scene.pairing.descriptors == {}


async def test_images_that_ask_for_one_that_is_not_there_cannot_be_restored(scene: Scene):
    await scene.make()
    with pytest.raises(AgentError, match="ask for connections that are not here") as caught:
        scene.ask_for(11, 44)
    assert caught.value.code is Code.IMAGE_DAMAGED


async def test_what_was_not_finished_ends_wherever_it_is_open(scene: Scene):
    """In half a copy, too."""
    await scene.make()
    with scene.end(11) as end:
        scene.pairing.close()
        assert live.state_of(end) == CLOSED
    assert await scene.make() == list(FLOWS)  # once more, at once


async def test_the_copy_keeps_what_it_has(scene: Scene):
    """Its listeners have got their port by then, beside them; what CRIU was not asked to share is as it was."""
    await scene.make(flow22=a_socket(reuse_address=True))
    scene.ask_for(11, 22)
    given = {flow: scene.pairing.descriptors[added.key(flow)] for flow in (11, 22)}
    copy = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import os, sys; [os.read(0, 1), "
                             "[os.write(int(fd), b'copy') for fd in sys.argv[1:]], os.read(0, 1)]",
                             *map(str, given.values())], stdin=subprocess.PIPE, pass_fds=given.values())  # fmt: skip
    with socket.socket() as listener:
        listener.setsockopt(SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", scene.port))
        listener.listen()
        scene.pairing.finish()
        with scene.end(11) as one, scene.end(22) as other:
            reuse = [end.getsockopt(SOL_SOCKET, socket.SO_REUSEADDR) for end in (one, other)]
        assert reuse == [0, 1]
        scene.pairing.close()
        assert scene.pairing.descriptors == {}
        assert copy.stdin is not None
        copy.stdin.write(b"1")
        copy.stdin.flush()
        assert [scene.legs[flow].recv(9) for flow in given] == [b"copy", b"copy"]
        copy.communicate(b"2")
        assert [scene.legs[flow].recv(9) for flow in given] == [b"", b""]  # nobody else has them


async def test_what_has_changed_is_set(scene: Scene):
    await scene.make()
    scene.pairing.finish()
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
