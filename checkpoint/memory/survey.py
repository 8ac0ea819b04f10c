"""Which blocks of their large areas some processes have ever written: found out while they run, as far as that goes,
so that once they stand still only what has come since is looked for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from checkpoint.core import smaps
from checkpoint.core.areas import Area, add, between, join, within
from checkpoint.core.smaps import Mapping
from checkpoint.memory import scan, urgency
from checkpoint.processes import procfs


class Survey:
    """Of one move, however often its dump is begun."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[int, int]]] = {}
        """What each process had while it ran, as far as that was looked at, joined."""
        self._mappings: dict[int, list[Mapping]] = {}
        """All areas that each process had then."""
        self._areas: dict[int, list[Area]] = {}
        self._written: dict[tuple[int, Area], list[tuple[int, int]]] = {}
        self._error: OSError | None = None
        self._ahead: threading.Thread | None = None
        self._looking: threading.Thread | None = None

    def begin_ahead(self, pids: list[int]) -> None:
        """These run: see, in a thread, what they have now. Nothing, where that was begun before.

        What they give back meanwhile comes as zeros.
        """
        if self._ahead is None:
            self._ahead = threading.Thread(target=self._look_ahead, args=(pids,), name="look ahead", daemon=True)
            self._ahead.start()

    def is_ahead(self, patience_seconds: float) -> bool:
        """Whether all was looked at that was there when that began, by then."""
        if self._ahead is not None:
            self._ahead.join(patience_seconds)
        return self._ahead is None or not self._ahead.is_alive()

    def begin(self, pids: list[int]) -> None:
        """These stand still: see which areas they have, and begin to look what is in them. Raises OSError.

        What they had at another beginning they still have, for they have stood still since then.
        """
        if self._looking is not None:
            return
        for pid in pids:
            self._areas[pid] = scan.large_areas(pid)
        self._looking = threading.Thread(target=self._look, name="look", daemon=True)
        self._looking.start()

    def areas(self, pid: int) -> list[Area]:
        """The large areas of a process that stands still."""
        return self._areas.get(pid, [])

    def smaps(self, pid: int, shown: Collection[Area] = ()) -> str | None:
        """What /proc/<pid>/smaps has of each area of a process that stands still, but for what it counts, and for the
        ends of those that are `shown` in part; None where that is not known."""
        if pid not in self._mappings or pid not in self._areas:
            return None
        try:
            return smaps.text((_folder(pid) / "maps").read_text(), self._mappings[pid], shown)
        except (OSError, UnicodeDecodeError):
            return None

    def written(self, pid: int, area: Area) -> list[tuple[int, int]]:
        """Which ranges of an area were ever written, in rising order; waits until that is known. Raises OSError."""
        assert self._looking is not None
        self._looking.join()
        if self._error is not None:
            raise self._error
        return join(self._written[pid, area])

    def _look_ahead(self, pids: list[int]) -> None:
        urgency.step_back()
        for pid in pids:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if procfs.memory_bytes(pid)[0] >= smaps.MUCH_BYTES:
                    self._mappings[pid] = smaps.parse((_folder(pid) / "smaps").read_text().split("\n"))
            seen = self._seen.setdefault(pid, [])
            with contextlib.suppress(OSError), _page_map(pid) as page_map:  # one that has ended has nothing
                for area in scan.large_areas(pid):
                    for found in scan.written(page_map, area):
                        if self._looking is not None:
                            return
                        add(seen, found)

    def _look(self) -> None:
        try:
            for pid, areas in self._areas.items():
                seen = list(self._seen.get(pid, ()))
                with _page_map(pid) as page_map:
                    for area in areas:
                        known = within(area, seen)
                        new = [found for rest in between(area, known) for found in scan.written(page_map, rest)]
                        self._written[pid, area] = sorted(known + new)
        except OSError as error:
            self._error = error


@contextlib.contextmanager
def _page_map(pid: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _folder(pid: int) -> Path:
    return Path(f"/proc/{pid}")
