"""What this machine is known to do with memory: kept in the home, begun with a probe of a twentieth of a second."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from controller.core.predict import Rates, Sample

NAME = "rates.json"
PROBE_BYTES = 32 << 20
_PIECE_BYTES = 1 << 20


def load(home: Path) -> Rates:
    """The rates on record, or fresh ones."""
    try:
        return msgspec.json.decode((home / NAME).read_bytes(), type=Rates)
    except (OSError, msgspec.DecodeError):
        return Rates(probe())


def learn(home: Path, rates: Rates, sample: Sample) -> None:
    """Keep one more move. Two at the same time: one of them is forgotten, which hurts nobody."""
    fresh = home / f"{NAME}.{os.getpid()}"
    with contextlib.suppress(OSError):  # a home that is being deleted
        fresh.write_bytes(msgspec.json.encode(rates.learnt(sample)))
        fresh.rename(home / NAME)


def probe() -> float:
    """Bytes a second that are written to a tmpfs and read into fresh memory again, as CRIU's dump and restore do."""
    piece = os.urandom(_PIECE_BYTES)
    fd = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        began = time.monotonic()
        for _ in range(PROBE_BYTES // _PIECE_BYTES):
            os.write(fd, piece)
        kept = [os.pread(fd, _PIECE_BYTES, at) for at in range(0, PROBE_BYTES, _PIECE_BYTES)]
        assert sum(map(len, kept)) == PROBE_BYTES
        return PROBE_BYTES / (time.monotonic() - began)
    finally:
        os.close(fd)
