"""Descriptors of a workload, and the epolls that watch them, as they go into CRIU's images without CRIU having looked.
Pure: what it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

Place = tuple[int, int]
"""A descriptor of the tree: PID and number."""


class Target(msgspec.Struct, frozen=True):
    """What an epoll watches."""

    fd: int
    """Its number in the process that had it watched."""
    events: int
    data: int
    position: int
    ino: int
    device: int


class Epoll(msgspec.Struct, frozen=True):
    places: list[Place]
    """Where it is open, in rising order."""
    flags: int
    """Of open(2)."""
    targets: list[Target]


class Unconnected(msgspec.Struct, frozen=True):
    """A TCP socket that listens, or is nothing yet."""

    ino: int
    state: int
    """LISTEN or CLOSE (linux/tcp_states.h)."""
    words: tuple[int, ...]
    """Its own address, one word or four, as the images have it."""
    port: int
    backlog: int
    flags: int
    """Of open(2)."""
    send_buffer: int
    """Bytes, as getsockopt(2) says them; so is the next."""
    receive_buffer: int
    reuse_address: bool
    reuse_port: bool
    six_only: bool


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of them, which rise."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield run[0], run[-1]
