"""What is known of a workload's files before the move: what would be missing where it arrives. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint.api import Belongings, FileLock, Files, Problem, Room
from controller.core.plan import mebibytes

OWN_ROOT = "give it one: midstream pod create --own-root"
OWN_ROOTS = "make both pods with a root of their own: midstream pod create --own-root; or let the process unlock it"


def what_does_not_arrive(found: Belongings, room: Room, pod: str, wanted: Files) -> list[Problem]:
    """The problems that the workload's files would have in `pod`, which has `room`."""
    return [
        *_ghosts(found, wanted),
        *_root(found, room, pod),
        *_mounts(found, room, pod, wanted),
        *_room(found, room, pod),
        *_locks(found, room, pod),
    ]


def locked_wherever_it_goes(found: Belongings) -> tuple[list[Problem], list[Problem]]:
    """The locks that no pod could take over, and those that depend on the pod."""
    problems = [_locked(one, "every pod shares") for one in found.locks if _on_the_machines_root(one, found)]
    others = [_locked(one, f"every pod with the same {one.point} shares") for one in found.locks if one.point != "/"]
    return problems, others


def _ghosts(found: Belongings, wanted: Files) -> Iterator[Problem]:
    for one in found.deleted:
        if one.size_bytes > wanted.ghost_limit_bytes:
            limit = mebibytes(wanted.ghost_limit_bytes)
            message = f"the deleted file {one.path}, still in use, has {mebibytes(one.size_bytes)}; {limit} may travel"
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


def _locks(found: Belongings, room: Room, pod: str) -> Iterator[Problem]:
    """The stopped source holds its locks until the copy stands restored, with its own."""
    for one in found.locks:
        if _on_the_machines_root(one, found) or (one.point != "/" and room.mounts.get(one.point) == one.what):
            yield _locked(one, f"pod {pod} shares")


def _on_the_machines_root(lock: FileLock, found: Belongings) -> bool:
    """In a root of the pod's own even a file of the machine's has locks of its own: the overlay's (Linux 4.19)."""
    return lock.point == "/" and not found.own_root


def _locked(lock: FileLock, who: str) -> Problem:
    message = f"the process holds a lock ({lock.kind}) on {lock.file}, which {who}: the copy cannot get it"
    elsewhere = (
        f"keep it off {lock.point}: in a pod's own root (pod create --own-root), or a volume of each pod (--with)"
    )
    return Problem("lock-held", message, "request", OWN_ROOTS if lock.point == "/" else elsewhere)


def _named(point: str, wanted: Files) -> bool:
    return any(point == folder or point.startswith(f"{folder}/") for folder in wanted.named)


def _room(found: Belongings, room: Room, pod: str) -> Iterator[Problem]:
    needed = sum(ground.size_bytes for ground in found.grounds)
    if needed > room.file_bytes:
        message = (
            f"pod {pod} has too little room for files: {mebibytes(needed)} needed, {mebibytes(room.file_bytes)} there"
        )
        yield Problem("no-room", message, "pod", "choose another pod or give this one more")
