"""The epolls of a stopped tree, and what each watches (epoll(7), proc_pid_fdinfo(5))."""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress
from itertools import islice

from checkpoint.core.descriptors import Epoll, Place, Target
from checkpoint.kernel import Kernel
from checkpoint.processes import procfd
from checkpoint.sockets.inventory import INO_MASK

_MANY = 64
"""Each is compared with each: where there are more, that is not worth it."""


class OddError(Exception):
    """An epoll that watches what is not where its number says: whoever wants to know more has to look for it."""


class Watching:
    """Looks at them, and remembers what it has read: most of what they watch is the same when it looks again. `close`
    when nobody will."""

    def __init__(self) -> None:
        self._targets: dict[bytes, Target] = {}
        """By the line that says it."""
        self._lists: dict[Place, int] = {}
        """Open, what the kernel says of each: it writes twice as fast into a buffer that it has (K: seq_file.c)."""

    def learn(self, places: Iterable[Place]) -> None:
        """Look at the epolls that are open at these places, of processes that run."""
        self.close()
        for place in islice(places, _MANY):
            with suppress(OSError):
                self._lists[place] = procfd.open_watched(*place)
                self._read([place])

    def close(self) -> None:
        for fd in self._lists.values():
            os.close(fd)
        self._lists.clear()

    def watching(
        self, kernel: Kernel, places: Collection[Place], inodes: Mapping[Place, int], wanted: Container[int]
    ) -> list[Epoll]:
        """The epolls, which are open at these `places`, that watch a socket of the inodes `wanted`, or one that does;
        `inodes` has those of all sockets.

        Raises OddError, OSError.
        """
        if len(places) > _MANY:
            raise OddError("there are many epolls")
        epolls = [self._read(group) for group in _told_apart(kernel, sorted(places))]
        found: list[Epoll] = []
        known: set[Place] = set()
        while more := [one for one in epolls if one not in found and _watches(one, inodes, wanted, known)]:
            found += more
            known |= {place for one in more for place in one.places}
        for one in found:
            _check(kernel, one, inodes)
        return found

    def _read(self, places: list[Place]) -> Epoll:
        lines = self._lines(places[0])
        known = self._targets
        for line in set(lines) - known.keys():
            known[line] = _target(line)
        return Epoll(places, procfd.descriptor(*places[0]).flags, list(map(known.__getitem__, lines)))

    def _lines(self, place: Place) -> list[bytes]:
        known = self._lists.get(place)
        return procfd.watched(*place) if known is None else procfd.watched_again(known)


def _told_apart(kernel: Kernel, places: Iterable[Place]) -> list[list[Place]]:
    """The places of each open file: it may be open in several."""
    groups: list[list[Place]] = []
    for place in places:
        for group in groups:
            if kernel.are_one_file(group[0], place):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def _target(line: bytes) -> Target:
    """Of `tfd:        5 events:       19 data:                5  pos:0 ino:ae0c75 sdev:9` (K: eventpoll.c,
    ep_show_fdinfo)."""
    words = line.replace(b":", b" ").split()
    return Target(
        int(words[1]), int(words[3], 16), int(words[5], 16), int(words[7]), int(words[9], 16), int(words[11], 16)
    )


def _watches(epoll: Epoll, inodes: Mapping[Place, int], wanted: Container[int], known: Container[Place]) -> bool:
    """In whichever process: those that it may be open in have forked from another."""
    pids = {pid for pid, _ in epoll.places}
    places = ((pid, one.fd) for one in epoll.targets for pid in pids)
    return any((place in known) or (inodes.get(place) in wanted) for place in places) or any(
        one.ino & INO_MASK in wanted for one in epoll.targets
    )


def _check(kernel: Kernel, epoll: Epoll, inodes: Mapping[Place, int]) -> None:
    """CRIU makes the epoll in the first process that has it, and watches what has these numbers there."""
    pid, number = epoll.places[0]
    if len({one.fd for one in epoll.targets}) < len(epoll.targets):
        raise OddError("an epoll watches two files under one number")
    for one in epoll.targets:
        if inodes.get((pid, one.fd)) != one.ino & INO_MASK and not kernel.is_watched(pid, number, one.fd):
            raise OddError(f"an epoll watches a file that is no longer descriptor {one.fd}")
