"""What the archive's tests share."""

from __future__ import annotations

import pytest

from tests.harness.object_store import start_threads


@pytest.fixture(scope="session", autouse=True)
def obstores_own_threads() -> None:
    start_threads()
