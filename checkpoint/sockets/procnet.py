"""What /proc says of the sockets of a network namespace (proc_pid_net(5))."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkpoint.core import readdress

_EVERY_HOSTS = {"224.0.0.1", "224.0.0.2", "ff01::1", "ff02::1", "ff01::2", "ff02::2", "ff05::2"}


@dataclass(frozen=True)
class SocketLine:
    """One line of /proc/<pid>/net/tcp, tcp6, udp or udp6 (proc_pid_net(5))."""

    local: tuple[str, int]
    peer: tuple[str, int]
    state: int
    ino: int


def tcp_lines(pid: int | str = "self") -> Iterator[SocketLine]:
    """Every TCP socket of a process's network namespace."""
    return _socket_lines(pid, "tcp", "tcp6")


def udp_lines(pid: int | str = "self") -> Iterator[SocketLine]:
    """Every UDP socket of it that has a port; of one that is not connected the peer's is 0."""
    return _socket_lines(pid, "udp", "udp6")


def _socket_lines(pid: int | str, *kinds: str) -> Iterator[SocketLine]:
    for name in kinds:
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            parts = line.split()
            yield SocketLine(_end(parts[1]), _end(parts[2]), int(parts[3], 16), int(parts[9]))


def _end(text: str) -> tuple[str, int]:
    address, port = text.split(":")
    words = [int.from_bytes(bytes.fromhex(address[at : at + 8]), "big") for at in range(0, len(address), 8)]
    return readdress.host_of(words), int(port, 16)


def joined_groups(pid: int | str = "self") -> list[str]:
    """The multicast groups that sockets of a process's network namespace have joined: not those that every host is in
    (all nodes, all routers, its own solicited-node groups)."""
    found = set()
    for name, version in (("igmp", 4), ("igmp6", 6)):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            words = line.split()
            raw = words[2:3] if version == 6 else words[:1] if line.startswith("\t\t") else []
            found |= {_group(word, version) for word in raw}
    return sorted(found - _EVERY_HOSTS - {host for host in found if host.startswith("ff02::1:ff")})


def _group(word: str, version: int) -> str:
    raw = bytes.fromhex(word)
    return str(ipaddress.ip_address(raw if version == 6 else raw[::-1] if sys.byteorder == "little" else raw))


def listening_ports() -> list[int]:
    return sorted({line.local[1] for line in tcp_lines() if line.state == readdress.LISTEN})
