from __future__ import annotations

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
        left = [each for each in left if each.handshake() is not None]
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


def refused(pair: Pair) -> str:
    """Why one of them gives up; with TLS 1.3 an acceptor's refusal is read by the initiator after its handshake."""
    why, left = "", list(pair)
    for _ in range(10_000):
        for each in list(left):
            try:
                if each.handshake() is None:
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
    stranger = TlsConnection(context.wrap_socket(one, do_handshake_on_connect=False))
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
