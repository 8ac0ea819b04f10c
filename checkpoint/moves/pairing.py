"""The copy's ends of pairs (`checkpoint.core.pairs`), at the destination: made before the freeze, and CRIU's restore
takes them as they are."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Iterable
from contextlib import suppress

from checkpoint.api import Changed, Connections, Paired, Socket
from checkpoint.core import pairs, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added
from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.sockets import adopt, ends, live, profile
from checkpoint.sockets.adopt import LegNumbers

_LOG = logging.getLogger(__name__)


class Pairing:
    """One migration's. `make`, then `choose`, `finish` and `adjust`; `close` at any time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ends: dict[int, socket.socket] = {}
        """By the flow's number."""
        self._reuse_address: set[int] = set()
        """Of which SO_REUSEADDR stays set."""
        self._are_the_copys = False

    async def make(self, wanted: Connections) -> Paired:
        """Those that cannot be made go by their images. Raises AgentError for legs that make no sense."""
        legs = adopt.numbers_of(wanted.legs)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        await asyncio.to_thread(self._make, list(zip(wanted.sockets, legs, strict=True))[:most])
        return Paired(list(self._ends))

    @property
    def descriptors(self) -> dict[str, int]:
        """Ours, by the key under which CRIU asks for each."""
        return {added.key(flow): sock.fileno() for flow, sock in self._ends.items()}

    def choose(self, images: Images) -> list[str]:
        """End those that the images do not ask for; gives the keys of the others.

        Raises AgentError IMAGE_DAMAGED for one that is not here, and CONNECTION_STATE for one that has ended.
        """
        wanted = images.ours(pairs.FILE, list[int], [])
        if missing := set(wanted) - self._ends.keys():
            raise AgentError(Code.IMAGE_DAMAGED, f"the images ask for connections that are not here: {sorted(missing)}")
        self._end(self._ends.keys() - set(wanted))
        if ended := [one for one in wanted if live.state_of(self._ends[one]) != readdress.ESTABLISHED]:
            raise AgentError(Code.CONNECTION_STATE, f"what was made ahead of the flows {ended} has ended: try again")
        return [added.key(flow) for flow in wanted]

    def finish(self) -> None:
        """The copy has them, and its listeners their ports."""
        self._are_the_copys = True
        for flow, sock in self._ends.items():
            ends.finish(self._kernel, sock, reuse_address=flow in self._reuse_address)

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
        if not self._are_the_copys:
            self._end(list(self._ends))
        for sock in self._ends.values():
            sock.close()
        self._ends.clear()

    def _make(self, wanted: Iterable[tuple[Socket, LegNumbers]]) -> None:
        for one, leg in wanted:
            try:
                self._ends[leg.flow] = ends.make(self._kernel, one, leg)
            except (OSError, ValueError) as error:
                _LOG.info("flow %d is not made ahead: %s", leg.flow, error)
            else:
                if one.reuse_address:
                    self._reuse_address.add(leg.flow)

    def _end(self, flows: Iterable[int]) -> None:
        for flow in flows:
            with suppress(OSError):
                ends.discard(self._kernel, self._ends.pop(flow))
