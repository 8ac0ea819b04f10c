"""Tables, full and empty."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
from rich.console import Console

from checkpoint.api import Problem
from controller.core.check import CheckResult
from controller.core.choose import Choice
from controller.core.phases import Phase
from controller.core.plan import Plan
from controller.core.predict import Prediction
from controller.core.result import CriuLog, MigrationResult
from controller.core.result import Problem as Told
from controller.journal import Entry, Intent, Record
from controller.views.tables import (
    WorkloadCheck,
    show_checks,
    show_flows_table,
    show_plan,
    show_pods,
    show_records,
    show_workload_check,
)
from proxy.api import Endpoint, FlowView

PLAN = Plan(
    "redis", "a", "b", 2007, ["redis-server", "--port", "1"], 1, 5, 9 << 20, 71, [6379], {"10.0.0.2": "10.0.0.3"}, []
)
INTENT = Intent("redis-1", "redis", "a", "b", 10.0, 1 << 20)
RESULT = MigrationResult(migration="redis-1", outcome="succeeded", freeze_seconds=0.122)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=140, color_system=None, highlight=False)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def record(*phases: Phase, driven: bool = False, reason: str = "", result: MigrationResult | None = None) -> Record:
    entries = [Entry(1000.0 + n, 5.0 + n / 10, phase) for n, phase in enumerate(phases)]
    entries[-1] = msgspec.structs.replace(entries[-1], reason=reason, result=result)
    return Record(INTENT, entries, driven)


@pytest.mark.parametrize(
    ("show", "words"),
    [
        (show_pods, "There are no pods"),
        (show_flows_table, "every connection is native"),
        (show_records, "no migration yet"),
    ],
)
def test_nothing_to_show_is_said(console: Console, show: Callable[..., None], words: str) -> None:
    show([], console=console)
    assert words in said(console)


def test_pods(console: Console) -> None:
    workload = {"name": "redis", "state": "running"}
    rows = [
        {
            "name": "a",
            "address": "10.0.0.2",
            "address6": "fd00::2",
            "alive": True,
            "answers": True,
            "cleartext_links": False,
            "own_root": False,
            "workloads": [workload, workload],
        },
        {
            "name": "b",
            "address": "10.0.0.3",
            "address6": "",
            "alive": False,
            "answers": True,
            "cleartext_links": True,
            "own_root": True,
            "workloads": [],
        },
    ]
    rows.append({**rows[0], "answers": False, "workloads": []})
    show_pods(rows, console)
    lines = [line.split() for line in said(console).splitlines() if line.strip()]
    assert lines[1] == ["a", "10.0.0.2", "fd00::2", "up", "machine's", "TLS", "redis", "running,", "redis", "running"]
    assert lines[2] == ["b", "10.0.0.3", "-", "down", "own", "cleartext", "-"]
    assert lines[3][3:5] == ["no", "answer"]


def test_flows(console: Console) -> None:
    view = FlowView(
        "redis-1",
        7,
        "source",
        Endpoint("10.0.0.4", 5000),
        Endpoint("fd00::2", 6379),
        "",
        "inbound",
        "joined",
        0,
        2048,
        9,
    )
    show_flows_table([{"pod": "a", **msgspec.to_builtins(view)}], console)
    row = said(console).splitlines()[-2]
    for words in ("10.0.0.4:5000", "[fd00::2]:6379", "inbound", "joined", "2.0 KiB", "9 B"):
        assert words in row
    sleeping = {"pod": "a", **msgspec.to_builtins(msgspec.structs.replace(view, link="asleep"))}
    show_flows_table([sleeping], console)
    assert "joined, asleep" in said(console).splitlines()[-2]


def test_records(console: Console) -> None:
    records = [
        record(Phase.PENDING, Phase.SUCCEEDED, result=RESULT),
        record(Phase.PENDING, Phase.ROLLED_BACK, reason="no room"),
        record(Phase.PENDING, Phase.RESTORING),
        record(Phase.PENDING, Phase.RESTORING, driven=True),
    ]
    show_records(records, console=console)
    lines = [line for line in said(console).splitlines() if line.strip()][1:]
    assert "Succeeded" in lines[0]
    assert "122 ms" in lines[0]
    assert "no room" in lines[1]
    assert "interrupted: midstream resume" in lines[2]
    assert "interrupted" not in lines[3]


def test_a_record_in_detail(console: Console) -> None:
    show_records(
        [record(Phase.PENDING, Phase.STOPPING, Phase.SUCCEEDED, result=RESULT)], detailed=True, console=console
    )
    assert "100 ms" in said(console)
    assert "Moved, and nothing was lost" in said(console)
    assert [line.split() for line in said(console).splitlines()].count(["100", "ms", "Stopping"]) == 1
    show_records([record(Phase.PENDING)], detailed=True, console=console)


def test_a_reason_is_said_once(console: Console) -> None:
    """A journal has it with every phase from the first that had it on, and a line more with the result."""
    phases = (Phase.RESTORING, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLED_BACK)
    entries = [Entry(1000.0, 5.0, phase, reason="no room") for phase in phases]
    entries[0] = msgspec.structs.replace(entries[0], reason="")
    entries[-1] = msgspec.structs.replace(entries[-1], result=RESULT)
    show_records([Record(INTENT, entries, driven=False)], detailed=True, console=console)
    assert said(console).count("no room") == 1
    assert said(console).count("RolledBack") == 2  # of the migration, and in its history


def test_where_criu_s_log_is_stands_on_a_line_of_its_own() -> None:
    narrow = Console(file=io.StringIO(), width=60, color_system=None, highlight=False)
    path = "/run/midstream/pods/a/agent/criu/redis-d5ba66.dump.log"
    for kept in (path, ""):
        problem = Told("criu-failed", "the dump failed", "machine", "Try again.", CriuLog(kept, ["Error: odd"]))
        result = msgspec.structs.replace(RESULT, outcome="rolled-back", error=problem)
        show_records([record(Phase.PENDING, Phase.ROLLED_BACK, result=result)], detailed=True, console=narrow)
    assert said(narrow).splitlines().count(f"  CRIU's log: {path}") == 1
    assert said(narrow).count("CRIU's log") == 1


def test_a_plan_that_nothing_stands_in_the_way_of(console: Console) -> None:
    show_plan(PLAN, console)
    for words in ("redis, from a to b", "redis-server --port 1", "71, all of them stay open", "10.0.0.2 → 10.0.0.3"):
        assert words in said(console)
    assert "✓ Nothing is known to stand in the way" in said(console)


def test_a_plan_with_a_problem(console: Console) -> None:
    problem = Problem("no-room", "pod b has too little memory", "pod", "choose another pod")
    show_plan(msgspec.structs.replace(PLAN, problems=[problem], listening_ports=[]), console)
    assert "✗ pod b has too little memory\n    → choose another pod" in said(console)
    assert "nothing" in said(console)


def test_what_a_move_will_take_and_what_it_risks(console: Console) -> None:
    choice = Choice("post-copy", 0.2, 9.5, [Prediction("stop-and-copy", 4.1, 4.6)], "too long", "it needs both pods")
    show_plan(msgspec.structs.replace(PLAN, memory=choice), console)
    show_workload_check(WorkloadCheck("redis", "a", 1, 5, 9 << 20, 71, "TLS", choice, []), console)
    for words in (
        "9.0 MiB",
        "by post-copy: too long",
        "frozen 200 ms, in all 9.50 s",
        "stop-and-copy would freeze it for 4.10 s, in all 4.60 s",
        "! It needs both pods.",
    ):
        assert said(console).count(words) == 2, words


def test_checks(console: Console) -> None:
    checks = [
        CheckResult("kernel", "ok", "6.18"),
        CheckResult("soft-dirty", "warning", "off", "post-copy is used"),
        CheckResult("criu", "failed", "not found", "make setup"),
    ]
    show_checks(checks, console)
    assert "✓ kernel" in said(console)
    assert "! soft-dirty  off\n    → post-copy is used" in said(console)
    assert "✗ criu        not found\n    → make setup" in said(console)
    assert "1 of 3 checks failed" in said(console)


def test_all_is_well(console: Console) -> None:
    show_checks([CheckResult("kernel", "ok", "6.18")], console)
    assert "This machine can move workloads." in said(console)
