"""The lease expires once it is due, and never when it was disarmed."""

from __future__ import annotations

import asyncio

from checkpoint.kernel import Kernel
from checkpoint.moves.lease import Lease


async def test_it_expires_at_its_deadline_even_one_that_has_passed(wait_until):
    expired: list[float] = []
    kernel = Kernel()
    lease = Lease(kernel, lambda: expired.append(kernel.now()))
    due = kernel.now() + 0.05
    lease.arm(due)
    await wait_until(lambda: expired)
    assert expired[0] >= due - 0.002, "the loop's clock tells milliseconds apart"
    lease.arm(kernel.now() - 1)
    await wait_until(lambda: len(expired) == 2)


async def test_disarmed_it_never_expires():
    expired: list[None] = []
    lease = Lease(Kernel(), lambda: expired.append(None))
    lease.disarm()
    lease.arm(Kernel().now() + 0.01)
    lease.disarm()
    await asyncio.sleep(0.03)
    assert not expired
