"""Which names, addresses and PIDs a lab and its pods have. Pure arithmetic: no I/O here.

A lab is one number from 0 to 511. From it follow the bridge's name, the IPv4 /24 and the IPv6 /64, so two labs that
have different bridges have different addresses, and the kernel, which refuses a second bridge of the same name, is the
referee.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from controller.lab.errors import BadName, HomePathTooLong, LabFull

LABS = 512
MAX_PODS = 253
"""A /24 without its network, gateway (.254) and broadcast addresses."""

LAB_BLOCK = IPv4Network("198.18.0.0/15")
"""Set aside for tests of network devices (RFC 2544), so real networks hardly ever use it; it holds 512 /24s."""

LAB_BLOCK6 = IPv6Network("fd6d:6964:7374::/48")
"""A unique local prefix (RFC 4193); 6d 69 64 73 74 is "midst"."""

MAX_NAME_LENGTH = 32
MAX_SOCKET_PATH_BYTES = 99
"""sun_path has 108 bytes with its final NUL (unix(7)); a sidecar may add a suffix until it serves, and then rename."""

FIRST_BLOCK_PID = 1024
"""Below are the low numbers that each pod's own first processes have."""

MIN_BLOCK_PIDS = 1024
"""A smaller block would be used up by the processes of a few moves (CRIU's helpers take numbers too)."""

_NAME = re.compile(rf"[a-z0-9](?:[a-z0-9-]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?")

Network = IPv4Network | IPv6Network


class Addressing(msgspec.Struct, frozen=True):
    """The names and addresses of lab `number`."""

    number: int

    @property
    def bridge(self) -> str:
        return f"midst-{self.number}"

    def link(self, index: int) -> str:
        """The host's end of a pod's veth: at most 13 of the 15 characters an interface name may have."""
        return f"{self.bridge}-{index}"

    @property
    def network(self) -> IPv4Network:
        return IPv4Network((int(LAB_BLOCK.network_address) + (self.number << 8), 24))

    @property
    def network6(self) -> IPv6Network:
        return IPv6Network((int(LAB_BLOCK6.network_address) + (self.number << 64), 64))

    def address(self, index: int) -> IPv4Address:
        return self.network[index]

    def address6(self, index: int) -> IPv6Address:
        return self.network6[index]

    @property
    def gateway(self) -> IPv4Address:
        return self.network[MAX_PODS + 1]

    @property
    def gateway6(self) -> IPv6Address:
        return self.network6[MAX_PODS + 1]


def candidates(home: str) -> Iterator[Addressing]:
    """Every lab number, the one that `home` is most likely to have had before first."""
    first = int.from_bytes(hashlib.sha256(home.encode()).digest()[:4], "big")
    return (Addressing((first + step) % LABS) for step in range(LABS))


def collides(lab: Addressing, taken: Iterable[Network]) -> bool:
    """Whether a network in use overlaps one of the lab's. Default routes overlap everything and don't count."""
    ours: tuple[Network, ...] = (lab.network, lab.network6)
    return any(net.prefixlen and net.version == own.version and net.overlaps(own) for net in taken for own in ours)


def free_index(taken: set[int]) -> int:
    """The smallest pod index not in `taken`. Raises LabFull."""
    for index in range(1, MAX_PODS + 1):
        if index not in taken:
            return index
    raise LabFull(f"the lab has {MAX_PODS} pods already")


def check_name(name: str) -> str:
    """The name, if it may be a pod's: a DNS label (RFC 1123) of at most 32 characters. Raises BadName."""
    if not _NAME.fullmatch(name):
        raise BadName(f"{name!r} cannot be a pod's name")
    return name


def check_socket_path(path: str) -> None:
    """Raises HomePathTooLong when no unix socket can be bound at `path`."""
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise HomePathTooLong(f"{path} is {len(path.encode())} bytes long")


def first_pid(index: int, pid_max: int) -> int:
    """Where the PIDs of what runs in pod `index` begin.

    A restored process keeps its PIDs, so they must be free in every pod it may move to: each pod counts in a block of
    its own. With a pid_max of 32,768 there are 31 blocks of 1,024, with 4,194,304 one of 16,508 for every pod.
    """
    room = max(pid_max - FIRST_BLOCK_PID, 1)
    size = max(MIN_BLOCK_PIDS, room // (MAX_PODS + 1))
    blocks = max(room // size, 1)
    return FIRST_BLOCK_PID + (index - 1) % blocks * size
