"""One pair of pods and agents for all these tests, cleared after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import leaks
from tests.harness.agent_rig import Rig


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """The agents are killed and started anew inside the tests: the rig looks for what is left at its end."""


@pytest.fixture(scope="package")
def shared_rig() -> Iterator[Rig]:
    before = leaks.take(machine=True)
    home = leaks.fresh_home()
    images = Path("/dev/shm") / home.name
    rig = Rig(home, images)
    yield rig
    rig.close()
    assert not [name for name in (path.name for path in images.iterdir()) if not name.startswith("criu.kdat")]
    for path in images.iterdir():
        path.unlink()
    images.rmdir()
    home.rmdir()
    left = leaks.left_since(before, machine=True)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    yield shared_rig
    shared_rig.clean()
