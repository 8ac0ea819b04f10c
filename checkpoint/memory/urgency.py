"""Giver and taker go before others: whoever waits for a page stands still, and its peers with it, until both have had
their turn, four times for a page."""

from __future__ import annotations

import contextlib
import os

NICE = -15
"""Measured beside a load that keeps both processors busy: a fault took 1.9 ms at the median instead of 2.3 to 5.4, and
the workload's requests 0.1 to 0.2 s at the 99th percentile instead of 0.2 to 2 s; the whole took as long."""


def claim() -> None:
    """For this thread, and those that it starts from now on. Nothing, without CAP_SYS_NICE."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
