"""Adoption with real sockets, which a child has open, and with a dump that the test writes, image by image."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import msgspec
import pytest

from checkpoint.core import manifest, pairs, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added, gmac
from checkpoint.images.folder import Images, entries
from checkpoint.images.store import listing
from checkpoint.kernel import Kernel
from checkpoint.moves.adopting import Adopting
from checkpoint.moves.foreseen import Foreseen
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import procfs
from checkpoint.processes.openfiles import OpenFiles
from checkpoint.processes.tree import Tree, hold_all
from checkpoint.sockets import adoption, legs, live
from proxy.api import PairedLeg
from tests.harness import made_images
from tests.harness.adopter import Adopter

KEY = bytes(range(32))


class Dump:
    """A listener, two connections to it, and a child that has all three; `image` writes what CRIU would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.peers = [socket.create_connection(self.listener.getsockname()) for _ in range(2)]
        self.ends = [self.listener.accept()[0] for _ in self.peers]
        for one in self.ends:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # they have it of the listener
        fds = [one.fileno() for one in (self.listener, *self.ends)]
        self.child = subprocess.Popen(["cat"], pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.child.stdin.write(b"!")
        assert self.child.stdout.read(1) == b"!"  # it opens nothing more

    def ino(self, sock: socket.socket) -> int:
        return os.fstat(sock.fileno()).st_ino

    def image(self, end: socket.socket, **numbers: int) -> None:
        """Of one connection. `numbers` are of tcp_stream_entry."""
        usual = {"inq_len": 0, "inq_seq": 1000, "outq_len": 0, "outq_seq": 2000, "rcv_wnd": 9, "rcv_wup": 1000}
        entry = made_images.stream(usual | numbers)
        made_images.write(self.folder, f"tcp-stream-{self.ino(end):x}", [entry], bytes(entry.inq_len + entry.outq_len))

    def finish(self, *, state: int | None = None, hidden: bool = False) -> None:
        """The list of all sockets, which CRIU writes last; `state` is that of the second connection. `hidden`: it has
        seen the listener alone, and the child's table of descriptors is there."""
        states = [live.state_of(one) for one in self.ends]
        states[1] = states[1] if state is None else state
        ports = [one.getsockname()[1] for one in self.peers]
        sockets = [(self.listener, 10, 0), *zip(self.ends, states, ports, strict=True)][: 1 if hidden else None]
        host, port = [readdress.words_of("127.0.0.1", 1)[0]], self.listener.getsockname()[1]
        found = [
            made_images.inet(self.ino(sock), state, host, port, host if peer else [0], peer)
            for sock, state, peer in sockets
        ]
        made_images.write(self.folder, "files", found)
        if hidden:
            ids = made_images.MESSAGES.ids(vm_id=1, files_id=3, fs_id=1, sighand_id=1)
            made_images.write(self.folder, f"ids-{self.child.pid}", [ids])
            made_images.write(self.folder, "fdinfo-3", [])

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        for one in (self.child.stdin, self.child.stdout, self.listener, *self.peers, *self.ends):
            one.close()


async def see_everything(descriptors: Mapping[int, Collection[int]]) -> bool:
    """CRIU can be kept from nothing."""
    assert not descriptors
    return False


class Scene:
    def __init__(self, folder: Path, socket_path: Path, open_files: OpenFiles) -> None:
        folder.mkdir()
        self.folder = folder
        self.dump = Dump(folder)
        self.tree: Tree = hold_all(Kernel(), [self.dump.child.pid])
        self.adopter = Adopter(socket_path)
        self.tasks: list[asyncio.Task[object]] = []
        self.lost: list[bool] = []
        around = Surroundings(
            Kernel(), None, made_images.MESSAGES, None, str(socket_path), lambda: None, self._spawn, print,
            open_files=open_files,
        )  # fmt: skip
        self.foreseen = Foreseen(around, "m")
        self.adopting = Adopting(around, "m", folder, KEY, lambda: self.lost.append(True), self.foreseen)

    def _spawn(self, work, name: str) -> asyncio.Task[object]:
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    async def begin(self) -> None:
        self.adopting.watch()
        await self.adopting.look(self.tree, see_everything)

    async def foresee(self) -> list[int]:
        """Both ends of every connection stand at the destination; the flows."""
        said = await self.foreseen.look(self.dump.child.pid, 1)
        flows = [leg.flow for leg in legs.numbers_of(said.legs)]
        self.foreseen.stand(flows)
        return flows

    def legs(self) -> list[msgspec.Raw]:
        return msgspec.json.decode(self.adopting.take_legs()[0], type=list[msgspec.Raw])

    async def close(self) -> None:
        self.adopting.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.adopter._thread.is_alive():
            self.adopter.die()
        self.tree.close()
        self.dump.close()


@pytest.fixture
async def scene(tmp_path: Path, open_files: OpenFiles, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(adoption, "CHUNK", 1)
    monkeypatch.setattr(adoption, "AHEAD", 1)
    made = Scene(tmp_path / "images", tmp_path / "adopt.sock", open_files)
    yield made
    await made.close()


async def test_a_connection_goes_as_soon_as_its_image_is_whole_and_the_rest_after_the_dump(scene, wait_until):
    await scene.begin()
    first, second = scene.dump.ends
    scene.dump.image(first)
    await wait_until(lambda: scene.adopter.said)
    assert [one["inq_seq"] for one in scene.adopter.said] == [1000]
    assert tuple(scene.adopter.said[0]["peer"]) == first.getpeername()
    early: list[msgspec.Raw] = []
    await wait_until(lambda: early.extend(scene.legs()) or early)
    scene.dump.image(second, inq_seq=7)
    scene.dump.finish()
    adopted = await scene.adopting.finish()
    assert (adopted.flows, adopted.listeners) == (2, 1)
    assert [one["kind"] for one in scene.adopter.said] == ["flow", "flow", "listener"]
    assert len({one["flow"] for one in scene.adopter.said}) == 3
    said = early + msgspec.json.decode(adopted.legs, type=list[msgspec.Raw])
    assert len(early) == 1
    assert [leg.flow for leg in legs.ends_of(said)] == [one["flow"] for one in scene.adopter.said[:2]]
    assert len(scene.adopter.held) == 3


async def test_what_is_edited_is_proved_as_it_is_then(scene):
    """A send queue stays behind: the adopted socket has it."""
    await scene.begin()
    for end in scene.dump.ends:
        scene.dump.image(end, outq_len=5, inq_len=3)
    scene.dump.finish()
    await scene.adopting.finish()
    images = Images(scene.folder, made_images.MESSAGES)
    for end in scene.dump.ends:
        stream = images.stream(scene.dump.ino(end))
        assert (stream.numbers.outq_len, stream.numbers.inq_len) == (0, 3)
    streams = [name for name in listing(scene.folder) if name.startswith("tcp-stream-")]
    assert sorted(streams) == sorted(scene.adopting.proofs)
    spans = [gmac.Span(name, manifest.places(streams)[name], one.size, range(1))
             for name, one in scene.adopting.proofs.items()]  # fmt: skip
    assert gmac.tag(str(scene.folder), KEY, spans) == [list(one.tags) for one in scene.adopting.proofs.values()]


async def test_what_is_edited_while_the_dump_goes_on_is_not_given_again(scene, wait_until):
    await scene.begin()
    first, second = scene.dump.ends
    scene.dump.image(first, outq_len=5)
    await wait_until(lambda: scene.adopting.proofs)
    scene.dump.image(second, outq_len=5)
    await wait_until(lambda: len(scene.adopting.proofs) == 2)
    scene.dump.finish()
    await scene.adopting.finish()
    assert [one["kind"] for one in scene.adopter.said] == ["flow", "flow", "listener"]


async def test_a_connection_that_changed_while_criu_was_at_it_waits_for_the_list_of_all(scene, wait_until):
    await scene.begin()
    first, second = scene.dump.ends
    scene.dump.peers[1].shutdown(socket.SHUT_WR)
    await wait_until(lambda: live.state_of(second) == readdress.CLOSE_WAIT)
    scene.dump.image(second, inq_seq=1001)
    scene.dump.image(first)
    await wait_until(lambda: scene.adopter.said)
    assert tuple(scene.adopter.said[0]["peer"]) == first.getpeername()
    scene.dump.finish()
    await scene.adopting.finish()
    (said,) = [one for one in scene.adopter.said if tuple(one["peer"]) == second.getpeername()]
    assert (said["fin_received"], said["inq_seq"]) == (True, 1000)


async def test_an_image_that_contradicts_what_was_said_is_no_image_to_restore(scene, wait_until):
    await scene.begin()
    for end in scene.dump.ends:
        scene.dump.image(end)
    await wait_until(lambda: len(scene.adopter.said) == 2)
    scene.dump.finish(state=readdress.FIN_WAIT2)
    with pytest.raises(AgentError, match="as another than the proxy was given") as caught:
        await scene.adopting.finish()
    assert caught.value.code is Code.INTERNAL
    await scene.adopting.release()
    assert scene.adopter.held == []


async def test_after_a_dump_in_vain_everything_is_given_again(scene, wait_until):
    await scene.begin()
    first, second = scene.dump.ends
    scene.dump.image(first)
    await wait_until(lambda: scene.adopter.said)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as leaving repair mode does
    await scene.adopting.again()
    assert first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    assert scene.adopting.proofs == {}
    scene.dump.image(first, inq_seq=1005)
    scene.dump.image(second)
    scene.dump.finish()
    assert (await scene.adopting.finish()).flows == 2
    once, again = [one for one in scene.adopter.said if tuple(one["peer"]) == first.getpeername()]
    assert once["flow"] == again["flow"]
    assert (once["inq_seq"], again["inq_seq"]) == (1000, 1005)
    assert len(scene.adopting.proofs) == 2


async def test_a_dump_in_vain_may_end_before_the_sockets_were_looked_at(scene):
    scene.adopting.watch()
    await scene.adopting.again()
    await scene.adopting.look(scene.tree, see_everything)
    for end in scene.dump.ends:
        scene.dump.image(end)
    scene.dump.finish()
    assert (await scene.adopting.finish()).flows == 2


async def test_what_was_made_ahead_goes_by_its_image_after_a_dump_in_vain(scene):
    await scene.foresee()

    async def show(_: Mapping[int, Collection[int]]) -> bool:
        return True

    scene.adopting.watch()
    await scene.adopting.look(scene.tree, show)
    assert len(scene.foreseen.chosen) == 2
    await scene.adopting.again()
    assert (scene.foreseen.chosen, scene.foreseen.left) == ({}, None)
    scene.dump.ends[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 77)
    (found,) = await scene.adopting.look(scene.tree, show)
    assert [name for name, *_ in found.options if name != "SO_PRIORITY"] == ["TCP_USER_TIMEOUT"]
    assert (scene.foreseen.chosen, list(scene.adopting._paired)) == ({}, [])
    for end in scene.dump.ends:
        scene.dump.image(end)
    scene.dump.finish()
    assert (await scene.adopting.finish()).flows == 2


async def test_a_proxy_that_died_is_told_of_when_the_dump_is_over(scene, wait_until):
    await scene.begin()
    scene.adopter.die()
    for end in scene.dump.ends:
        scene.dump.image(end)
    await wait_until(lambda: scene.adopting._failed)
    with pytest.raises(AgentError) as caught:
        await scene.adopting.finish()
    assert caught.value.code is Code.PROXY_UNREACHABLE
    await scene.adopting.release()


async def test_a_proxy_that_dies_with_the_sockets_is_noticed(scene, wait_until):
    await scene.begin()
    for end in scene.dump.ends:
        scene.dump.image(end)
    scene.dump.finish()
    await scene.adopting.finish()
    scene.adopter.die()
    await wait_until(lambda: scene.lost)


async def test_what_was_given_while_the_dump_went_on_is_released(scene, wait_until):
    await scene.begin()
    scene.dump.image(scene.dump.ends[0])
    await wait_until(lambda: scene.adopter.said)
    await scene.adopting.release()
    assert scene.adopter.held == []
    inode = scene.dump.ino(scene.dump.ends[0])
    assert scene.adopting.reuse_address()[inode] is False
    assert scene.adopting.backlogs() == {}


async def test_what_criu_is_not_shown_goes_without_an_image_and_is_added_to_the_others(scene):
    flows = await scene.foresee()
    for peer, said in zip(scene.dump.peers, (b"abc", b""), strict=True):
        peer.sendall(said)
    assert scene.dump.ends[0].recv(3, socket.MSG_PEEK | socket.MSG_WAITALL) == b"abc"
    shown: dict[int, Collection[int]] = {}

    async def show(descriptors: Mapping[int, Collection[int]]) -> bool:
        shown.update(descriptors)
        return True

    scene.adopting.watch()
    assert [one.fd for one in await scene.adopting.look(scene.tree, show)] == []
    numbers = {one.fileno() for one in scene.dump.ends}
    pid = scene.dump.child.pid
    assert {one: set(some) for one, some in shown.items()} == {
        pid: set(map(int, procfs.names(f"/proc/{pid}/fd"))) - numbers
    }
    scene.dump.finish(hidden=True)
    adopted = await scene.adopting.finish()
    assert (adopted.flows, adopted.listeners, bytes(adopted.legs)) == (2, 1, b"[]")
    paired = msgspec.json.decode(adopted.paired, type=list[tuple[int, int, bytes]])
    unread = {flow: said for flow, _, said in paired}
    assert set(unread) == set(flows)
    assert sorted(unread.values()) == [b"", b"abc"]
    assert {os.fstat(one.fileno()).st_ino for one in scene.adopter.held} >= set(map(scene.dump.ino, scene.dump.ends))
    scene.adopting.edit_addresses({})
    files = entries(str(scene.folder / "files.img"), made_images.MESSAGES.file)
    assert [one.reg.name for one in files] == ["", f"/{added.DOOR}"]  # the listener, and by what the others come
    (door,) = entries(str(scene.folder / "fdinfo-3.img"), made_images.MESSAGES.fdinfo)
    assert door.fd > max(numbers)
    left = scene.foreseen.left
    assert {one.flow: {fd for _, fd, _ in one.places} for one in left.connections} == {
        scene.foreseen.number_of(scene.dump.ino(end)): {end.fileno()} for end in scene.dump.ends
    }
    scene.dump.ends[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    scene.adopting.begin_comparing()
    (changed,) = await scene.adopting.compare()
    assert [name for name, *_ in changed.options] == ["TCP_NODELAY"]


async def test_one_message_has_so_much_unread_and_no_more(scene, monkeypatch):
    """It is in the proxy's answer, which has to fit their socket."""
    monkeypatch.setattr(adoption, "UNREAD_OF_PAIRS_BYTES", 5)
    await scene.foresee()
    for peer, end in zip(scene.dump.peers, scene.dump.ends, strict=True):
        peer.sendall(b"abc")
        end.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL)

    async def show(_: Mapping[int, Collection[int]]) -> bool:
        return True

    await scene.adopting.look(scene.tree, show)
    scene.dump.finish(hidden=True)
    assert (await scene.adopting.finish()).flows == 2
    taken = [one["sockets"] for one in scene.adopter.requests if one["op"] == "take"]
    assert [[unread for _, unread in some] for some in taken] == [[3], [3]]


def test_as_much_unread_as_there_may_be_fits_the_answers():
    """As the kernel has it, on the protocol's own socket, with a buffer as it is by default."""
    assert pairs.UNREAD_BYTES <= adoption.UNREAD_OF_PAIRS_BYTES
    legs = [PairedLeg(1 << 47, 1 << 31, b"")] * (adoption.CHUNK_OF_PAIRS - 1)
    answer = msgspec.json.encode({"pairs": [*legs, PairedLeg(1 << 47, 1 << 31, bytes(adoption.UNREAD_OF_PAIRS_BYTES))]})
    proxy, agent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with proxy, agent:
        proxy.setblocking(False)
        proxy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)  # net.core.wmem_max, untouched
        for _ in range(adoption.AHEAD):
            proxy.send(answer)


async def test_what_criu_sees_after_all_goes_by_its_image_under_the_number_it_has(scene):
    flows = await scene.foresee()

    async def show(descriptors: Mapping[int, Collection[int]]) -> bool:
        assert descriptors
        return False

    scene.adopting.watch()
    await scene.adopting.look(scene.tree, show)
    for end in scene.dump.ends:
        scene.dump.image(end)
    scene.dump.finish()
    adopted = await scene.adopting.finish()
    assert bytes(adopted.paired) == b"[]"
    assert {one["flow"] for one in scene.adopter.said if one.get("kind") == "flow"} == set(flows)
