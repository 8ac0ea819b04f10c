"""The source's end of a direct transfer: connections dialled before the freeze, a folder that is sent as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from checkpoint.api import SendImages, TransferReport
from checkpoint.core.consignment import Consignment
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.memory import channel, identity
from checkpoint.transfer import PURPOSE
from checkpoint.transfer.shipment import Shipment, closed
from checkpoint.transfer.stream import Stream
from checkpoint.transfer.watch import Watch


class Sending:
    """One migration's: `open`; `watch`, for each new try `restart` and `watch`; `finish`. `close`, at any time."""

    def __init__(self, kernel: Kernel, shipment: Shipment, streams: list[Stream], folder: Path) -> None:
        self._kernel, self._shipment, self._streams, self._folder = kernel, shipment, streams, folder
        self._watch: Watch | None = None

    @classmethod
    async def open(cls, kernel: Kernel, image_key: bytes, folder: Path, wanted: SendImages) -> Sending:
        """Connect to the destination's agent. Raises AgentError TRANSFER_BROKEN."""
        secured = channel.context(identity.make(image_key, PURPOSE), server=False)
        shipment = Shipment(wanted.bytes_per_second)
        dial = partial(channel.connect, wanted.host, wanted.port, secured)
        streams = [Stream(number, str(folder), shipment, dial) for number in range(wanted.streams)]
        made = cls(kernel, shipment, streams, folder)
        try:
            await asyncio.gather(*(asyncio.to_thread(one.connect) for one in streams))
        except OSError as error:
            await made.close()
            words = f"the destination's agent cannot be reached at {wanted.host} port {wanted.port}: {error}"
            raise AgentError(Code.TRANSFER_BROKEN, words) from error
        for one in streams:
            one.start()
        return made

    def watch(self) -> None:
        """The folder, which is empty, is written from now on. Raises AgentError KERNEL."""
        self._watch = Watch(self._kernel, self._folder, self._shipment)

    async def offer(self, sizes: Mapping[str, int]) -> None:
        """These files of the folder are final already; returns when they have arrived. Raises AgentError."""

        def tell(consignment: Consignment) -> None:
            for name, size in sizes.items():
                consignment.closed(name, size)

        self._shipment.tell(tell)
        await asyncio.to_thread(self._shipment.catch_up)

    def restart(self) -> None:
        """The folder will be emptied, and written once more: what is on its way is not wanted any more."""
        self._unwatch()
        self._shipment.tell(Consignment.restart)

    def check(self) -> None:
        """Raises AgentError where it cannot be completed any more."""
        self._shipment.check()

    async def finish(self, sizes: Mapping[str, int]) -> TransferReport:
        """The folder is final: send what is left of it; returns when everything is in its files at the destination.

        `sizes` names all of its files. Raises AgentError.
        """
        self._unwatch()
        self._shipment.tell(lambda consignment: consignment.seal(sizes))
        await asyncio.to_thread(self._shipment.wait)
        await self._end()
        return self._report()

    def stop(self, problem: AgentError) -> None:
        """Break it off, for this reason: whoever waits for it is told."""
        self._shipment.stop(problem)
        for one in self._streams:
            one.hang_up()

    async def close(self) -> None:
        """At any time."""
        self.stop(closed())
        self._unwatch()
        await self._end()

    async def _end(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(one.join) for one in self._streams))

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _report(self) -> TransferReport:
        seen = self._shipment.squeeze.report()
        return TransferReport(
            "direct", seen.plain_bytes, seen.packed_bytes, self._shipment.seconds, len(self._streams),
            self._shipment.retries, seen.compressed_chunks,
        )  # fmt: skip
