"""Tables for a person: pods, flows, migrations, a plan, the checks; and what to say when there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from checkpoint.api import Ground, Problem
from controller.core.check import CheckResult
from controller.core.choose import Choice
from controller.core.phases import Phase
from controller.core.plan import Plan
from controller.core.units import byte_text, duration_text
from controller.journal import Record
from controller.views.panels import final_panel

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
WIDE_CELLS = 170
"""Room for every column: a name that is cut short cannot be copied."""
PHASE_STYLES = {Phase.SUCCEEDED: "green", Phase.ROLLED_BACK: "yellow", Phase.FAILED: "red"}


def show_pods(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """`midstream pod list`."""
    table = _table("pod", "address", "IPv6", "state", "root", "links", "workloads")
    for row in rows:
        up = Text("up", "green") if row["answers"] else Text("no answer", "yellow")
        state = up if row["alive"] else Text("down", "red")
        links = Text("cleartext", "red") if row["cleartext_links"] else Text("TLS")
        root = "own" if row["own_root"] else "machine's"
        ends = (row["name"], row["address"], row["address6"] or "-")
        _add(table, *ends, state, root, links, _workloads(row["workloads"]))
    _show(console, table, rows, "There are no pods. Make two: midstream pod create a b")


def _workloads(workloads: Sequence[dict[str, Any]]) -> Text:
    styles = {"running": "green", "stopped": "yellow", "exited": "bright_black"}
    named = [Text.assemble(each["name"], (f" {each['state']}", styles.get(each["state"], ""))) for each in workloads]
    return Text(", ").join(named) if named else Text("-", "bright_black")


def show_flows_table(rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """`midstream flows`: who talks to whom, by which way, and how much."""
    table = _table("pod", "side", "peer", "workload's end", "opened", "state", "via", "held", "to it", "from it")
    for column in table.columns[-3:]:
        column.justify = "right"
    for row in rows:
        amounts = [byte_text(row[name]) for name in ("held_bytes", "to_app_bytes", "to_peer_bytes")]
        ends = [_endpoint(row["peer"]), _endpoint(row["local"])]
        state = f"{row['state']}, asleep" if row["link"] == "asleep" else row["state"]
        _add(table, row["pod"], row["side"], *ends, row["direction"], state, row["via"] or "-", *amounts)
    _show(console, table, rows, "No proxy holds or relays a flow: every connection is native.")


def _endpoint(pair: Sequence[Any]) -> str:
    host, port = pair
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def show_records(records: Sequence[Record], *, detailed: bool = False, console: Console | None = None) -> None:
    """`midstream status`: every migration, one a line; in detail, how it came to that."""
    table = _table("migration", "workload", "from", "to", "phase", "frozen", *([] if detailed else ["why"]))
    for record in records:
        intent, result = record.intent, record.entries[-1].result
        frozen = duration_text(result.freeze_seconds) if result and result.freeze_seconds else "-"
        state = _state(record)
        why = [] if detailed else [record.reason]
        _add(table, intent.migration, intent.workload, intent.source, intent.destination, state, frozen, *why)
    _show(console, table, records, "There was no migration yet: midstream migrate WORKLOAD --to POD")
    if detailed:
        for record in records:
            _show_history(record, console or _console())


def _state(record: Record) -> Text:
    text = Text(record.phase.value, PHASE_STYLES.get(record.phase, "cyan"))
    return text.append(" (interrupted: midstream resume)", "red") if record.interrupted else text


def _show_history(record: Record, console: Console) -> None:
    began = record.entries[0].monotonic
    table = _table("after", "phase", "")
    said = ""
    for entry in record.entries:
        if entry.result is None:  # the phase that it is in has a line already
            news = entry.reason if entry.reason != said else ""
            _add(table, duration_text(entry.monotonic - began), entry.phase.value, news)
            said = entry.reason
    console.print(_framed(table))
    if (result := record.entries[-1].result) is not None:
        console.print(final_panel(result, console.width))
        if result.error is not None and (log := result.error.criu_log) is not None and log.path:
            # By itself and never folded: it is there to be copied.
            console.print(f"  CRIU's log: {log.path}", soft_wrap=True, markup=False)


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """`midstream migrate --dry-run`: what would be moved, and what stands in the way."""
    console = console or _console()
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bright_black")
    table.add_column()
    for name, value in _plan_facts(plan):
        table.add_row(name, Text(value))
    console.print(_framed(table))
    _show_choice(plan.memory, console)
    if not plan.problems:
        console.print(_line("ok", "Nothing is known to stand in the way. Nothing was touched.", ""))
    for loss in plan.losses:
        console.print(_line("warning", loss.message, ""))
    _show_problems(plan.warnings, plan.problems, console)


class WorkloadCheck(msgspec.Struct, frozen=True):
    """`midstream check WORKLOAD`: what a move would be, wherever it goes to."""

    workload: str
    pod: str
    processes: int
    threads: int
    memory_bytes: int
    connections: int
    links: str
    """What its pod's are: "TLS" or "cleartext"."""
    memory: Choice
    problems: list[Problem]
    warnings: list[Problem] = []
    """What a move with no more said than where to would be told."""


def show_workload_check(found: WorkloadCheck, console: Console | None = None) -> None:
    console = console or _console()
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bright_black")
    table.add_column()
    facts = [
        ("workload", f"{found.workload}, in {found.pod}, {_crew(found.processes, found.threads)}"),
        ("memory", byte_text(found.memory_bytes)),
        ("connections", f"{found.connections:,}"),
        ("links", found.links),
        *_memory_facts(found.memory),
    ]
    for name, value in facts:
        table.add_row(name, Text(value))
    console.print(_framed(table))
    _show_choice(found.memory, console)
    if not found.problems:
        console.print(_line("ok", "Nothing of the workload's own is known to stand in the way of a move.", ""))
    _show_problems(found.warnings, found.problems, console)


def _memory_facts(choice: Choice) -> list[tuple[str, str]]:
    others = [
        f"{one.way} would freeze it for {duration_text(one.freeze_seconds)}, in all {duration_text(one.total_seconds)}"
        for one in choice.others
    ]
    return [
        ("its memory goes", f"by {choice.way}: {choice.reason}"),
        ("predicted", f"frozen {duration_text(choice.freeze_seconds)}, in all {duration_text(choice.total_seconds)}"),
        ("otherwise", "; ".join(others)),
    ]


def _crew(processes: int, threads: int) -> str:
    return f"{processes:,} process{'' if processes == 1 else 'es'}, {threads:,} thread{'' if threads == 1 else 's'}"


def _show_problems(warnings: Sequence[Problem], problems: Sequence[Problem], console: Console) -> None:
    for status, found in (("warning", warnings), ("failed", problems)):
        for one in found:
            console.print(_line(status, one.message, one.hint))


def _show_choice(choice: Choice | None, console: Console) -> None:
    if choice is not None and choice.risk:
        console.print(_line("warning", f"{choice.risk[:1].upper()}{choice.risk[1:]}.", ""))


def _plan_facts(plan: Plan) -> list[tuple[str, str]]:
    addresses = [f"{old} → {new}" for old, new in plan.readdress.items()]
    return [
        ("move", f"{plan.workload}, from {plan.source} to {plan.destination}"),
        ("command", " ".join(plan.argv)),
        ("processes", f"{_crew(plan.processes, plan.threads)}; the first is {plan.pid}"),
        ("memory", byte_text(plan.memory_bytes)),
        *(_memory_facts(plan.memory) if plan.memory else ()),
        ("connections", f"{plan.connections:,}, all of them stay open"),
        ("listens on", ", ".join(map(str, plan.listening_ports)) or "nothing"),
        ("addresses", ", ".join(addresses)),
        *(("files", _ground_text(ground)) for ground in plan.files.grounds),
        *(("deleted, open", f"{one.path}, {byte_text(one.size_bytes)}") for one in plan.files.deleted),
    ]


def _ground_text(ground: Ground) -> str:
    """A line of the plan."""
    what = "what the pod has written" if ground.path == "/" else ground.path
    gone = f", {ground.deleted:,} deleted" if ground.deleted else ""
    left = f"; left: {ground.left_count:,} sockets and devices" if ground.left_count else ""
    return f"{what}: {ground.files:,} files, {byte_text(ground.size_bytes)}{gone}{left}"


def show_checks(checks: Sequence[CheckResult], console: Console | None = None) -> None:
    """`midstream check`: ✓ and ✗ and !, each with its remedy, then the sum of it."""
    console = console or _console()
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        console.print(_line(check.status, f"{check.name:<{width}}  {check.detail}", check.remedy), soft_wrap=True)
    failed = sum(check.status == "failed" for check in checks)
    verdict = (
        f"{failed} of {len(checks)} checks failed: see the remedies" if failed else "This machine can move workloads."
    )
    console.print(Text(f"\n  {verdict}", "bold red" if failed else "bold green"))


def _line(status: str, text: str, hint: str) -> Text:
    mark, style = MARKS[status]
    line = Text.assemble((f"  {mark} ", style), text)
    return line.append(f"\n    → {hint}", "bright_black" if status == "ok" else "cyan") if hint else line


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bright_black")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """A row; its strings are text and not markup: "[fd00::2]:80" would vanish."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _console() -> Console:
    """What is piped is not folded to a terminal's width: it is there to be searched."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = max(made.width, WIDE_CELLS)
    return made


def _framed(table: Table) -> RenderableType:
    return Padding(table, (1, 0, 1, 2), expand=False)


def _show(console: Console | None, table: Table, rows: Sequence[object], otherwise: str) -> None:
    console = console or _console()
    console.print(_framed(table) if rows else Text(f"  {otherwise}"))
