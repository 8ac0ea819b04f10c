"""One connection of a transfer: parcels out, answers in, and another connection when it breaks. Over real TCP."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.api import Problem
from checkpoint.core import parcel as wire
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.parcel import Parcel
from checkpoint.core.squeeze import Mode
from checkpoint.processes import procfd
from checkpoint.transfer import stream
from checkpoint.transfer.shipment import Shipment
from checkpoint.transfer.stream import WINDOW, Stream, exactly

BIG = os.urandom(3 * CHUNK_BYTES)


class Peer:
    """The other end of one stream: connections as they are dialled, and parcels as they come."""

    def __init__(self, folder: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self._address = self._listener.getsockname()
        self.shipment = Shipment(mode=Mode.OFF)
        self.stream = Stream(1, str(folder), self.shipment, self._dial)  # type: ignore[arg-type]

    def _dial(self) -> socket.socket:
        return socket.create_connection(self._address)

    def start(self) -> socket.socket:
        self.stream.connect()
        self.stream.start()
        return self.accept()

    def accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(10)
        return sock

    def deaf(self) -> None:
        """Nobody listens any more."""
        self._listener.close()

    def close(self) -> None:
        self.shipment.stop(AgentError(Code.TRANSFER_BROKEN, "the test is over"))
        self.stream.hang_up()
        self.stream.join()
        self._listener.close()


def take(sock: socket.socket) -> tuple[Parcel, bytes]:
    header = wire.decode_header(exactly(sock, wire.HEADER_BYTES))  # type: ignore[arg-type]
    parcel = wire.decode(header, exactly(sock, header.table_bytes))  # type: ignore[arg-type]
    return parcel, exactly(sock, header.wire_bytes)  # type: ignore[arg-type]


@pytest.fixture
def peer(tmp_path):
    (tmp_path / "pages-1.img").write_bytes(BIG)
    (tmp_path / "empty.img").touch()
    made = Peer(tmp_path)
    made.shipment.tell(lambda one: one.seal({"pages-1.img": len(BIG), "empty.img": 0}))
    yield made
    made.close()


def finished(peer: Peer, within: Callable[[], object] = lambda: None) -> AgentError | None:
    """Waits for the end of the shipment; why it ended, if not well."""
    ends: list[AgentError | None] = []

    def wait() -> None:
        try:
            ends.append(peer.shipment.wait())
        except AgentError as error:
            ends.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    within()
    thread.join(10)
    (end,) = ends
    return end


def test_every_byte_goes_and_each_answer_is_heard(peer):
    got = b""
    with peer.start() as sock:
        while len(got) < len(BIG):
            parcel, body = take(sock)
            got += body
            sock.sendall(wire.arrived(parcel.number))
        assert finished(peer) is None
    assert got == BIG
    assert peer.shipment.retries == 0


def test_no_more_than_a_window_is_unanswered(tmp_path):
    for number in range(WINDOW + 5):
        (tmp_path / f"{number}.img").write_bytes(bytes(CHUNK_BYTES))
    peer = Peer(tmp_path)
    peer.shipment.tell(lambda one: one.seal({f"{number}.img": CHUNK_BYTES for number in range(WINDOW + 5)}))
    with peer.start() as sock:
        taken = [take(sock)[0] for _ in range(WINDOW)]
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        sock.sendall(wire.arrived(taken[0].number))
        assert take(sock)[0].number not in [one.number for one in taken]
    peer.close()


def test_what_was_not_answered_when_it_broke_goes_again_over_another(peer):
    with peer.start() as sock:
        first, _ = take(sock)
        second, _ = take(sock)
        sock.sendall(wire.arrived(first.number))
        take(sock)
    with peer.accept() as sock:
        numbers = []
        while len(numbers) < 2:
            numbers.append(take(sock)[0].number)
            sock.sendall(wire.arrived(numbers[-1]))
        assert finished(peer) is None
    assert second.number in numbers
    assert first.number not in numbers
    assert peer.shipment.retries == 1


def test_where_nobody_listens_any_more_it_is_given_up(peer, monkeypatch):
    monkeypatch.setattr(stream, "NOBODY_SECONDS", 0.1)
    with peer.start():
        peer.deaf()
    error = finished(peer)
    assert error is not None
    assert "its agent has ended" in str(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [(wire.arrived(77), "out of its turn"), (wire.refused(Problem("no-space", "the disk is full", "machine")), "full")],
)
def test_a_refusal_or_nonsense_ends_the_shipment(peer, said, words):
    with peer.start() as sock:
        take(sock)
        error = finished(peer, lambda: sock.sendall(said))
    assert words in str(error)


def test_a_file_that_became_shorter_ends_it(peer, tmp_path):
    os.truncate(tmp_path / "pages-1.img", 5)
    with peer.start():
        error = finished(peer)
    assert error is not None
    assert error.code is Code.IMAGE_DAMAGED


def test_it_is_woken_where_it_waits_for_its_peer(peer):
    with peer.start() as sock:
        take(sock)
        peer.shipment.stop(AgentError(Code.LEASE_EXPIRED, "too late"))
        peer.stream.hang_up()
        peer.stream.join()


def test_its_file_is_closed_where_the_connection_breaks_whoever_keeps_the_error(peer, tmp_path):
    """As a shipment that is stopped does."""
    one, other = socket.socketpair()
    other.close()
    parcel = peer.shipment.next(patiently=True)
    with one, pytest.raises(BrokenPipeError) as kept:
        peer.stream._send(one, parcel)
    assert not [*procfd.open_files(os.getpid(), {str(tmp_path / "pages-1.img")})]
    assert kept.value.__traceback__ is not None


def test_an_end_within_what_was_to_come_is_an_error():
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"ab")
        other.close()
        with pytest.raises(ConnectionResetError):
            exactly(one, 3)  # type: ignore[arg-type]
