"""What the bench measures of images on the wire and at rest, and the claims about it. Plain values, like `figures`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tests.bench.rows import Row

SHARE, MEMORY_BYTES = 0.7, 128 << 20
"""What is aimed at: of what a plain TLS 1.3 socket carries, and by how much an agent may grow meanwhile."""


class ImagePlan(msgspec.Struct, frozen=True):
    sent_bytes: int
    """Carried from agent to agent, and by a plain socket, in each round."""
    rounds: int
    stored_bytes: int
    """Written to an object store, and read again."""
    damages: int
    """Bytes damaged, one at a time, in a stored image and as many in a folder of images."""


class Carried(msgspec.Struct, frozen=True):
    """One way, measured."""

    bytes_per_second: float
    sender_bytes: int = 0
    """By how much the sender's resident memory grew at most."""
    receiver_bytes: int = 0
    reserve_seconds: float = 0.0
    """Before it, for the room."""


class Pair(msgspec.Struct, frozen=True):
    """One after the other."""

    direct: Carried
    """Into room that was taken before, as in a move."""
    plain: Carried
    unreserved: Carried
    """As `direct`, without: into memory that it takes as it needs it."""
    filed: Carried
    """As `plain`, and written to a new file as it comes: what this machine takes for memory that it has not yet."""

    @property
    def share_filed(self) -> float:
        return self.unreserved.bytes_per_second / self.filed.bytes_per_second

    @property
    def share(self) -> float:
        return self.direct.bytes_per_second / self.plain.bytes_per_second

    @property
    def share_unreserved(self) -> float:
        return self.unreserved.bytes_per_second / self.plain.bytes_per_second


class Transfer(msgspec.Struct, frozen=True):
    size_bytes: int
    pairs: list[Pair]


class Damage(msgspec.Struct, frozen=True):
    """A byte at random, so many times."""

    where: str
    cases: int
    detected: int


class Store(msgspec.Struct, frozen=True):
    """Bytes a second of an image, to and from an S3 server on this machine."""

    size_bytes: int
    server: str
    write: float
    read: float
    plain_write: float
    """The same library, nothing hashed or sealed."""
    plain_read: float
    client_write: float
    """The server's own client, past S3."""
    damages: list[Damage] = []


def claims(transfer: Transfer | None, store: Store | None) -> list[Row]:
    """Nothing where nothing was measured."""
    return [*_transfer(transfer), *_store(store)]


def bad(store: Store | None) -> list[str]:
    """What no report may hide: damage that nobody noticed."""
    found = [] if store is None else store.damages
    return [
        f"store: {one.cases - one.detected} damaged bytes unnoticed in {one.where}" for one in found if _missed(one)
    ]


def _transfer(found: Transfer | None) -> Iterable[Row]:
    if found is None or not found.pairs:
        return
    one = sorted(found.pairs, key=lambda pair: pair.share)[len(found.pairs) // 2]
    size = f"{found.size_bytes / (1 << 30):g} GiB"
    room = f"room was taken before, as in a move, in {one.direct.reserve_seconds:.1f} s"
    how = f"{size} from agent to agent, tmpfs to tmpfs, {room}; median of {len(found.pairs)} pairs: {_mb(one.direct)}"
    floor = f"{_mb(one.plain)}, a plain TLS 1.3 socket"
    yield Row("direct transfer / TLS socket", f"{one.share:.2f}", f">= {SHARE}", one.share >= SHARE, floor, how)
    bare = sorted(found.pairs, key=lambda pair: pair.share_unreserved)[len(found.pairs) // 2]
    how = f"into memory that it takes from the machine meanwhile: {_mb(bare.unreserved)}"
    floor = f"{_mb(bare.plain)}, the socket"
    yield Row("the same, no room taken before", f"{bare.share_unreserved:.2f}", "", None, floor, how)
    filed = sorted(found.pairs, key=lambda pair: pair.share_filed)[len(found.pairs) // 2]
    how = f"where the socket's bytes go into a new file too: {_mb(filed.unreserved)}"
    floor = f"{_mb(filed.filed)}, the socket"
    yield Row("no room taken before / TLS socket into a file", f"{filed.share_filed:.2f}", "", None, floor, how)
    ways = [way for pair in found.pairs for way in (pair.direct, pair.unreserved)]
    most = max(max(way.sender_bytes, way.receiver_bytes) for way in ways)
    what, target = "an agent's memory meanwhile", f"<= {MEMORY_BYTES >> 20} MiB"
    yield Row(what, f"+{most >> 20} MiB", target, most <= MEMORY_BYTES, "", "the larger of the two ends', at most")


def _store(found: Store | None) -> Iterable[Row]:
    if found is None:
        return
    how = f"{found.size_bytes >> 20} MiB, sealed, through {found.server} on this machine"
    client = f"{_rate(found.plain_write)}, the same library alone; {_rate(found.client_write)}, the server's own client"
    yield Row("through the store, written", _rate(found.write), "", None, client, how)
    yield Row("through the store, read", _rate(found.read), "", None, f"{_rate(found.plain_read)}, the library", how)
    for one in found.damages:
        said = f"{one.detected:,} of {one.cases:,}"
        yield Row(f"a damaged byte in {one.where}", said, "all detected", not _missed(one), "", "a bit at random each")


def _missed(one: Damage) -> bool:
    return one.detected < one.cases


def _mb(one: Carried) -> str:
    return _rate(one.bytes_per_second)


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.0f} MB/s"
