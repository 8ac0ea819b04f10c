"""What is known of a workload's files before the move: what would be missing where it arrives. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint.api import Belongings, Files, Problem, Room
from controller.core.plan import mebibytes

OWN_ROOT = "give it one: midstream pod create --own-root"


def what_does_not_arrive(found: Belongings, room: Room, pod: str, wanted: Files) -> list[Problem]:
    """The problems that the workload's files would have in `pod`, which has `room`."""
    return [
        *_ghosts(found, wanted),
        *_root(found, room, pod),
        *_mounts(found, room, pod, wanted),
        *_room(found, room, pod),
    ]


def _ghosts(found: Belongings, wanted: Files) -> Iterator[Problem]:
    for one in found.deleted:
        if one.size_bytes > wanted.ghost_limit_bytes:
            limit = mebibytes(wanted.ghost_limit_bytes)
            message = f"the deleted file {one.path}, still open, has {mebibytes(one.size_bytes)}; {limit} may travel"
            hint = "raise --max-ghost-size, or let the workload close or shorten it"
            yield Problem("ghost-too-large", message, "workload", hint)


def _root(found: Belongings, room: Room, pod: str) -> Iterator[Problem]:
    for ground in found.grounds:
        if ground.path == "/" and (ground.files or ground.deleted) and not room.own_root:
            message = (
                f"pod {pod} has no root of its own for the {ground.files:,} files that the workload's pod has written"
            )
            yield Problem("no-own-root", message, "pod", OWN_ROOT)


def _mounts(found: Belongings, room: Room, pod: str, wanted: Files) -> Iterator[Problem]:
    for one in found.mounts:
        if room.mounts.get(one.point) != one.what and not _named(one.point, wanted):
            message = f"{one.file} is open, on a file system at {one.point} that pod {pod} does not have"
            yield Problem("file-not-there", message, "pod", f"move its files too: --with {one.point}; or share it")


def _named(point: str, wanted: Files) -> bool:
    return any(point == folder or point.startswith(f"{folder}/") for folder in wanted.named)


def _room(found: Belongings, room: Room, pod: str) -> Iterator[Problem]:
    needed = sum(ground.size_bytes for ground in found.grounds)
    if needed > room.file_bytes:
        message = (
            f"pod {pod} has too little room for files: {mebibytes(needed)} needed, {mebibytes(room.file_bytes)} there"
        )
        yield Problem("no-room", message, "pod", "choose another pod or give this one more")
