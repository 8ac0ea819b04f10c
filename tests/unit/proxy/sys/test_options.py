"""The numbers against the kernel's own headers, where the machine has them."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from proxy.sys import options

HEADERS = {
    "linux/tcp.h": "TCP_MAXSEG TCP_WINDOW_CLAMP TCP_INFO TCP_REPAIR TCP_REPAIR_QUEUE TCP_QUEUE_SEQ TCP_REPAIR_OPTIONS "
    "TCP_TIMESTAMP TCP_REPAIR_WINDOW",
    "asm-generic/socket.h": "SO_SNDBUFFORCE SO_RCVBUFFORCE SO_MEMINFO SO_BUF_LOCK SO_RCVMARK",
    "linux/in.h": "IP_TRANSPARENT",
    "linux/in6.h": "IPV6_TRANSPARENT",
    "linux/netlink.h": "NETLINK_ROUTE NETLINK_NETFILTER",
}


@pytest.mark.parametrize("header", HEADERS)
def test_the_numbers_are_the_headers(header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path} here")
    defined = dict(re.findall(r"#define\s+(\w+)\s+(\d+)", path.read_text()))
    for name in HEADERS[header].split():
        assert getattr(options, name) == int(defined[name])


def test_the_numbers_python_has() -> None:
    assert options.SOL_TCP == socket.IPPROTO_TCP
    assert options.TCP_INFO == socket.TCP_INFO
    assert options.TCP_WINDOW_CLAMP == socket.TCP_WINDOW_CLAMP


def test_tcp_info_is_laid_out_as_expected() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=33) as server:
        info = server.getsockopt(options.SOL_TCP, options.TCP_INFO, options.INFO_BYTES)
    assert info[options.INFO_STATE] == 10
    assert int.from_bytes(info[options.INFO_SACKED : options.INFO_SACKED + 4], "little") == 33
    assert info[options.INFO_UNACKED] == 0
