"""What the giver does beside CRIU's dump: it answers CRIU's questions, and says what the spared areas have."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from checkpoint.core.areas import Area, shown
from checkpoint.criu import questions
from checkpoint.criu.questions import Question
from checkpoint.memory import scan
from checkpoint.memory.survey import Survey


class Sparing:
    """Of one dump: another one gets another."""

    def __init__(self, listener: int, survey: Survey) -> None:
        """`listener` is `checkpoint.criu.shade`'s; ours from now on. `survey` is of the processes that are dumped."""
        self._listener, self._survey = listener, survey
        self._spared: set[tuple[int, Area]] = set()
        self._shown: dict[int, list[int]] = {}
        """The descriptors that CRIU is to see of these processes."""
        self._shortened: set[int] = set()
        self._is_told = threading.Event()
        threading.Thread(target=self._answer, name="answer", daemon=True).start()

    def show(self, descriptors: dict[int, list[int]]) -> None:
        """Of these processes CRIU is to see these descriptors alone. It waits for that before it sees any."""
        self._shown = {pid: sorted(some) for pid, some in descriptors.items()}
        self._is_told.set()

    @property
    def shortened(self) -> list[int]:
        """The processes of whose large areas CRIU was `shown` a part."""
        return sorted(self._shortened)

    def write(self, path: Path) -> None:
        """After the dump: for each process the ranges that the dump has not, and that were ever written.

        Raises OSError. A kernel without PAGEMAP_SCAN (before Linux 6.7) answers neither us nor CRIU, which then asks
        nobody and is spared nothing: that is none.
        """
        found: dict[int, list[tuple[int, int]]] = {}
        for pid, area in sorted(self._spared):
            found.setdefault(pid, []).extend(self._survey.written(pid, area))
        path.write_text(json.dumps(found))

    def _answer(self) -> None:
        """Should it fail, the kernel refuses what CRIU asks then, and the dump fails."""
        try:
            questions.answer_all(self._listener, self._shown_of, self._result)
        except OSError as error:
            print(f"CRIU's questions cannot be answered: {error}", file=sys.stderr, flush=True)
        finally:
            os.close(self._listener)

    def _result(self, asked: Question) -> int | None:
        """What pages there are in the areas that CRIU is spared, and what areas there are."""
        if not asked.opens:
            return 0 if scan.answer(asked, self._find) else None
        return self._give_smaps(asked) if asked.name == "smaps" else None

    def _give_smaps(self, asked: Question) -> int | None:
        # What it is not shown it asks nobody about, and only where the kernel can say what is there will it come.
        areas = self._survey.areas(asked.about) if scan.is_known() else []
        text = self._survey.smaps(asked.about, [shown(area) for area in areas])
        if text is None:
            return None
        with open(os.memfd_create("smaps"), "w+b", buffering=0) as file:
            os.pwrite(file.fileno(), text.encode(), 0)
            try:
                given = questions.give(self._listener, asked, file.fileno())
            except OSError:  # as before Linux 5.9: it reads what the kernel says, then
                return None
        if areas:
            self._shortened.add(asked.about)
            self._spared.update((asked.about, area) for area in areas)
        return given

    def _shown_of(self, pid: int) -> list[int] | None:
        self._is_told.wait()
        return self._shown.get(pid)

    def _find(self, pid: int, start: int, end: int) -> Area | None:
        for area in self._survey.areas(pid):
            if area.start <= start and end == (shown(area) if pid in self._shortened else area).end:
                self._spared.add((pid, area))
                return area
        return None
