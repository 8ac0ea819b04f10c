from __future__ import annotations

import socket

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.sys import address


def test_a_mapped_address_is_the_ipv4_one() -> None:
    assert address.plain("::ffff:10.0.0.1") == "10.0.0.1"
    assert address.plain("::ffff:a00:1") == "::ffff:a00:1"  # not how the kernel writes it
    assert address.plain("fd00::1") == "fd00::1"
    assert address.endpoint(("::ffff:10.0.0.1", 80, 0, 0)) == Endpoint("10.0.0.1", 80)


def test_the_family_is_seen() -> None:
    assert address.family("fd00::1") == socket.AF_INET6
    assert address.family("10.0.0.1") == socket.AF_INET


def test_only_addresses_of_the_map_change() -> None:
    readdress = {"10.0.0.1": "10.0.0.2", "fd00::1": "fd00::2"}
    assert address.readdressed(Endpoint("::ffff:10.0.0.1", 7), readdress) == Endpoint("10.0.0.2", 7)
    assert address.readdressed(Endpoint("fd00::1", 7), readdress) == Endpoint("fd00::2", 7)
    assert address.readdressed(Endpoint("127.0.0.1", 7), readdress) == Endpoint("127.0.0.1", 7)


@pytest.mark.parametrize("host", ["localhost", "", "10.0.0", "10.0.0.1\0", "fd00::1%eth0", ":::"])
def test_a_name_is_no_address(host: str) -> None:
    with pytest.raises(ProxyError) as raised:
        address.require_literal(host)
    assert raised.value.code is Code.BAD_REQUEST


def test_an_address_is_one() -> None:
    address.require_literal("10.0.0.1")
    address.require_literal("fd00::1")
