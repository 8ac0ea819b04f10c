"""The key that a test seals images with."""

from __future__ import annotations

import secrets
from pathlib import Path

from checkpoint.api import KeySource


def key_file(path: Path) -> KeySource:
    """A key of its own in a file at `path`."""
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o600)
    return KeySource(file=str(path))
