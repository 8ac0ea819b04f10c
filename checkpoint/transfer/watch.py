"""Sees CRIU write a folder of images, and says what of it can be sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from checkpoint.core.consignment import Consignment
from checkpoint.images.watch import FolderWatch
from checkpoint.kernel import IN_CLOSE_WRITE, IN_MODIFY, Kernel
from checkpoint.transfer.shipment import Shipment


class Watch:
    """Of one folder; it must be there. Raises AgentError KERNEL."""

    def __init__(self, kernel: Kernel, folder: Path, shipment: Shipment) -> None:
        self._folder, self._shipment = folder, shipment
        self._watch = FolderWatch(kernel, folder, IN_MODIFY | IN_CLOSE_WRITE, self._tell)

    def close(self) -> None:
        self._watch.close()

    def _tell(self, masks: Mapping[str, int]) -> None:
        written = list(self._written(masks))

        def tell(consignment: Consignment) -> None:
            for name, size, closed in written:
                (consignment.closed if closed else consignment.grown)(name, size)

        self._shipment.tell(tell)

    def _written(self, masks: Mapping[str, int]) -> Iterator[tuple[str, int, bool]]:
        """The files that are still there: name, size by now, whether closed."""
        for name, mask in masks.items():
            try:
                found = (self._folder / name).lstat()
            except FileNotFoundError:
                continue
            yield name, found.st_size, bool(mask & IN_CLOSE_WRITE)
