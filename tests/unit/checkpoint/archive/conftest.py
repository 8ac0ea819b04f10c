"""What the archive's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.api import Archive
from checkpoint.archive.objects import Objects
from tests.harness.archived import CONTENT
from tests.harness.object_store import start_threads


@pytest.fixture(scope="session", autouse=True)
def obstores_own_threads() -> None:
    start_threads()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Objects:
    return Objects(Archive(str(tmp_path / "archive")), make=True)
