"""What of a folder has to travel, what is on its way, and what has arrived. Pure: events in, parcels out.

The folder is sent while CRIU writes it: whole megabytes of a file that grows, the rest of it when it is closed, and
what will be edited before it travels (`is_edited`) at the end, when the folder is sealed. So no byte is sent twice,
but for what was on its way when a connection broke.

Nothing here has to be believed: the manifest, which is signed at the source after the last edit, is compared with what
arrived. What was sent too early, or changed later, shows there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES, NAME
from checkpoint.core.parcel import MAX_PIECES, Parcel, Piece

_FILES = "files.img"
_PREFIXES = ("tcp-stream-", "fdinfo-", "core-", "mm-")


def is_edited(name: str) -> bool:
    """True for what is written again after the dump: sockets, descriptors, areas, threads' registers, the manifest."""
    return name in (_FILES, NAME) or name.startswith(_PREFIXES)


class Consignment:
    """One move's. Every method says what has happened; `take` gives what to send next."""

    def __init__(self) -> None:
        self.attempt = 0
        self.sent_bytes = 0
        """Of all parcels given out, those that went twice included."""
        self._ends: dict[str, int] = {}
        """How far each file was made into pieces."""
        self._closed: set[str] = set()
        self._waiting: deque[Piece] = deque()
        self._again: deque[Parcel] = deque()
        self._under_way: dict[int, Parcel] = {}
        self._number = 0
        self._sealed = False

    def grown(self, name: str, size: int) -> None:
        """A file is that long by now, and what there is of it stays as it is."""
        if name in self._closed or is_edited(name):
            return
        self._cut(name, size - size % CHUNK_BYTES)

    def closed(self, name: str, size: int) -> None:
        """Nobody writes that file any more."""
        if name not in self._closed and not is_edited(name):
            self._close(name, size)

    def seal(self, sizes: Mapping[str, int]) -> None:
        """The folder is final, with these files. Raises AgentError IMAGE_DAMAGED where one is not what was sent."""
        for name in self._ends:
            if name not in sizes:
                raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} is missing from the images")
        for name, size in sizes.items():
            if size < self._ends.get(name, 0) or (name in self._closed and size != self._ends[name]):
                raise AgentError(Code.IMAGE_DAMAGED, f"the file {name} changed after it was dumped")
        for name in sizes.keys() - self._closed:
            self._close(name, sizes[name])
        self._sealed = True

    def restart(self) -> None:
        """The folder was emptied, and is written once more."""
        self.attempt += 1
        self._ends.clear()
        self._closed.clear()
        self._waiting.clear()
        self._again.clear()
        self._under_way.clear()

    def take(self) -> Parcel | None:
        """What to send next; None: nothing yet, or any more."""
        parcel = self._again.popleft() if self._again else self._next()
        if parcel is not None:
            self._under_way[parcel.number] = parcel
            self.sent_bytes += parcel.size
        return parcel

    def arrived(self, number: int) -> None:
        """A parcel is in its files at the destination. Of an earlier attempt: nothing to do."""
        self._under_way.pop(number, None)

    def lost(self, numbers: Iterable[int]) -> None:
        """The connection that these went by broke before they were said to have arrived: they go again, first."""
        for number in numbers:
            if (parcel := self._under_way.pop(number, None)) is not None:
                self._again.append(parcel)

    @property
    def complete(self) -> bool:
        """Everything has arrived."""
        return self._sealed and self.idle

    @property
    def idle(self) -> bool:
        """Everything that there is so far has arrived."""
        return not (self._waiting or self._again or self._under_way)

    def _close(self, name: str, size: int) -> None:
        self._cut(name, size, last=True)
        self._closed.add(name)

    def _cut(self, name: str, end: int, *, last: bool = False) -> None:
        start = self._ends.get(name, 0)
        if end < start:
            # Shorter than it was: not as a file of CRIU's is written. What was sent shows when all is compared.
            return
        self._waiting.extend(_pieces(name, start, end, last=last))
        if end > start or last:
            self._ends[name] = end

    def _next(self) -> Parcel | None:
        pieces: list[Piece] = []
        size = 0
        while self._waiting and len(pieces) < MAX_PIECES and size + self._waiting[0].size <= CHUNK_BYTES:
            pieces.append(self._waiting.popleft())
            size += pieces[-1].size
        if not pieces:
            return None
        self._number += 1
        return Parcel(self._number, self.attempt, tuple(pieces))


def _pieces(name: str, start: int, end: int, *, last: bool) -> Iterator[Piece]:
    for at in range(start, end, CHUNK_BYTES):
        size = min(CHUNK_BYTES, end - at)
        yield Piece(name, at, size, last and at + size == end)
    if last and start == end:
        yield Piece(name, end, 0, True)
