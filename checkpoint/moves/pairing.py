"""The copy's ends of pairs (`checkpoint.core.pairs`), at the destination: made before the freeze, and given to the copy
when CRIU has made it."""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import socket
from collections.abc import Iterable
from contextlib import suppress

from checkpoint.api import Changed, Connections, Paired, Socket
from checkpoint.core import pairs
from checkpoint.core.descriptors import Place
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added
from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.processes.tree import Tree
from checkpoint.sockets import ends, legs, live, profile
from checkpoint.sockets.giving import Door, Gift
from checkpoint.sockets.legs import LegNumbers
from checkpoint.sockets.watches import Target, Watches

_LOG = logging.getLogger(__name__)


class Pairing:
    """One migration's. `make`, then `choose`, `check`, `give` and `adjust`; `close` at any time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._door: Door | None = None
        self._left = pairs.Left()
        self._gifts: dict[int, dict[int, Gift]] = {}
        """What each process of the copy is to get, by its number there."""
        self._ends: dict[int, socket.socket] = {}
        """By the flow's number."""
        self._reuse_address: set[int] = set()
        """Of which SO_REUSEADDR stays set."""
        self._watches = Watches(kernel)
        self._wanted: list[tuple[Place, list[Target]]] = []
        """What each epoll of the copy is to watch."""
        self._are_the_copys = False

    async def make(self, wanted: Connections) -> Paired:
        """Those that cannot be made go by their images. Raises AgentError for legs that make no sense."""
        self._drop()
        numbers = legs.numbers_of(wanted.legs)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        await asyncio.to_thread(self._make, list(zip(wanted.sockets, numbers, strict=True))[:most])
        return Paired(list(self._ends))

    @property
    def inherited(self) -> dict[str, int]:
        """What CRIU's restore may ask for, by its key."""
        if self._door is None:
            self._door = Door()
        return {added.DOOR: self._door.fd}

    def choose(self, images: Images) -> list[str]:
        """End those that the images do not want; gives the keys of what CRIU will ask for. Raises AgentError
        IMAGE_DAMAGED for one that is not here."""
        self._left = images.ours(pairs.FILE, pairs.Left, pairs.Left())
        wanted = [one.flow for one in self._left.connections]
        if missing := set(wanted) - self._ends.keys():
            raise AgentError(Code.IMAGE_DAMAGED, f"the images ask for connections that are not here: {sorted(missing)}")
        self._end(self._ends.keys() - set(wanted))
        return [added.DOOR] if self._left.doors else []

    def check(self) -> None:
        """That those which are left can be given, beside CRIU. Blocks: 3 us each.

        Raises AgentError IMAGE_DAMAGED where the images make no sense, and CONNECTION_STATE for one that has ended.
        """
        self._sort()
        happened = live.happened(self._ends.values())
        if ended := [flow for flow, sock in self._ends.items() if happened.get(sock.fileno(), 0) & ~select.POLLIN]:
            raise AgentError(Code.CONNECTION_STATE, f"what was made ahead of the flows {ended} has ended: try again")
        self._wanted = [((one.pid, one.fd), self._targets(one)) for one in self._left.watches]

    async def give(self, copy: Tree) -> None:
        """CRIU has made the copy: it gets them, and its epolls watch them. Raises AgentError."""
        if not self._gifts.keys() <= set(copy.pids):  # nobody else is to get anything
            raise AgentError(Code.IMAGE_DAMAGED, f"{pairs.FILE} is not about these processes")
        try:
            await asyncio.to_thread(self._give)
        except OSError as error:
            raise AgentError(Code.KERNEL, f"the copy cannot be given its connections: {error.strerror}") from error
        self._are_the_copys = True

    def _give(self) -> None:
        for flow, sock in self._ends.items():  # its listeners have their ports by now
            ends.finish(self._kernel, sock, reuse_address=flow in self._reuse_address)
        for pid, number in self._left.doors:
            assert self._door is not None  # CRIU has given its other end to the copy
            self._door.give(self._kernel, pid, number, self._gifts[pid])
        self._watches.begin(self._wanted)

    def _targets(self, watch: pairs.Watch) -> list[Target]:
        mine = self._gifts[watch.pid]
        return [Target(mine[number].fd, number, *rest) for number, *rest in watch.targets]

    def adjust(self, changes: Iterable[Changed]) -> None:
        """Raises AgentError."""
        for one in changes:
            if (sock := self._ends.get(one.flow)) is None:
                raise AgentError(Code.BAD_REQUEST, f"flow {one.flow} is of no pair")
            try:
                profile.write(sock, one.options)
                if one.flags is not None:
                    profile.set_flags(sock, one.flags)
            except OSError as error:
                names = ", ".join(name for name, *_ in one.options)
                raise AgentError(Code.KERNEL, f"{names} cannot be set here: {error.strerror}") from error

    def close(self) -> None:
        """Those that the copy has stay as they are."""
        self._drop()
        if self._door is not None:
            self._door.close()
            self._door = None

    def _drop(self) -> None:
        self._watches.close()
        if not self._are_the_copys:
            self._end(list(self._ends))
        for sock in self._ends.values():
            sock.close()
        self._ends.clear()

    def _sort(self) -> None:
        """By process. Raises AgentError IMAGE_DAMAGED."""
        self._gifts = {}
        for one in self._left.connections:
            ours = self._ends[one.flow].fileno()
            for pid, number, closed in one.places:
                self._gifts.setdefault(pid, {})[number] = Gift(ours, closed)
        doors = {pid for pid, _ in self._left.doors}
        watched = {(one.pid, number) for one in self._left.watches for number, *_ in one.targets}
        given = {(pid, number) for pid, gifts in self._gifts.items() for number in gifts}
        watching = {one.pid for one in self._left.watches}
        if doors != self._gifts.keys() or not watched <= given or not watching <= doors:
            raise AgentError(Code.IMAGE_DAMAGED, f"{pairs.FILE} makes no sense")

    def _make(self, wanted: Iterable[tuple[Socket, LegNumbers]]) -> None:
        numbers: dict[int, int] = {}
        for one, leg in wanted:
            try:
                self._ends[leg.flow] = ends.make(self._kernel, one, leg)
            except (OSError, ValueError) as error:
                _LOG.info("flow %d is not made ahead: %s", leg.flow, error)
            else:
                if one.reuse_address:
                    self._reuse_address.add(leg.flow)
                numbers[self._ends[leg.flow].fileno()] = one.number
        self._watches.place(numbers)

    def _end(self, flows: Iterable[int]) -> None:
        for flow in flows:
            with suppress(OSError):
                ends.discard(self._kernel, self._ends.pop(flow))
