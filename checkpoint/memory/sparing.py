"""What the giver does beside CRIU's dump: it answers CRIU's questions, and finds out what the spared areas have."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from checkpoint.core.areas import Area, between, join, large, within
from checkpoint.criu import questions
from checkpoint.memory import scan, urgency


class Sparing:
    """Of one dump: another one gets another."""

    def __init__(self, listener: int) -> None:
        """`listener` is `checkpoint.memory.shade`'s; ours from now on."""
        self._listener = listener
        self._areas: dict[int, list[Area]] = {}
        self._seen: dict[int, list[tuple[int, int]]] = {}
        """What each process had while it ran, as far as that was looked at."""
        self._written: dict[tuple[int, Area], list[tuple[int, int]]] = {}
        self._spared: set[tuple[int, Area]] = set()
        self._hidden: dict[int, frozenset[int]] = {}
        """The descriptors of each process that CRIU is not to see."""
        self._is_told = threading.Event()
        self._error: OSError | None = None
        self._looking = threading.Thread(target=self._look, name="look", daemon=True)
        threading.Thread(target=self._answer, name="answer", daemon=True).start()

    def look_ahead(self, pids: list[int]) -> None:
        """These run: see what they have now, so that there is less to look at once they stand still. For a thread.

        What they give back meanwhile comes as zeros.
        """
        urgency.step_back()
        for pid in pids:
            seen = self._seen.setdefault(pid, [])
            with contextlib.suppress(OSError), _page_map(pid) as page_map:  # one that has ended has nothing
                for area in _large(pid):
                    for found in scan.written(page_map, area):
                        if self._looking.ident is not None:
                            return
                        seen.append(found)

    def begin(self, pids: list[int]) -> None:
        """These stand still: see which areas they have, and begin to look what is in them. Raises OSError."""
        for pid in pids:
            self._areas[pid] = _large(pid)
        self._looking.start()

    def hide(self, descriptors: dict[int, list[int]]) -> None:
        """Of these processes CRIU is not to see these descriptors. It waits for that before it sees any."""
        self._hidden = {pid: frozenset(some) for pid, some in descriptors.items()}
        self._is_told.set()

    def write(self, path: Path) -> None:
        """After the dump: for each process the ranges that the dump has not, and that were ever written.

        Raises OSError. A kernel without PAGEMAP_SCAN (before Linux 6.7) answers neither us nor CRIU, which then asks
        nobody and is spared nothing: that is none.
        """
        self._looking.join()
        if self._error is not None and self._spared:
            raise self._error
        found: dict[int, list[tuple[int, int]]] = {}
        for pid, area in sorted(self._spared):
            found.setdefault(pid, []).extend(join(self._written[pid, area]))
        path.write_text(json.dumps(found))

    def _answer(self) -> None:
        """Should it fail, the kernel refuses what CRIU asks then, and the dump fails."""
        try:
            questions.answer_all(self._listener, self._hidden_of, lambda asked: scan.answer(asked, self._find))
        except OSError as error:
            print(f"CRIU's questions cannot be answered: {error}", file=sys.stderr, flush=True)
        finally:
            os.close(self._listener)

    def _hidden_of(self, pid: int) -> frozenset[int]:
        self._is_told.wait()
        return self._hidden.get(pid, frozenset())

    def _find(self, pid: int, start: int, end: int) -> Area | None:
        for area in self._areas.get(pid, ()):
            if area.start <= start and end == area.end:
                self._spared.add((pid, area))
                return area
        return None

    def _look(self) -> None:
        try:
            for pid, areas in self._areas.items():
                seen = join(self._seen.get(pid, ()))
                with _page_map(pid) as page_map:
                    for area in areas:
                        known = within(area, seen)
                        new = [found for rest in between(area, known) for found in scan.written(page_map, rest)]
                        self._written[pid, area] = sorted(known + new)
        except OSError as error:
            self._error = error


def _large(pid: int) -> list[Area]:
    folder = Path(f"/proc/{pid}")
    return large((folder / "maps").read_text(), (folder / "status").read_text())


@contextlib.contextmanager
def _page_map(pid: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
