"""Edit the areas of a dump: CRIU was shown no more of the large ones than it had to see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from checkpoint.core.areas import Area, shown
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import files
from checkpoint.images.folder import entries
from checkpoint.images.pb import Messages, framed

_HEADER_BYTES = 8
_REGULAR = 1 << 0  # criu: image.h, VMA_AREA_REGULAR; guard pages, which are listed too, are none


def lengthen(folder: Path, messages: Messages, areas: Mapping[int, Collection[Area]]) -> None:
    """Let these areas of each process, which end where what was `shown` of them does, end where they end. Raises
    AgentError IMAGE_DAMAGED, also where one of them is not there."""
    for pid, large in areas.items():
        path = str(folder / f"mm-{pid}.img")
        (mm,) = entries(path, messages.mm)
        ends = {shown(area).end: area.end for area in large}
        found = [one for one in mm.vmas if one.status & _REGULAR and one.end in ends]
        if len(found) != len(ends):
            raise AgentError(Code.IMAGE_DAMAGED, f"the image {path} has not all of the process's large areas")
        for one in found:
            one.end = ends[one.end]
        files.write(path, files.read(path)[:_HEADER_BYTES] + framed(mm))
