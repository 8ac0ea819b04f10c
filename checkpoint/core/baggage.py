"""What of a pod's files travels with a workload. Pure: what was seen at one time or place against what at another.

A **ground** is a folder whose files travel: "/", the layer that a pod with a root of its own has written, or one that
was named (`--with`). Its **list** says what is there, and, of a layer, what was deleted: an entry a path, sorted.

Twice the source looks: before the freeze, when all of it is sent, and inside it, when only what has changed since is
sent again. Changed is what has another size, kind or ctime, which no program can set (inode(7)); with one name of an
inode all its names, or they would be two files where they arrive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from checkpoint.core.errors import AgentError, Code

STAGING = ".midstream-"
OURS = (STAGING, "run/criu.kdat")
"""What begins like this, in a ground, is the agent's own: its staging, and what CRIU's survey is mounted on."""

ROOT = "/"

MAX_LIST_BYTES = 64 << 20
"""Some 500,000 files; a list that is longer is none of ours."""


class Kind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    FIFO = "fifo"
    GONE = "gone"
    """Deleted: of what the machine has at that path, or of what had come with the workload."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One path. `size`, `mtime_ns` and so on are stat(2)'s; of what is GONE, those of the file as it was known."""

    path: str
    """Relative to the ground."""
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    """Of a file that has several names."""
    whole: bool = False
    """A folder whose former content is deleted: an opaque one of a layer."""


class Listing(msgspec.Struct, frozen=True):
    """What is in one ground."""

    ground: str
    entries: list[Entry]
    identity: str = ""
    """Which folder of which machine it is: one that the destination shares does not travel."""
    left: list[str] = []
    """Sockets and devices: they do not travel. A socket of the workload's is bound anew."""

    @property
    def files(self) -> int:
        return sum(one.kind is not Kind.FOLDER for one in self.entries)

    @property
    def size_bytes(self) -> int:
        return sum({one.inode or one.path: one.size for one in self.entries if one.kind is Kind.FILE}.values())


def is_ours(path: str) -> bool:
    return path.startswith(OURS)


def changed(before: Iterable[Entry], now: Sequence[Entry]) -> list[Entry]:
    """Those of `now` that must be sent again, with the folders above them, for their times; nothing is sent of what is
    deleted."""
    known = {one.path: one for one in before}
    moved = {one.path for one in now if known.get(one.path) != one}
    inodes = {one.inode for one in now if one.inode and one.path in moved}
    moved |= {one.path for one in now if one.inode in inodes}
    above = {path for one in moved for path in ancestors(one)}
    return [one for one in now if one.kind is not Kind.GONE and (one.path in moved or one.path in above)]


def with_deletions(found: Listing, arrived: Iterable[Entry]) -> Listing:
    """The list with what had come with the workload and is not there any more, as deleted.

    What had come is also what is known of a file that the layer has as deleted.
    """
    there = {one.path: one for one in found.entries}
    for one in arrived:
        now = there.get(one.path)
        if one.kind is not Kind.GONE and (now is None or now.kind is Kind.GONE) and _reaches(one.path, there):
            there[one.path] = msgspec.structs.replace(one, kind=Kind.GONE, inode=0, whole=False)
    return msgspec.structs.replace(found, entries=sorted(there.values(), key=_by_path))


def _reaches(path: str, there: Mapping[str, Entry]) -> bool:
    """Whether the folders above a path are folders still, with what was in them."""
    above = (there.get(one) for one in ancestors(path))
    return all(one is None or (one.kind is Kind.FOLDER and not one.whole) for one in above)


def without(found: Listing, folders: Iterable[str]) -> Listing:
    """The root's list without what travels, or is left, as a ground of its own; deletions stay."""
    inside = tuple(f"{folder.strip('/')}/" for folder in folders)
    kept = [one for one in found.entries if one.kind is Kind.GONE or not one.path.startswith(inside)]
    return msgspec.structs.replace(found, entries=kept)


def ancestors(path: str) -> Iterator[str]:
    """ "a/b/c" -> "a/b", "a"."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def check(listing: Listing) -> None:
    """Raise AgentError IMAGE_DAMAGED for a list that `baggage` would not write: a path that leaves the ground, one
    below what is no folder, one twice, one of the agent's own."""
    kinds: dict[str, Kind] = {}
    for one in listing.entries:
        parts = one.path.split("/")
        if not one.path or {"", ".", ".."} & set(parts) or "\0" in one.path or is_ours(one.path) or one.path in kinds:
            raise AgentError(Code.IMAGE_DAMAGED, f"not a path of the workload's files: {one.path!r}")
        above = one.path.rpartition("/")[0]
        if above and kinds.get(above, Kind.FOLDER) is not Kind.FOLDER:
            raise AgentError(Code.IMAGE_DAMAGED, f"{above!r}, among the workload's files, is no folder")
        kinds[one.path] = one.kind


def conflict(wanted: Entry, there: Entry) -> str:
    """Why what the destination has written itself must not be replaced or deleted; "" when it may be.

    It may be replaced by what is as new or newer; deleted when it is what had come, or gone, with the workload before.
    """
    if Kind.FOLDER in (wanted.kind, there.kind) and wanted.kind is not there.kind:
        return "is a folder in one of the pods and none in the other"
    if wanted.kind is Kind.FOLDER:
        return ""
    if wanted.kind is Kind.GONE:
        known = (wanted.size, wanted.mtime_ns) == (there.size, there.mtime_ns)
        return "" if known else "was deleted by the workload, and is another one there"
    return "is newer there" if there.mtime_ns > wanted.mtime_ns else ""


def encode(listings: list[Listing]) -> bytes:
    """As JSON; in it a name that is no UTF-8 is what Python makes of it (os.fsdecode), escaped."""
    return json.dumps(msgspec.to_builtins(listings), separators=(",", ":")).encode()


def decode(raw: bytes) -> list[Listing]:
    """Read a list; raises AgentError IMAGE_DAMAGED for what is none, or one that says what no list may say."""
    try:
        if len(raw) > MAX_LIST_BYTES:
            raise ValueError("it is too long")
        found = msgspec.convert(json.loads(raw), list[Listing])
    except (ValueError, RecursionError) as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"the list of the workload's files cannot be read: {error}") from error
    for one in found:
        check(one)
    return found


def shown(path: str) -> str:
    """A path as it can be said."""
    return path.encode("utf-8", "backslashreplace").decode()


def _by_path(one: Entry) -> list[str]:
    """Folder before content: "a", "a/b", "a-b"."""
    return one.path.split("/")
