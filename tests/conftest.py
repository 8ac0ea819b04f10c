"""What every test has: a check that it leaves nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.harness import leaks, machine

ON_THE_MACHINE = {"system", "chaos"}
"""The folders whose tests make namespaces, links and mounts; the others can leave descriptors and processes only."""


def pytest_configure(config: pytest.Config) -> None:
    machine.enter()
    leaks.adopt_orphans()
    # Hypothesis fails an example that took 200 ms, and ten that took a second: a busy machine takes that from any. By
    # default a run tries what any other tried; with --hypothesis-profile=others it tries others.
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("same", patient, derandomize=True)
    settings.register_profile("others", patient, derandomize=False)
    settings.load_profile(config.getoption("hypothesis_profile") or "same")


def pytest_collection_finish() -> None:
    """What collection has made stays anyway: the leak check's collections need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, a descriptor, a mount, a link, a table, a rule or a folder behind."""
    everything = bool(ON_THE_MACHINE & set(request.path.parts))
    before = leaks.take(machine=everything)
    yield
    left = leaks.left_since(before, machine=everything)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def one_loop() -> None:
    """The session's event loop is there before a test's leak check takes its first look."""


@pytest.fixture
def home() -> Path:
    """A MIDSTREAM_HOME of the test's own, where there is nothing yet."""
    return leaks.fresh_home()
