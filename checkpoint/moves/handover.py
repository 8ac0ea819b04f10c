"""The way of a workload's sockets to the proxy: one message after the other, as it has room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from checkpoint.core.errors import AgentError
from checkpoint.sockets.adopt import Given, PairedSocket, Taken
from checkpoint.sockets.adoption import Adoption


class Handover:
    """One migration's. The connection to the proxy is made with the first message.

    While CRIU dumps nobody waits: `listen`, and `give` as long as it `has_room`. Afterwards `room` before each message,
    and `settle` in the end.
    """

    def __init__(
        self, path: str, migration: str, lost: Callable[[], None], taken: Callable[[Taken], None]
    ) -> None:  # fmt: skip
        """`lost` is called when the proxy dies while it has the sockets, `taken` for each message that it has taken."""
        self._path, self._migration, self._lost, self._taken = path, migration, lost, taken
        self._adoption: Adoption | None = None
        self._heard: Callable[[], None] | None = None
        self._legs: list[msgspec.Raw] = []
        """Those that nobody was told yet."""
        self._pairs: list[msgspec.Raw] = []
        """The legs of pairs, likewise."""

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called as long as the proxy has said something (`hear`)."""
        self._heard = heard

    def deafen(self) -> None:
        """What it says from now on is waited for."""
        self._heard = None
        if self._adoption is not None:
            self._adoption.deafen()

    def hear(self) -> None:
        """Keep what it has said, without waiting. Raises AgentError."""
        for taken in self._adoption.answered() if self._adoption is not None else ():
            self._keep(taken)

    @property
    def has_room(self) -> bool:
        return self._adoption is None or self._adoption.has_room

    async def room(self) -> None:
        """Wait until it has room for one message more. Raises AgentError."""
        if self._adoption is not None and not self._adoption.has_room:
            self._keep(await self._adoption.next())

    def give(self, some: Sequence[Given], flow_count: int) -> None:
        """One message. Raises AgentError."""
        self._connected().give(some, flow_count)

    def give_paired(self, some: Sequence[PairedSocket], flow_count: int) -> None:
        """One message of connections that were foreseen. Raises AgentError."""
        self._connected().give_paired(some, flow_count)

    async def settle(self) -> None:
        """Wait until it has everything; from then on its end is noticed. Raises AgentError."""
        if self._adoption is not None:
            for taken in await self._adoption.settle():
                self._keep(taken)
            self._adoption.watch()

    async def begin_again(self) -> None:
        """Everything is going to be given once more; what was said of it is worth nothing. Raises AgentError."""
        if self._adoption is not None:
            await self._adoption.drain()
        self._legs.clear()
        self._pairs.clear()

    def take_legs(self) -> tuple[msgspec.Raw, msgspec.Raw]:
        """Those that nobody was told yet, and those of pairs, each as a JSON list; from now on they are."""
        legs, paired = (msgspec.Raw(b"[" + b",".join(map(bytes, some)) + b"]") for some in (self._legs, self._pairs))
        self._legs.clear()
        self._pairs.clear()
        return legs, paired

    def hurry(self) -> None:
        """It is going back: nobody waits long for the proxy any more."""
        if self._adoption is not None:
            self._adoption.hurry()

    async def release(self) -> None:
        """Have the proxy give everything back."""
        if self._adoption is not None:
            # A proxy that is dead or deaf has let go already, or its legs are mended by the engine.
            with suppress(AgentError):
                await self._adoption.release()

    def close(self) -> None:
        if self._adoption is not None:
            self._adoption.close()
            self._adoption = None

    def _connected(self) -> Adoption:
        if self._adoption is None:
            self._adoption = Adoption(self._path, self._migration, self._lost)
            if self._heard is not None:
                self._adoption.listen(self._heard)
        return self._adoption

    def _keep(self, taken: Taken) -> None:
        self._taken(taken)
        self._legs += taken.legs
        self._pairs += taken.pairs
