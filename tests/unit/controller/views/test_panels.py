"""The last word, for each outcome."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from controller.core.result import (
    ByteCounts,
    FlowCounts,
    LedgerRow,
    MemoryAccount,
    MigrationResult,
    Problem,
    RoundAccount,
    TransferAccount,
)
from controller.demo.result import Connections, DemoResult, NewConnections, Spread
from controller.demo.verdict import Verdict
from controller.views.panels import Ending, facts, final_panel, final_sentence, headline

MOVED = MigrationResult(
    migration="redis-1",
    outcome="succeeded",
    freeze_seconds=0.122,
    flows=FlowCounts(71, 23, 0),
    bytes=ByteCounts(1 << 20, 0),
    ledger=[LedgerRow("10.0.0.4:5", "inbound", 0, 5, 5, 5, True)],
)
PROBLEM = Problem("restore-failed", "CRIU could not restore it [sic]", "pod", "choose another pod")
BACK = msgspec.structs.replace(MOVED, outcome="rolled-back", error=PROBLEM)
DEAD = msgspec.structs.replace(MOVED, outcome="failed", error=msgspec.structs.replace(PROBLEM, hint=""))
DEMO = DemoResult(
    **{name: getattr(MOVED, name) for name in MOVED.__struct_fields__},
    connections=Connections(71, 71, 0),
    new_connections=NewConnections(1487, 24, 0),
    replies_checked=430_666,
    replies_wrong=0,
    replies_missing=0,
    resets=0,
    client_bytes_lost=0,
    stall_seconds=Spread(0.128, 0.141, 0.143),
    steady_stall_seconds=Spread(0.004, 0.008, 0.0091),
    connect_during_freeze_seconds=None,
    served_during_freeze_seconds=Spread(0.07, 0.13, 1.35),
)
KEPT = Verdict(0, [], DEMO)
LOST = Verdict(1, ["3 connections lost"], DEMO, lost=True)
UNPROVED = Verdict(1, ["the load ended too soon"], DEMO)


def drawn(ending: Ending, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(final_panel(ending, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (MOVED, "Moved, and nothing was lost"),
        (KEPT, "Moved, and nothing was lost"),
        (LOST, "Moved, but something was lost"),
        (UNPROVED, "Moved, but nothing was proved"),
        (msgspec.structs.replace(MOVED, bytes=ByteCounts(5, 5)), "Moved, but something was lost"),
        (BACK, "Rolled back: it runs on where it was"),
        (Verdict(3, ["it was not completed"], msgspec.structs.replace(DEMO, outcome="rolled-back")), "Rolled back"),
        (DEAD, "Failed: it does not run any more"),
    ],
)
def test_the_headline_says_it_all(ending: Ending, words: str) -> None:
    assert headline(ending).startswith(words)
    assert words in drawn(ending)
    assert final_sentence(ending).startswith(words)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (MemoryAccount("stop-and-copy", 5 << 20, 0.1, 0.4, 0.4), ""),
        (MemoryAccount("stop-and-copy", 5 << 20, 0.1, 0.4, 0.4, fell_back="no kernel"), "by stop-and-copy: no kernel"),
        (MemoryAccount("stop-and-copy", 1 << 30, 1.1, 1.4, 1.5), "1.0 GiB by stop-and-copy"),
        (
            MemoryAccount("stop-and-copy", 1 << 30, 1, 4, 4, 1 << 30, 0.5, early_bytes=1 << 30, again_bytes=9 << 20),
            "by stop-and-copy, 1.0 GiB of it before the freeze, 9.0 MiB inside it",
        ),
        (MemoryAccount("post-copy", 1 << 30, 0.2, 2, 2, 1 << 30, 2.0), "1.0 GiB by post-copy, 512.0 MiB/s"),
        (MemoryAccount("post-copy", 1 << 30, 0.2, 2, 2, fell_back="in vain"), "1.0 GiB by post-copy: in vain"),
        (
            MemoryAccount(
                "pre-copy", 1 << 30, 0.6, 2, 2, rounds=[RoundAccount(1 << 30, 2.0), RoundAccount(1 << 30, 1)]
            ),
            "by pre-copy, 2.0 GiB before the freeze",
        ),
    ],
)
def test_it_is_said_how_much_memory_went_and_why_not_as_asked(account: MemoryAccount, words: str) -> None:
    found = dict(facts(msgspec.structs.replace(MOVED, memory=account)))["memory"]
    assert words in found if words else not found


def test_what_was_predicted_is_beside_what_it_took() -> None:
    told = msgspec.structs.replace(MOVED, memory=MemoryAccount("stop-and-copy", 5 << 20, 0.1, 0.4, 0.45))
    assert facts(told)[2:4] == [("frozen", "122 ms (predicted: 100 ms)"), ("in all", "450 ms (predicted: 400 ms)")]
    back = dict(facts(msgspec.structs.replace(told, outcome="rolled-back")))
    assert (back["frozen"], "in all" in back) == ("122 ms", False)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (TransferAccount("shared", 5 << 20), ""),
        (TransferAccount("direct", 5 << 20, 0.2, 5 << 20, 2), "5.0 MiB from agent to agent in 200 ms"),
        (
            TransferAccount("direct", 5 << 20, 0.2, 1 << 20, 2, 3),
            "5.0 MiB from agent to agent in 200 ms, compressed to 1.0 MiB, after 3 broken connections",
        ),
        (
            TransferAccount("store", 5 << 20, 0.2, 1 << 20),
            "5.0 MiB by way of the archive in 200 ms, compressed to 1.0 MiB",
        ),
    ],
)
def test_it_is_said_how_the_images_travelled(account: TransferAccount, words: str) -> None:
    assert dict(facts(msgspec.structs.replace(MOVED, transfer=account)))["images"] == words


def test_what_was_not_carried_over_is_named() -> None:
    assert "not carried over" not in drawn(MOVED)
    without = msgspec.structs.replace(MOVED, not_carried=["CPU affinity 9 of thread 7: Invalid argument", "another"])
    assert "not carried over: CPU affinity 9 of thread 7: Invalid argument; another" in final_sentence(without)
    assert headline(without) == headline(MOVED)


def test_a_demo_has_its_figures() -> None:
    panel = drawn(KEPT)
    for words in (
        "71 of 71 kept, 0 resets",
        "0 wrong, 0 missing of 430,666",
        "122 ms",
        "p50 128 ms   p99 141 ms   max 143 ms",
        "p50 4.0 ms   p99 8.0 ms   max 9.1 ms",
        "24 came during the freeze, 0 of 1,487 turned away",
        "max 1.35 s",
        "1.0 MiB of 71 connections, 23 new ones",
        "1 of 1 flows balance",
        "longest silence of a connection",
    ):
        assert words in panel
    assert "to connect" not in panel  # there was none


def test_a_problem_says_why_whose_and_what_now() -> None:
    for text in (drawn(BACK), final_sentence(BACK)):
        assert "CRIU could not restore it [sic]" in text
        assert "choose another pod" in text
    assert "the pod [restore-failed]" in drawn(BACK)
    assert "the logs of the two pods say more" in drawn(DEAD)


def test_what_was_lost_is_listed() -> None:
    assert "✗ 3 connections lost" in drawn(LOST)
    assert "lost: 3 connections lost" in final_sentence(LOST)
    cut = msgspec.structs.replace(MOVED, flows=FlowCounts(71, 0, 2), bytes=ByteCounts(0, 9))
    assert "✗ 2 connections lost" in drawn(cut)
    assert "✗ 9 bytes lost" in drawn(cut)
    assert "69 of 71 kept" in drawn(cut)


def test_a_rollback_without_loss_accuses_nobody() -> None:
    back = Verdict(3, ["it was not completed"], msgspec.structs.replace(DEMO, outcome="rolled-back"))
    assert "✗" not in drawn(back)


def test_a_move_that_never_stopped_anything_says_little() -> None:
    early = MigrationResult(migration="x-1", outcome="rolled-back", error=PROBLEM)
    assert "frozen" not in drawn(early)
    assert "ledger" not in drawn(early)


def test_a_narrow_screen_gets_no_explanations() -> None:
    panel = drawn(KEPT, 80)
    assert "longest silence of a connection" not in panel
    assert all(len(line) <= 80 for line in panel.splitlines())
