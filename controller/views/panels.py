"""The last word on a migration or a demo, for a person: what happened, what it cost, what to do now. Pure."""

from __future__ import annotations

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from controller.core.predict import MUCH_BYTES
from controller.core.result import MigrationResult, Problem, given_up
from controller.core.units import byte_text, duration_text
from controller.demo.result import DemoResult, Spread
from controller.demo.verdict import Verdict

Ending = MigrationResult | Verdict

ROOMY_CELLS = 100
"""Below this width a fact is shown without what it means."""

STYLES = {"succeeded": "green", "rolled-back": "yellow", "failed": "red"}

FAULTS = {
    "request": "the request",
    "workload": "the workload",
    "pod": "the pod",
    "peer": "the other party",
    "machine": "this machine",
    "midstream": "Midstream itself",
}
"""Whose fault it was, in words."""


def final_panel(ending: Ending, width: int = ROOMY_CELLS) -> Panel:
    """The verdict, framed in the colour of its outcome, for a screen of `width` cells."""
    result = ending.result if isinstance(ending, Verdict) else ending
    style = "red" if _bad(ending) else STYLES[result.outcome]
    title = Text(f" {headline(ending)} ", f"bold {style}")
    return Panel(
        Group(*_body(ending, width >= ROOMY_CELLS)),
        title=title,
        title_align="left",
        border_style=style,
        box=ROUNDED,
        padding=(1, 2),
        expand=False,
    )


def final_sentence(ending: Ending) -> str:
    """The verdict in plain lines, for a log."""
    result = ending.result if isinstance(ending, Verdict) else ending
    lines = [f"{headline(ending)} ({result.migration}: {result.outcome})"]
    lines += [f"  lost: {reason}" for reason in _reasons(ending)]
    lines += [f"  {name}: {value}" for name, value in facts(result) if value]
    if result.error is not None:
        lines += [f"  why: {result.error.message} [{result.error.code}]", f"  what now: {_advice(result.error)}"]
    return "\n".join(lines)


def headline(ending: Ending) -> str:
    """The whole story in a few words."""
    result = ending.result if isinstance(ending, Verdict) else ending
    if _bad(ending) and result.outcome == "succeeded":
        return "Moved, but something was lost" if _losses(ending) else "Moved, but nothing was proved"
    return {
        "succeeded": "Moved, and nothing was lost",
        "rolled-back": "Rolled back: it runs on where it was",
        "failed": "Failed: it does not run any more",
    }[result.outcome]


def facts(result: MigrationResult) -> list[tuple[str, str]]:
    """Names and values, most important first."""
    known = _demo_facts(result) if isinstance(result, DemoResult) else _migration_facts(result)
    return [*known, *_ledger_facts(result), ("not carried over", "; ".join(result.not_carried))]


def _migration_facts(result: MigrationResult) -> list[tuple[str, str]]:
    adopted, lost = result.flows.adopted, result.flows.lost
    return [
        ("connections", f"{adopted - lost:,} of {adopted:,} kept, {lost:,} lost" if adopted else ""),
        ("bytes", f"{result.bytes.lost:,} lost" if adopted else ""),
        *_time_facts(result),
        ("memory", _memory_text(result)),
        ("images", _images_text(result)),
    ]


def _demo_facts(result: DemoResult) -> list[tuple[str, str]]:
    return [
        ("connections", f"{result.connections.kept:,} of {result.connections.opened:,} kept, {result.resets:,} resets"),
        ("bytes", f"{max(result.client_bytes_lost, result.bytes.lost):,} lost"),
        (
            "replies",
            f"{result.replies_wrong:,} wrong, {result.replies_missing:,} missing of {result.replies_checked:,}",
        ),
        *_time_facts(result),
        ("memory", _memory_text(result)),
        ("images", _images_text(result)),
        ("stall", _spread_text(result.stall_seconds)),
        ("stall otherwise", _spread_text(result.steady_stall_seconds)),
        ("requests while it came", _spread_text(result.latency_while_memory_comes_seconds)),
        ("requests otherwise", _spread_text(result.latency_otherwise_seconds)),
        ("newcomers", _newcomers(result)),
        ("to connect", _spread_text(result.connect_during_freeze_seconds)),
        ("to be served", _spread_text(result.served_during_freeze_seconds)),
    ]


def _time_facts(result: MigrationResult) -> list[tuple[str, str]]:
    """How long it took, beside what the plan had expected of it."""
    seen = result.memory
    if seen is None or result.outcome != "succeeded":
        return [("frozen", duration_text(result.freeze_seconds) if result.freeze_seconds else "")]
    return [
        ("frozen", _beside(result.freeze_seconds, seen.predicted_freeze_seconds)),
        ("in all", _beside(seen.total_seconds, seen.predicted_total_seconds)),
    ]


def _beside(seconds: float, predicted_seconds: float) -> str:
    return f"{duration_text(seconds)} (predicted: {duration_text(predicted_seconds)})"


def _images_text(result: MigrationResult) -> str:
    """How they travelled, where they did, and what compression made of them."""
    went = result.transfer
    if went is None or went.way == "shared":
        return ""
    by = "from agent to agent" if went.way == "direct" else "by way of the archive"
    squeezed = f", compressed to {byte_text(went.wire_bytes)}" if went.wire_bytes < went.bytes else ""
    again = f", after {went.retries:,} broken connections" if went.retries else ""
    return f"{byte_text(went.bytes)} {by} in {duration_text(went.seconds)}{squeezed}{again}"


def _memory_text(result: MigrationResult) -> str:
    """The way it went; of little memory only why it is not the way that was asked for."""
    seen = result.memory
    if seen is None or result.outcome != "succeeded":
        return ""
    if seen.way == "stop-and-copy" and seen.memory_bytes < MUCH_BYTES:
        return f"by {seen.way}: {seen.fell_back}" if seen.fell_back else ""
    before = f", {byte_text(sum(one.bytes for one in seen.rounds))} before the freeze" if seen.way == "pre-copy" else ""
    fetched = f", {byte_text(int(seen.fetched_bytes / seen.fetch_seconds))}/s" if seen.fetch_seconds else ""
    if seen.early_bytes:
        fetched = f", {byte_text(seen.early_bytes)} of it before the freeze, {byte_text(seen.again_bytes)} inside it"
    back = f": {seen.fell_back}" if seen.fell_back else ""
    return f"{byte_text(seen.memory_bytes)} by {seen.way}{before}{fetched}{back}"


def _newcomers(result: DemoResult) -> str:
    tried = result.new_connections
    return f"{tried.during_freeze:,} came during the freeze, {tried.failed:,} of {tried.opened:,} turned away"


def _ledger_facts(result: MigrationResult) -> list[tuple[str, str]]:
    """What the proxies did for it."""
    accepted = f", {result.flows.accepted_during_hold:,} new ones" if result.flows.accepted_during_hold else ""
    held = f"{byte_text(result.bytes.held)} of {result.flows.adopted:,} connections{accepted}"
    balanced = sum(row.offsets_equal for row in result.ledger)
    return [
        ("held", held if result.flows.adopted else ""),
        ("ledger", f"{balanced:,} of {len(result.ledger):,} flows balance" if result.ledger else ""),
    ]


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return ""
    figures = (("p50", spread.p50), ("p99", spread.p99), ("max", spread.max))
    return "   ".join(f"{name} {duration_text(seconds)}" for name, seconds in figures)


EXPLAINED = {
    "frozen": "no instruction ran",
    "in all": "from its preparation on",
    "stall": "longest silence of a connection",
    "stall otherwise": "the same, away from the move",
    "to connect": "begun during the freeze",
    "to be served": "until its first reply",
    "held": "until it ran again",
}
"""What a fact means, where its name does not say it."""


def _body(ending: Ending, explained: bool) -> list[RenderableType]:
    result = ending.result if isinstance(ending, Verdict) else ending
    parts: list[RenderableType] = []
    if result.error is not None:
        parts += [_problem(result.error), Text()]
    if reasons := _reasons(ending):
        parts += [*(Text(f"✗ {reason}", "bold red") for reason in reasons), Text()]
    return [*parts, _fact_table(result, explained)]


def _fact_table(result: MigrationResult, explained: bool) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="bright_black")
    for name, value in facts(result):
        if value:
            table.add_row(name, Text(value), *([EXPLAINED.get(name, "")] if explained else []))
    table.add_row("migration", Text(result.migration))
    return table


def _problem(problem: Problem) -> Table:
    """Why, whose fault, what now."""
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column()
    table.add_row("why", Text(problem.message, "bold"))
    table.add_row("cause", Text(f"{FAULTS[problem.fault]} [{problem.code}]"))
    table.add_row("what now", Text(_advice(problem)))
    return table


def _advice(problem: Problem) -> str:
    return problem.hint or "nothing is known to help: the logs of the two pods say more"


def _reasons(ending: Ending) -> list[str]:
    """What was lost, one line each."""
    if isinstance(ending, Verdict):
        return ending.reasons if ending.result.outcome == "succeeded" or _losses(ending) else []
    counted = [(ending.flows.lost, "connections lost"), (ending.bytes.lost, "bytes lost")]
    return [*(f"{count:,} {what}" for count, what in counted if count), *given_up(ending)]


def _losses(ending: Ending) -> bool:
    """Something is known to be lost, which is more than not being proved."""
    if not isinstance(ending, Verdict):
        return bool(ending.flows.lost or ending.bytes.lost)
    return ending.lost


def _bad(ending: Ending) -> bool:
    if isinstance(ending, Verdict):
        return ending.exit_status == 1 or ending.result.outcome == "failed"
    return ending.outcome == "failed" or _losses(ending)
