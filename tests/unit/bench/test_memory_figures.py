"""Big memory beside CRIU alone."""

from __future__ import annotations

import msgspec

from tests.bench.figures import QUICK, Figures
from tests.bench.memory_figures import Memory, MemoryMove, claims
from tests.bench.report import render
from tests.harness.measured import MACHINE


def test_much_memory_is_claimed_beside_criu_alone_and_what_was_lost_makes_the_bench_fail():
    late = MemoryMove(
        way="post-copy", memory_bytes=4 << 30, freeze_seconds=0.3, stall_seconds=0.3, total_seconds=30.0, p99=0.04,
        reasons=["3 replies never came"],
    )  # fmt: skip
    copied = MemoryMove(
        way="stop-and-copy", memory_bytes=1 << 30, freeze_seconds=2.2, stall_seconds=2.3, total_seconds=3.0,
        alone_seconds=2.0,
    )  # fmt: skip
    found = Memory([late, copied])
    assert [(row.what, row.met) for row in claims(found)] == [
        ("freeze, 4 GiB by post-copy", False),
        ("stall, 4 GiB by post-copy", True),
        ("freeze / CRIU alone, 1 GiB by stop-and-copy", True),
    ]
    assert claims(None) == []
    assert not claims(Memory([msgspec.structs.replace(copied, alone_seconds=None)]))
    figures = Figures(plan=QUICK, sections=["memory"], machine=MACHINE, memory=found)
    assert figures.bad == ["4 GiB by post-copy: 3 replies never came"]
    assert "| 4 GiB by post-copy | 300 ms | 300 ms | 30.0 s | 40 ms | - | 3 replies never came |" in render(figures)
