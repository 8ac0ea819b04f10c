"""An archive's objects, through obstore: a folder of this machine, S3 and what speaks it, whatever else obstore has.

obstore does the multipart uploads, the connection pool, and the retries with exponential back-off and jitter; a put is
atomic with all of its stores. What it raises is translated here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as theirs
from obstore.store import LocalStore, ObjectStore, from_url

from checkpoint.api import Archive
from checkpoint.core.errors import AgentError, Code

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 8 << 20
PARTS_AT_ONCE = 3
"""With the part being filled, 32 MiB of an upload are in memory at most."""
MAX_PARTS = 9000
"""S3 takes 10,000 (its "Multipart upload limits")."""
MAX_SMALL_BYTES = 64 << 20
"""What is read whole: markers and manifests."""
READ_BYTES = 4 << 20
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 120
"""One part, on a slow day. The deadline of the whole is the caller's."""
_RETRY_SECONDS = 60.0
_CREDENTIALS = (
    "No credentials were given, and no cloud answers for them: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …"
)

_OTHER_CLOCK = "RequestTimeTooSkewed"
"""S3's own word (its "Error responses"): the request's time is more than 15 minutes from the server's."""
_CLOCK = "This machine's clock and the archive's are more than 15 minutes apart: set this one's (timedatectl)."


@dataclass(frozen=True)
class Found:
    """An object in a listing; `modified` is the archive's own clock's, Unix time in seconds."""

    path: str
    size: int
    modified: float


class Objects:
    """One archive. Raises AgentError ARCHIVE_UNREACHABLE or ARCHIVE_REFUSED from every method."""

    def __init__(self, archive: Archive, retry_seconds: float = _RETRY_SECONDS, *, make: bool = False) -> None:
        """`make`: a folder that is not there yet; who only reads would hide a mistyped name by that."""
        self.url = archive.url
        try:
            self._store = _open(archive, retry_seconds, make=make)
        except OSError as error:
            message = f"{archive.url} is no archive that can be used: {error.strerror}"
            raise AgentError(Code.ARCHIVE_REFUSED, message, hint="Check its path, and who may enter it.") from error
        except (theirs.BaseError, ValueError) as error:
            message = f"{archive.url} is no archive that can be used: {str(error).splitlines()[0]}"
            raise AgentError(Code.ARCHIVE_REFUSED, message) from error
        self.is_local = isinstance(self._store, LocalStore)

    async def put(self, path: str, data: bytes, *, new: bool = False) -> None:
        """Write a small object whole. With `new`, raises AgentError IMAGE_EXISTS where there is one."""
        with self._translated(f"write {path}"):
            try:
                await obstore.put_async(self._store, path, data, mode="create" if new else "overwrite")
            except theirs.AlreadyExistsError as error:
                if await self.get(path) == data:  # ours: the answer to an earlier try was lost
                    return
                raise AgentError(Code.IMAGE_EXISTS, f"there is an object {path} already in {self.url}") from error

    async def put_stream(self, path: str, chunks: AsyncIterator[bytes | bytearray], expected_bytes: int) -> None:
        """Write what `chunks` gives, each asked for when there is room; the object appears whole or not at all."""
        part_bytes = max(PART_BYTES, -(-expected_bytes // MAX_PARTS))
        with self._translated(f"write {path}"):
            await obstore.put_async(
                self._store, path, chunks, use_multipart=True, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE
            )

    async def get(self, path: str) -> bytes | None:
        """A small object; None where there is none."""
        with self._translated(f"read {path}"):
            try:
                found = await obstore.get_async(self._store, path)
            except FileNotFoundError:
                return None
            if found.meta["size"] > MAX_SMALL_BYTES:
                raise AgentError(
                    Code.IMAGE_DAMAGED, f"{path} has {found.meta['size']} bytes: too long to be one of ours"
                )
            return bytes(await found.bytes_async())

    async def get_stream(self, path: str) -> AsyncIterator[bytes]:
        """An object's bytes in pieces. Raises AgentError IMAGE_DAMAGED where there is none."""
        with self._translated(f"read {path}"):
            try:
                found = await obstore.get_async(self._store, path)
            except FileNotFoundError as error:
                raise AgentError(Code.IMAGE_DAMAGED, f"the object {path} is missing in the archive") from error
            if not self.is_local:
                async for piece in found.stream(min_chunk_size=READ_BYTES):
                    yield bytes(piece)
                return
            # A file's stream comes in pieces of 8 KiB: half as fast.
            size = found.meta["size"]
            for start in range(0, size, READ_BYTES):
                end = min(start + READ_BYTES, size)
                yield bytes(await obstore.get_range_async(self._store, path, start=start, end=end))

    async def below(self, prefix: str) -> list[Found]:
        """Everything below a prefix."""
        found: list[Found] = []
        with self._translated(f"list {prefix}"):
            async for some in obstore.list(self._store, prefix):
                found += [Found(one["path"], one["size"], one["last_modified"].timestamp()) for one in some]
        return found

    async def folders(self, prefix: str) -> list[str]:
        """The names right below a prefix that have something below them."""
        with self._translated(f"list {prefix}"):
            found = await obstore.list_with_delimiter_async(self._store, prefix)
        return sorted(one.rsplit("/", 1)[-1] for one in found["common_prefixes"])

    async def modified(self, path: str) -> float:
        """When an object was written, by the archive's clock. Raises FileNotFoundError."""
        with self._translated(f"look at {path}"):
            return (await obstore.head_async(self._store, path))["last_modified"].timestamp()

    async def delete(self, *paths: str) -> None:
        """Those that are there."""
        for path in paths:
            with self._translated(f"delete {path}"), suppress(FileNotFoundError):
                await obstore.delete_async(self._store, path)

    async def settle(self, prefix: str) -> None:
        """Return when what lies below a prefix would survive a power cut. S3 has promised that already."""
        if self.is_local:
            root = Path(urlsplit(self.url).path) / prefix
            await asyncio.to_thread(_sync_tree, root)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (theirs.PermissionDeniedError, theirs.UnauthenticatedError) as error:
            raise _refused(self.url, what, str(error)) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _of_os(self.url, what, error) from error
        except (theirs.BaseError, ValueError) as error:
            raise _of_obstore(self.url, what, error) from error


def _open(archive: Archive, retry_seconds: float, *, make: bool) -> ObjectStore:
    parts = urlsplit(archive.url)
    if parts.scheme in ("", "file"):
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a folder's path must begin with /")
        root = Path(parts.path)
        if make:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.stat()
        return LocalStore(root, automatic_cleanup=True)
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
        "allow_http": any(value.startswith("http://") for value in archive.options.values()),
    }
    retry: RetryConfig = {
        "max_retries": 20,
        "retry_timeout": timedelta(seconds=retry_seconds),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    # The types know every option by its name; ours come from the environment.
    options: Any = archive.options
    made: ObjectStore = from_url(archive.url, config=options, client_options=client, retry_config=retry)
    return made


def _of_os(url: str, what: str, error: OSError) -> AgentError:
    return AgentError(Code.ARCHIVE_UNREACHABLE, f"cannot {what} in {url}: {error.strerror or error}")


def _refused(url: str, what: str, words: str) -> AgentError:
    """Who may not, or whose request is not of now: an object store wants to know that nobody repeats an old one."""
    hint = _CLOCK if _OTHER_CLOCK in words else ""
    return AgentError(Code.ARCHIVE_REFUSED, f"{url} does not let us {what}", hint=hint)


def _of_obstore(url: str, what: str, error: Exception) -> AgentError:
    """obstore has one class for most of what a server answers: its words tell."""
    words = str(error).split("\n\nDebug source", 1)[0].replace("\n", " ")
    if _OTHER_CLOCK in words:
        return _refused(url, what, words)
    if "No space left on device" in words:
        return AgentError(Code.NO_SPACE, f"cannot {what}: {url} is full")
    hint = _CREDENTIALS if "169.254.169.254" in words else ""
    refused = any(f"status code: {status}" in words for status in ("400", "401", "403", "404"))
    code = Code.ARCHIVE_REFUSED if refused else Code.ARCHIVE_UNREACHABLE
    return AgentError(code, f"cannot {what} in {url}: {words[:500]}", hint=hint)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in (*names, "."):
            fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
