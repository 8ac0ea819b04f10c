"""Finds out whether an image could be stored, and read, while nothing stands still for it yet.

With the real key and in the real archive: a key of no use, wrapped as an image's would be, is left where the image is
going to be, under the name of a lease. So nobody takes it for an image, nobody collects it meanwhile, and whatever
takes the image away, or the remains of it, takes this away too.
"""

from __future__ import annotations

from checkpoint.archive import keys
from checkpoint.archive.keys import Secret
from checkpoint.archive.objects import Objects
from checkpoint.core import leases
from checkpoint.core.errors import AgentError, Code

LASTS_SECONDS = 3600.0
"""What is prepared for so long without a freeze finds out the hard way."""


async def leave(objects: Objects, image: str, kek: Secret) -> None:
    """As whoever stores the image. Raises AgentError."""
    with Secret.fresh() as key:
        wrapped = keys.wrap(kek, key, image.encode())
    await objects.put(_path(image), wrapped.encode())
    await find(objects, image, kek)


async def find(objects: Objects, image: str, kek: Secret) -> None:
    """As whoever reads it. Raises AgentError IMAGE_MISSING where the archive is not the same one, WRONG_KEY."""
    raw = await objects.get(_path(image))
    if raw is None:
        message = f"what was left in {objects.url} to try it out is not there as seen from here"
        raise AgentError(Code.IMAGE_MISSING, message, hint="Name an archive that both pods see.")
    try:
        keys.unwrap(kek, raw.decode("ascii", "replace"), image.encode()).zero()
    except AgentError as error:
        message = f"the key that is read here, {keys.key_id(kek)}, does not open what was sealed to try it out"
        raise AgentError(Code.WRONG_KEY, message, hint="Have both pods read the same key.") from error


async def take_away(objects: Objects, image: str) -> None:
    """Nothing is left. Raises AgentError."""
    await objects.delete(_path(image))


def _path(image: str) -> str:
    return f"{leases.folder(image)}/{leases.lease_name('trial', LASTS_SECONDS)}"
