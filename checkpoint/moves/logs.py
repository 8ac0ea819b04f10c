"""CRIU's logs of what failed, kept by the agent: they were written beside the images, which go with the migration."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from checkpoint.core.errors import AgentError
from checkpoint.images import files

_LOG = logging.getLogger(__name__)

FOLDER = "criu"
MOST = 64
"""The newest stay: with what `checkpoint.criu.log` keeps of each, 4 MiB. They go with the pod."""


@contextmanager
def keeping(folder: Path, name: str) -> Iterator[None]:
    """Keep the log of what fails inside as `name`.log, root's alone, in the agent's `folder`; the error says where."""
    try:
        yield
    except AgentError as error:
        if error.criu_log is not None:
            try:
                path = _keep(folder / FOLDER, f"{name}.log", error.log_tail)
            except OSError as trouble:
                _LOG.warning("%s: CRIU's log could not be kept: %s", name, trouble)
            else:
                error.blame_log(msgspec.structs.replace(error.criu_log, path=str(path)))
        raise


def _keep(folder: Path, name: str, raw: bytes) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    files.write(str(folder / name), raw)
    with os.scandir(folder) as found:
        by_age = sorted(found, key=lambda one: one.stat().st_mtime_ns)
    for old in by_age[:-MOST]:
        Path(old).unlink(missing_ok=True)
    return folder / name
