"""What the running kernel says of the files that a process has open, held against the files."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.core import sockopts
from checkpoint.core.openfiles import OpenFile
from checkpoint.core.sockopts import SocketOption
from checkpoint.kernel import Kernel
from checkpoint.processes import openfiles
from checkpoint.processes.openfiles import OpenFiles
from checkpoint.sockets import live
from tests.harness.told_child import ToldChild

TCP, SOL_SOCKET = socket.IPPROTO_TCP, socket.SOL_SOCKET
WATCHED = [
    one
    for one in (*sockopts.EVERY, *sockopts.STREAM, *sockopts.SAVED, *sockopts.IPV6, *sockopts.SAVED_IPV6)
    if one.name not in sockopts.INERT
]
OTHERS: dict[str, bytes] = {
    "SO_LINGER": struct.pack("=ii", 1, 7),
    "SO_RCVTIMEO": struct.pack("=qq", 3, 0),
    "SO_SNDTIMEO": struct.pack("=qq", 4, 0),
    "SO_TIMESTAMPING": struct.pack("=i", 1 << 4),
    "TCP_CONGESTION": b"reno",
    "IP_TTL": struct.pack("=i", 77),
    "IP_TOS": struct.pack("=i", 0x10),
    "IPV6_TCLASS": struct.pack("=i", 0x10),
    "IP_MTU_DISCOVER": struct.pack("=i", 2),
    "IPV6_MTU_DISCOVER": struct.pack("=i", 2),
    "SO_RCVLOWAT": struct.pack("=i", 3),
}
"""What can be set where 1 cannot, or is so already."""


@pytest.fixture(autouse=True)
def asked(open_files: OpenFiles) -> None:
    assert open_files.can_be_asked, "this kernel cannot be asked (CONFIG_DEBUG_INFO_BTF, Linux 6.1, CAP_BPF)"


@pytest.fixture
def of_ours(open_files: OpenFiles) -> Iterator[Callable[[int], OpenFile]]:
    """Of a descriptor of this process."""
    pidfd = os.pidfd_open(os.getpid())
    yield lambda number: next(one for one in open_files.of(pidfd) if one.number == number)
    os.close(pidfd)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    here = "127.0.0.1" if request.param == socket.AF_INET else "::1"
    with (
        socket.create_server((here, 0), family=request.param) as listener,
        socket.create_connection(listener.getsockname()[:2]) as one,
        listener.accept()[0] as other,
    ):
        yield one, other


def test_every_descriptor_of_another_process_is_said_once(open_files: OpenFiles):
    child = ToldChild()
    try:
        child.tell("one = socket.socket(); two = one.dup(); low, high = map(os.fdopen, os.pipe())")
        pidfd = os.pidfd_open(child.pid)
        try:
            said = open_files.of(pidfd)
        finally:
            os.close(pidfd)
        numbers = [one.number for one in said]
        assert numbers == sorted(int(one.name) for one in Path(f"/proc/{child.pid}/fd").iterdir())
        by_number = {one.number: one for one in said}
        assert by_number[child.fd["one"]].ino == by_number[child.fd["two"]].ino == child.ino("one")
        assert by_number[child.fd["low"]].family == 0
        assert by_number[child.fd["low"]].ino == child.ino("low")
    finally:
        child.close()


def test_who_has_gone_has_nothing(open_files: OpenFiles):
    child = ToldChild()
    pidfd = os.pidfd_open(child.pid)
    child.close()
    try:
        assert open_files.of(pidfd) == []
    finally:
        os.close(pidfd)


def test_the_two_ends_of_a_connection_know_of_each_other(pair, of_ours):
    for mine, other in (pair, reversed(pair)):
        seen = of_ours(mine.fileno())
        assert (seen.family, seen.type, seen.protocol) == (mine.family, socket.SOCK_STREAM, TCP)
        assert seen.ino == os.fstat(mine.fileno()).st_ino
        host, port = other.getsockname()[:2]
        assert int.from_bytes(seen.port, "big") == port
        if mine.family == socket.AF_INET:
            assert seen.peer == socket.inet_pton(mine.family, host)
        else:
            assert seen.peer6 == socket.inet_pton(mine.family, host)


def test_what_is_unread_and_urgent_and_shut_down_is_said(pair, of_ours):
    mine, other = pair
    seen = of_ours(mine.fileno())
    assert (seen.state, seen.shutdown, seen.error, seen.told, seen.urgent) == (1, 0, 0, 0, 0)
    assert seen.expected == seen.read
    other.sendall(b"hello")
    mine.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    seen = of_ours(mine.fileno())
    assert (seen.expected - seen.read) % (1 << 32) == 5
    other.send(b"!", socket.MSG_OOB)
    assert select.select([], [], [mine], 5)[2]
    assert of_ours(mine.fileno()).urgent
    mine.shutdown(socket.SHUT_RD)
    assert of_ours(mine.fileno()).shutdown == 1
    mine.shutdown(socket.SHUT_WR)
    assert of_ours(mine.fileno()).shutdown == 3
    assert of_ours(mine.fileno()).state == live.state_of(mine) != 1


def test_an_error_that_nobody_was_told_is_said(pair, of_ours):
    mine, other = pair
    other.setsockopt(SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    other.close()
    poll = select.poll()
    poll.register(mine, 0)
    assert poll.poll(5000)
    assert of_ours(mine.fileno()).error == errno.ECONNRESET


def test_what_waits_in_the_queue_of_errors_is_counted(pair, of_ours):
    """A stamp of when something was sent (K: Documentation/networking/timestamping.rst)."""
    tx_software, report = 1 << 1, 1 << 4
    one, _ = pair
    one.setsockopt(SOL_SOCKET, 37, tx_software | report)
    one.sendall(b"x")
    poll = select.poll()
    poll.register(one, 0)
    assert poll.poll(5000)
    assert of_ours(one.fileno()).told == 1


def test_whether_it_is_closed_on_exec_is_the_descriptors_own(of_ours):
    with socket.socket() as one, one.dup() as two:
        for number in (one.fileno(), two.fileno()):
            fcntl.fcntl(number, fcntl.F_SETFD, 0)
        high = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 200)  # in another word than the others
        fcntl.fcntl(two.fileno(), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        said = [of_ours(number).closed_on_exec for number in (one.fileno(), two.fileno(), high)]
        os.close(high)
    assert said == [0, 1, 1]


def test_an_epoll_is_known(open_files: OpenFiles, of_ours):
    with select.epoll() as epoll, socket.socket() as sock:
        assert open_files.is_epoll(of_ours(epoll.fileno()))
        assert not open_files.is_epoll(of_ours(sock.fileno()))


@pytest.mark.parametrize("option", WATCHED, ids=lambda one: one.name)
def test_every_option_that_matters_is_in_the_settings(option: SocketOption, of_ours):
    family = socket.AF_INET6 if option.level == socket.IPPROTO_IPV6 else socket.AF_INET
    with socket.socket(family) as one:
        before, usual = of_ours(one.fileno()).settings, one.getsockopt(option.level, option.number, option.length)
        assert of_ours(one.fileno()).settings == before
        one.setsockopt(option.level, option.number, OTHERS.get(option.name) or struct.pack("=i", 1))
        assert one.getsockopt(option.level, option.number, option.length) != usual, "it could not be set"
        assert of_ours(one.fileno()).settings != before


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.setblocking(False),
        lambda one: fcntl.fcntl(one.fileno(), fcntl.F_SETOWN, os.getpid()),
        lambda one: one.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"),
    ],
    ids=["flags", "owner", "device"],
)
def test_what_makes_one_more_than_plain_is_in_the_settings_too(change: Callable[[socket.socket], object], of_ours):
    with socket.socket() as one:
        before = of_ours(one.fileno()).settings
        change(one)
        assert of_ours(one.fileno()).settings != before


def test_connections_that_are_set_alike_have_the_same_settings(pair, of_ours):
    mine, other = pair
    for one in pair:
        one.setsockopt(TCP, socket.TCP_NODELAY, 1)
    assert of_ours(mine.fileno()).settings == of_ours(other.fileno()).settings
    mine.sendall(bytes(100_000))
    other.recv(100_000, socket.MSG_WAITALL)
    assert of_ours(mine.fileno()).settings == of_ours(other.fileno()).settings


@pytest.mark.parametrize(
    ("btf", "why"), [(None, "No such file"), (b"nonsense", "BTF")], ids=["no account", "one of another kind"]
)
def test_a_kernel_that_cannot_be_asked_is_said_and_is_no_error(tmp_path, monkeypatch, caplog, btf, why: str):
    monkeypatch.setattr(openfiles, "BTF", tmp_path / "vmlinux")
    if btf is not None:
        openfiles.BTF.write_bytes(btf)
    caplog.set_level(logging.INFO)
    made = OpenFiles(Kernel())
    made.learn()
    assert not made.can_be_asked
    assert why in caplog.text


def test_who_may_not_ask_is_no_error_either(unasked: OpenFiles):
    assert not unasked.can_be_asked


def test_what_is_cut_off_makes_no_sense(open_files: OpenFiles, monkeypatch):
    """As if the kernel had said less."""
    read = os.read
    monkeypatch.setattr(openfiles.os, "read", lambda fd, count: read(fd, count)[:-1])
    pidfd = os.pidfd_open(os.getpid())
    try:
        with pytest.raises(ValueError, match="not told all"):
            open_files.of(pidfd)
    finally:
        os.close(pidfd)
