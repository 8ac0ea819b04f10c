from __future__ import annotations

import socket

import pytest

from proxy.core.errors import Code, ProxyError
from proxy.io.blanks import Blanks
from proxy.sys.kernel import Kernel
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT


class Exhausted(Kernel):
    def tcp_socket(self, family: int) -> socket.socket:
        raise OSError(24, "Too many open files")


def test_those_that_are_ready_are_taken_first() -> None:
    blanks = Blanks(parts.KERNEL)
    blanks.prepare(socket.AF_INET)
    assert len(blanks) == 1
    taken = [blanks.take(family) for family in (socket.AF_INET, socket.AF_INET, socket.AF_INET6)]
    assert [sock.family for sock in taken] == [socket.AF_INET, socket.AF_INET, socket.AF_INET6]
    assert not len(blanks)
    for sock in taken:
        sock.close()


def test_the_others_are_closed() -> None:
    blanks = Blanks(parts.KERNEL)
    blanks.prepare(socket.AF_INET)
    (sock,) = blanks._ready[socket.AF_INET]
    blanks.close()
    assert sock.fileno() < 0
    assert not len(blanks)


def test_one_that_cannot_be_had_is_missed_when_it_is_needed() -> None:
    blanks = Blanks(Exhausted())
    blanks.prepare(socket.AF_INET)
    with pytest.raises(ProxyError, match="Too many") as raised:
        blanks.take(socket.AF_INET)
    assert raised.value.code is Code.LEG_NOT_BUILT
