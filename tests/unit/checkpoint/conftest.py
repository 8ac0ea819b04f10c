"""What the agent's tests share."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes.openfiles import OpenFiles


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait, on the event loop, until something is true; fail after half a minute."""

    async def wait(what: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not what():  # noqa: ASYNC110 - what is waited for is told nobody
                await asyncio.sleep(0.005)

    return wait


class Refusing(Kernel):
    """As for one without CAP_BPF."""

    def load_iterator(self, program: bytes, function: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(scope="session")
def open_files() -> Iterator[OpenFiles]:
    """What can be asked, on a kernel that can be."""
    yield from _learnt(Kernel())


@pytest.fixture(scope="session")
def unasked() -> Iterator[OpenFiles]:
    """What cannot."""
    yield from _learnt(Refusing())


def _learnt(kernel: Kernel) -> Iterator[OpenFiles]:
    made = OpenFiles(kernel)
    made.learn()
    yield made
    made.close()
