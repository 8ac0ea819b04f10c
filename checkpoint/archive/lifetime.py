"""What is in an archive, and what becomes of it: list, delete, collect. No key is needed for any of it."""

from __future__ import annotations

from checkpoint.api import StoredImage
from checkpoint.archive.lease import archive_clock
from checkpoint.archive.objects import Objects
from checkpoint.core import leases, stored
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Ready


async def catalogue(objects: Objects) -> list[StoredImage]:
    """Every image, the complete and the others."""
    now = await archive_clock(objects)
    views = [await _view(objects, image, now) for image in await objects.folders(leases.ROOT)]
    return [view for view in views if view is not None]


async def delete(objects: Objects, image: str, *, force: bool = False) -> None:
    """Raises AgentError IMAGE_MISSING, or IMAGE_IN_USE unless forced."""
    stored.require_name(image)
    found = await _written(objects, image)
    if not found:
        raise AgentError(Code.IMAGE_MISSING, f"there is no image {image}")
    if not await _take_away(objects, image, force=force):
        raise AgentError(Code.IMAGE_IN_USE, f"the image {image} is being written or read")


async def collect(objects: Objects, *, dry_run: bool = False) -> list[str]:
    """Delete the images that are past their time and the remains of those that were never completed; their names.

    Never one in use, nor one whose marker cannot be read: it may be a later version's.
    """
    now = await archive_clock(objects)
    gone = []
    for image in await objects.folders(leases.ROOT):
        found = await _written(objects, image)
        if not found:
            continue
        try:
            ready = await _ready(objects, image)
        except AgentError:
            continue
        if not leases.collectable(ready, found.get(leases.READY, 0.0), leases.live(found, now), now):
            continue
        if dry_run or await _take_away(objects, image):
            gone.append(image)
    return gone


async def _take_away(objects: Objects, image: str, *, force: bool = False) -> bool:
    """The steps of `core.leases`; False where somebody uses it: then it is as it was."""
    at = f"{leases.folder(image)}/{leases.READY}"
    if not force and await _in_use(objects, image):
        return False
    raw = await objects.get(at)
    await objects.delete(at)
    if not force and await _in_use(objects, image):
        if raw is not None:
            await objects.put(at, raw)
        return False
    await objects.delete(*[one.path for one in await objects.below(leases.folder(image))])
    return True


async def _in_use(objects: Objects, image: str) -> bool:
    found = await _written(objects, image)
    return bool(leases.live(found, await archive_clock(objects)))


async def _view(objects: Objects, image: str, now: float) -> StoredImage | None:
    found = await _written(objects, image)
    if not found:  # SeaweedFS, for one, goes on listing a folder that was emptied
        return None
    in_use = bool(leases.live(found, now))
    try:
        ready = await _ready(objects, image)
    except AgentError:
        return StoredImage(image, "unreadable", in_use=in_use)
    if ready is None:
        return StoredImage(image, "incomplete", in_use=in_use)
    end = leases.expires(ready, found.get(leases.READY, now))
    return StoredImage(
        image, "ready", ready.workload, ready.created_seconds, end, in_use, ready.image_bytes, ready.stored_bytes,
        ready.key,
    )  # fmt: skip


async def _ready(objects: Objects, image: str) -> Ready | None:
    raw = await objects.get(f"{leases.folder(image)}/{leases.READY}")
    return None if raw is None else stored.decode_ready(raw, image)


async def _written(objects: Objects, image: str) -> dict[str, float]:
    """The objects of an image by their names in it, and when each was written."""
    at = leases.folder(image) + "/"
    return {one.path.removeprefix(at): one.modified for one in await objects.below(at.rstrip("/"))}
