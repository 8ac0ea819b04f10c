from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from proxy.io import connection
from proxy.io.connection import Tls, TlsConnection
from tests.harness import proxy_parts as parts
from tests.harness.proxy_process import certified

pytestmark = parts.NEEDS_ROOT

Pair = tuple[TlsConnection, TlsConnection]
T = TypeVar("T")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return certified(tmp_path, "a", "127.0.0.1"), certified(tmp_path, "b", "127.0.0.2", "::1")


@pytest.fixture
def pair(folders: tuple[Path, Path]) -> Iterator[Pair]:
    made = begin(*map(Tls, folders))
    shake_hands(made)
    yield made
    for each in made:
        each.close()


def begin(initiator: Tls, acceptor: Tls, host: str = "127.0.0.2", session: ssl.SSLSession | None = None) -> Pair:
    one, two = parts.tcp_pair("127.0.0.2")
    for sock in (one, two):
        sock.setblocking(False)
    return initiator.dialled(one, host, session), acceptor.accepted(two)


def shake_hands(pair: Pair) -> None:
    left = list(pair)
    for _ in range(10_000):
        left = [each for each in left if not each.handshake()]
        if not left:
            return
    raise AssertionError("no end of it")


def patiently(call: Callable[[], T]) -> T:
    for _ in range(1_000_000):
        try:
            return call()
        except BlockingIOError:
            continue
    raise AssertionError("no end of it")


def test_bytes_of_both_ends_and_the_end(pair: Pair) -> None:
    one, two = pair
    assert one.send(b"hello") == 5
    assert patiently(lambda: two.recv(100)) == b"hello"
    with pytest.raises(BlockingIOError):
        two.recv(100)
    assert two.send(memoryview(b"world")) == 5
    view = memoryview(bytearray(1 << 16))
    assert bytes(view[: patiently(lambda: one.recv_into(view))]) == b"world"
    assert one.session is not None
    one.shutdown(socket.SHUT_WR)
    assert patiently(lambda: two.recv_into(view)) == 0
    assert two.send(b"still") == 5
    assert patiently(lambda: one.recv(100)) == b"still"


def test_a_session_is_good_for_many_short_handshakes(folders: tuple[Path, Path]) -> None:
    initiator, acceptor = map(Tls, folders)
    session: ssl.SSLSession | None = None
    for number in range(4):
        one, two = begin(initiator, acceptor, session=session)
        shake_hands((one, two))
        two.send(b"hello")
        assert patiently(lambda one=one: one.recv(100)) == b"hello"
        assert (one.session is None) == bool(number)
        session = session or one.session
        one.close()
        two.close()


def test_much_more_than_the_buffers_hold(pair: Pair) -> None:
    """What was not taken is said again as it was; whatever is read is whole records."""
    one, two = pair
    sent = memoryview(bytes(range(251)) * 70_000)
    got, given, view, waits = bytearray(), 0, memoryview(bytearray(100_000)), 0
    while len(got) < len(sent):
        try:
            given += one.send(sent[given : given + 262_144]) if given < len(sent) else 0
        except BlockingIOError:
            waits += 1
            got += view[: patiently(lambda: two.recv_into(view))]
        if given == len(sent):
            got += view[: patiently(lambda: two.recv_into(view))]
    assert got == sent
    assert waits


def test_whatever_pieces_records_come_in(folders: tuple[Path, Path]) -> None:
    """Cut at each place of a short record, and anywhere in long ones; another connection is used in between."""
    initiator, acceptor = map(Tls, folders)
    one, near = parts.tcp_pair("127.0.0.2")
    far, two = parts.tcp_pair("127.0.0.2")
    for sock in (one, near, far, two):
        sock.setblocking(False)
    sender, taker = initiator.dialled(one, "127.0.0.2", None), acceptor.accepted(two)
    others = begin(initiator, acceptor)
    shake_hands(others)

    def cross(size: int) -> None:
        for ours, theirs in ((near, far), (far, near)):
            with contextlib.suppress(BlockingIOError):
                while came := ours.recv(size):
                    theirs.sendall(came)

    left = [sender, taker]
    while left:
        left = [each for each in left if not each.handshake()]
        cross(1 << 16)
    message = bytes(range(251)) * 1000
    view = memoryview(bytearray(100_000))
    for size, step in ((64, 1), (64, 50), (16_384, 999), (200_000, 5_001), (200_000, 40_000)):
        assert sender.send(message[:size]) == size
        got = bytearray()
        while len(got) < size:
            with contextlib.suppress(BlockingIOError):
                far.sendall(near.recv(step))
            with contextlib.suppress(BlockingIOError):
                got += view[: taker.recv_into(view)]
            others[0].send(b"meanwhile")
            assert patiently(lambda: others[1].recv(100)) == b"meanwhile"
        assert got == message[:size]
    for each in (sender, taker, *others, near, far):
        each.close()


def test_a_connection_that_fails_leaves_nothing_to_others(folders: tuple[Path, Path]) -> None:
    initiator, acceptor = map(Tls, folders)
    good, bad = begin(initiator, acceptor), begin(initiator, acceptor)
    for each in (good, bad):
        shake_hands(each)
    bad[0]._sock.send(b"\x17\x03\x03\x00\x20" + bytes(100))
    with pytest.raises(ssl.SSLError):
        patiently(lambda: bad[1].recv(100))
    assert good[1].send(b"hello") == 5
    assert patiently(lambda: good[0].recv(100)) == b"hello"
    assert good[0].send(b"world") == 5
    assert patiently(lambda: good[1].recv(100)) == b"world"
    for each in (*good, *bad):
        each.close()


def test_whoever_hangs_up_in_the_handshake_is_lost(folders: tuple[Path, Path]) -> None:
    one, two = parts.nonblocking_pair()
    accepted = Tls(folders[0]).accepted(two)
    one.close()
    with pytest.raises(ConnectionResetError, match="hung up"):
        [accepted.handshake() for _ in range(1_000_000)]
    accepted.close()


def test_what_comes_before_the_acceptor_has_spoken_is_refused(folders: tuple[Path, Path]) -> None:
    initiator, acceptor = begin(*map(Tls, folders))
    while not initiator.handshake():
        if acceptor.handshake():
            raise AssertionError("without the initiator's certificate")
    initiator.send(b"early")
    with pytest.raises(OSError, match="before its turn"):
        [acceptor.handshake() for _ in range(1_000_000)]
    for each in (initiator, acceptor):
        each.close()


def refused(pair: Pair) -> str:
    """Why one of them gives up; with TLS 1.3 an acceptor's refusal is read by the initiator after its handshake."""
    why, left = "", list(pair)
    for _ in range(10_000):
        for each in list(left):
            try:
                if each.handshake():
                    each.recv(100)
            except BlockingIOError:
                continue
            except OSError as error:
                why = why or connection.why(error)
                left.remove(each)
        if why:
            break
    for each in pair:
        each.close()
    return why


def test_another_home_is_not_trusted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    stranger = Tls(certified(tmp_path / "elsewhere", "c", "127.0.0.2"))
    ours = Tls(folders[0])
    assert "certificate is not good" in refused(begin(ours, stranger))
    assert "certificate is not good" in refused(begin(ours, stranger, "127.0.0.3"))


def test_the_certificate_must_be_the_address_s(folders: tuple[Path, Path]) -> None:
    one, two = map(Tls, folders)
    assert "IP address mismatch" in refused(begin(one, two, "127.0.0.3"))
    assert "IP address mismatch" in refused(begin(two, one, "127.0.0.2"))


def test_a_stranger_without_a_certificate_is_refused(folders: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    one, two = parts.tcp_pair()
    two.setblocking(False)
    accepted = Tls(folders[0]).accepted(two)
    one.setblocking(False)
    tray = connection.Tray()
    stranger = TlsConnection(one, tray, context.wrap_bio(tray.came, tray.goes))
    assert "certificate" in refused((stranger, accepted))


def test_cleartext_is_refused(folders: tuple[Path, Path]) -> None:
    one, two = parts.nonblocking_pair()
    with one:
        accepted = Tls(folders[0]).accepted(two)
        one.send(b"MIDS\x02\x01\x00\x00" + bytes(100))
        with pytest.raises(ssl.SSLError) as raised:
            [accepted.handshake() for _ in range(1_000_000)]
        assert connection.why(raised.value) == "TLS: wrong version number"
        accepted.close()


def test_a_missing_key_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Tls(tmp_path)


def test_an_error_is_put_into_words() -> None:
    assert connection.why(ConnectionResetError(104, "Connection reset by peer")) == "Connection reset by peer"
    assert connection.why(OSError("something")) == "something"
