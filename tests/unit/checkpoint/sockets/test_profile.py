"""What somebody may have set of a connection is read from it, and written to another: the kernel's own options."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from checkpoint.core import sockopts
from checkpoint.core.sockopts import SocketOption
from checkpoint.kernel import TCP_REPAIR, Kernel
from checkpoint.sockets import profile
from checkpoint.sockets.profile import Profile

SOL_SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
TIMESTAMP, TIMESTAMPNS = (SOL_SOCKET, 29), (SOL_SOCKET, 35)

IPV4_OPTIONS = (*sockopts.EVERY, *sockopts.STREAM, *sockopts.SAVED, *sockopts.LATE)
IPV6_OPTIONS = (*IPV4_OPTIONS, *sockopts.IPV6, *sockopts.SAVED_IPV6)
NOT_OF_A_CONNECTION = "IPV6_V6ONLY"
"""It can only be set before a port is had: an accepted connection may have it of its listener."""

OTHERWISE = {
    "SO_TIMESTAMPING": 1 << 4, "SO_BUSY_POLL": 50, "SO_LINGER": struct.pack("=ii", 1, 7), "SO_RCVLOWAT": 77,
    "SO_MAX_PACING_RATE": 123_456, "SO_RCVTIMEO": struct.pack("=qq", 3, 0), "SO_SNDTIMEO": struct.pack("=qq", 4, 0),
    "SO_MARK": 0x55, "SO_PRIORITY": 5, "IP_TOS": 0x28, "IP_TTL": 33, "IP_MTU_DISCOVER": 2, "IP_MINTTL": 9,
    "IPV6_UNICAST_HOPS": 44, "IPV6_MTU_DISCOVER": 2, "IPV6_TCLASS": 0x28, "IPV6_MINHOPCOUNT": 9,
    "TCP_CONGESTION": b"reno", "TCP_SYNCNT": 3, "TCP_LINGER2": 21, "TCP_USER_TIMEOUT": 4321, "TCP_NOTSENT_LOWAT": 9999,
    "TCP_KEEPIDLE": 11, "TCP_KEEPINTVL": 12, "TCP_KEEPCNT": 6, "SO_SNDBUF": 50_000, "SO_RCVBUF": 60_000,
    "SO_BUF_LOCK": 3,
}  # fmt: skip
"""Of those that are not on or off: what a fresh socket does not have."""

Pair = tuple[socket.socket, socket.socket]


def connect(family: int) -> Pair:
    with socket.create_server((HOSTS[family], 0), family=family) as listener:
        one = socket.create_connection(listener.getsockname()[:2])
        return one, listener.accept()[0]


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def pair(family: int) -> Iterator[Pair]:
    """Both ends of a connection."""
    one, other = connect(family)
    with one, other:
        yield one, other


@pytest.fixture
def fresh(family: int) -> Iterator[socket.socket]:
    with socket.socket(family) as sock:
        yield sock


def value_of(sock: socket.socket, option: SocketOption) -> bytes:
    return sock.getsockopt(option.level, option.number, option.length)


def set_otherwise(sock: socket.socket, option: SocketOption) -> None:
    is_set = int.from_bytes(value_of(sock, option), "little") != 0
    sock.setsockopt(option.level, option.number, OTHERWISE.get(option.name, int(not is_set)))


@pytest.mark.parametrize(
    ("family", "option"),
    [
        *((socket.AF_INET, one) for one in IPV4_OPTIONS),
        *((socket.AF_INET6, one) for one in IPV6_OPTIONS),
    ],
    ids=lambda one: one.name if isinstance(one, SocketOption) else HOSTS[one],
)
def test_every_option_of_a_connection_is_carried_to_another_socket(pair: Pair, fresh, family, option):
    ours = Profile(family)
    one, accepted = pair
    if option.name == NOT_OF_A_CONNECTION:
        one = accepted
    else:
        before = ours.read(one)
        set_otherwise(one, option)
        assert ours.read(one) != before
    values = ours.read(one)
    said = ours.differing(values)
    assert (option.name, option.level, option.number, value_of(one, option).hex()) in said
    profile.write(fresh, said)
    assert ours.read(fresh) == values


def test_all_of_them_at_once_are_carried_too(pair: Pair, fresh, family):
    """One may change another: so the order matters in which they are written."""
    one, _ = pair
    ours = Profile(family)
    options = IPV6_OPTIONS if family == socket.AF_INET6 else IPV4_OPTIONS
    for option in options:
        if option.name not in {NOT_OF_A_CONNECTION, "SO_TIMESTAMP"}:
            set_otherwise(one, option)
    values = ours.read(one)
    profile.write(fresh, ours.differing(values))
    assert ours.read(fresh) == values


def test_of_a_connection_that_nobody_has_touched_only_its_buffers_may_differ(pair: Pair, family):
    """The kernel sizes them when it is established, and as it is used."""
    ours = Profile(family)
    for one in pair:
        found = {name for name, *_ in ours.differing(ours.read(one))} - {NOT_OF_A_CONNECTION}
        assert found >= sockopts.PODS_OWN
        assert found - sockopts.PODS_OWN <= {"SO_SNDBUF", "SO_RCVBUF", "SO_BUF_LOCK"}


@pytest.mark.parametrize("size", [5_000, 100_000])
def test_a_size_that_somebody_has_set_stays_locked_and_the_other_is_the_kernels(pair: Pair, fresh, family, size):
    one, _ = pair
    one.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, size)
    ours = Profile(family)
    profile.write(fresh, ours.differing(ours.read(one)))
    assert value_of(fresh, sockopts.RECEIVE_BUFFER) == struct.pack("=i", 2 * size)
    assert value_of(fresh, sockopts.BUFFER_LOCK) == struct.pack("=i", 2)  # SOCK_RCVBUF_LOCK


def test_a_size_that_nobody_has_set_is_carried_and_stays_the_kernels(fresh, family):
    """As the kernel has moved it. Writing it would lock it, which is undone."""
    ours = Profile(family)
    with socket.socket(family) as one:
        one.setsockopt(SOL_SOCKET, socket.SO_SNDBUF, 70_000)
        one.setsockopt(SOL_SOCKET, sockopts.BUFFER_LOCK.number, 0)
        values = ours.read(one)
    said = ours.differing(values)
    assert [name for name, *_ in said if name not in sockopts.PODS_OWN] == ["SO_SNDBUF", "SO_BUF_LOCK"]
    profile.write(fresh, said)
    assert ours.read(fresh) == values
    assert value_of(fresh, sockopts.BUFFER_LOCK) == bytes(4)


def test_a_lock_on_what_a_fresh_socket_has_is_carried(fresh, family):
    ours = Profile(family)
    with socket.socket(family) as one:
        one.setsockopt(SOL_SOCKET, sockopts.BUFFER_LOCK.number, 1)
        values = ours.read(one)
    assert [name for name, *_ in ours.differing(values) if name not in sockopts.PODS_OWN] == ["SO_BUF_LOCK"]
    profile.write(fresh, ours.differing(values))
    assert ours.read(fresh) == values


def test_a_priority_that_was_set_back_is_carried(pair: Pair, fresh, family):
    """Setting IP_TOS changes it (K: ip_sockglue.c, __ip_sock_set_tos)."""
    one, _ = pair
    ours = Profile(family)
    since = ours.read_watched(one)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
    assert one.getsockopt(SOL_SOCKET, socket.SO_PRIORITY) != 0
    one.setsockopt(SOL_SOCKET, socket.SO_PRIORITY, 0)
    values = ours.read(one)
    profile.write(fresh, ours.differing(values))
    assert ours.read(fresh) == values
    with socket.socket(family) as later:
        profile.write(later, ours.changed(ours.read_watched(one), since))
        assert ours.read_watched(later) == ours.read_watched(one)


def test_what_has_changed_since_brings_a_socket_up_to_it(pair: Pair, fresh, family):
    one, _ = pair
    ours = Profile(family)
    one.setsockopt(TCP, socket.TCP_NODELAY, 1)
    values = ours.read(one)
    profile.write(fresh, ours.differing(values))
    since = ours.watched(values)
    assert ours.read_watched(one) == since
    assert ours.changed(since, since) == []
    one.setsockopt(TCP, socket.TCP_NODELAY, 0)
    one.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 1234)
    one.setsockopt(SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    now = ours.read_watched(one)
    changed = ours.changed(now, since)
    assert {name for name, *_ in changed} == {"TCP_NODELAY", "TCP_USER_TIMEOUT", "SO_KEEPALIVE"}
    profile.write(fresh, changed)
    assert ours.read_watched(fresh) == now


def test_timestamps_of_another_kind_are_carried(pair: Pair, fresh, family):
    """To switch one kind off switches both off (K: sock.c, __sock_set_timestamps)."""
    one, _ = pair
    ours = Profile(family)
    for before, after in ((TIMESTAMPNS, TIMESTAMP), (TIMESTAMP, TIMESTAMPNS)):
        one.setsockopt(*before, 1)
        fresh.setsockopt(*before, 1)
        since = ours.read_watched(one)
        one.setsockopt(*before, 0)
        one.setsockopt(*after, 1)
        now = ours.read_watched(one)
        profile.write(fresh, ours.changed(now, since))
        assert ours.read_watched(fresh) == now
        one.setsockopt(*after, 0)
        fresh.setsockopt(*after, 0)


def test_what_means_nothing_any_more_is_not_watched(pair: Pair, family):
    """Buffers move by themselves."""
    one, _ = pair
    ours = Profile(family)
    since = ours.read_watched(one)
    one.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, 40_000)
    one.setsockopt(SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert ours.read_watched(one) == since


def test_what_cannot_be_set_here_is_said(fresh):
    with pytest.raises(OSError, match="No such file"):
        profile.write(fresh, [("TCP_CONGESTION", TCP, 13, b"nonsense".hex())])


def _is_owned_by(owner: Callable[[], int]) -> Callable[[socket.socket], None]:
    return lambda sock: fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, owner()) and None


def _has_a_filter(sock: socket.socket) -> None:
    """One instruction: take everything (SO_ATTACH_FILTER, socket(7))."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF))
    sock.setsockopt(SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(program)))


def _has_a_device(sock: socket.socket) -> None:
    sock.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")


def _is_asynchronous(sock: socket.socket) -> None:
    flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags | os.O_ASYNC)


@pytest.mark.parametrize(
    "make_other",
    [_is_owned_by(os.getpid), _is_owned_by(lambda: -os.getpgrp()), _has_a_filter, _has_a_device, _is_asynchronous],
    ids=["owner", "process group", "filter", "device", "O_ASYNC"],
)
def test_a_connection_that_has_more_than_its_options_is_not_plain(pair: Pair, make_other):
    one, other = pair
    make_other(one)
    assert not profile.is_plain(Kernel(), one, profile.flags_of(one))
    assert profile.is_plain(Kernel(), other, profile.flags_of(other))


def test_a_connection_is_plain_again_without(pair: Pair):
    one, _ = pair
    fcntl.fcntl(one.fileno(), fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(one.fileno(), fcntl.F_SETOWN, 0)
    one.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    one.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b"\0")
    _has_a_filter(one)
    one.setsockopt(SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
    assert profile.is_plain(Kernel(), one, profile.flags_of(one))


@pytest.mark.parametrize("asked", [700, 1460])
def test_the_segment_size_is_that_which_a_handshake_agrees_on(family, asked):
    """Of a connection, TCP_MAXSEG is what is left of it beside TCP's options."""
    with socket.socket(family) as listener, socket.socket(family) as one:
        if asked:
            listener.setsockopt(TCP, socket.TCP_MAXSEG, asked)
        listener.bind((HOSTS[family], 0))
        listener.listen()
        one.connect(listener.getsockname())
        with listener.accept()[0] as other:
            assert [profile.segment_size(end) for end in (one, other)] == [asked, asked]
            assert one.getsockopt(TCP, socket.TCP_MAXSEG) < asked
            one.setsockopt(TCP, TCP_REPAIR, 1)  # where it says what was agreed on (K: tcp.c, do_tcp_getsockopt)
            assert one.getsockopt(TCP, socket.TCP_MAXSEG) == asked
            one.setsockopt(TCP, TCP_REPAIR, 0)


def test_the_flags_of_one_become_those_of_another(pair: Pair):
    one, other = pair
    one.setblocking(False)
    profile.set_flags(other, profile.flags_of(one))
    assert profile.flags_of(other) == profile.flags_of(one)
    assert profile.flags_of(one) & os.O_NONBLOCK
    assert profile.flags_of(one) & os.O_ACCMODE == os.O_RDWR
    other.setblocking(True)
    profile.set_flags(one, profile.flags_of(other))
    assert not profile.flags_of(one) & os.O_NONBLOCK
