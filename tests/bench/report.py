"""docs/bench.md from the figures. Pure: the same figures give the same text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from tests.bench import lanes, memory_figures, steps, targets
from tests.bench.figures import Figures, Machine, Moved, Spread, percentile
from tests.bench.targets import DEMO, ms, ms_spread

WIDTH = 120
Cells = Sequence[str]
BUSY = 0.1
"""A share of the processors' time that others use from which on a reader has to be told."""


def render(figures: Figures) -> str:
    """The whole report, as Markdown."""
    parts = [
        "# Bench",
        _introduction(figures),
        "## The machine",
        _machine(figures),
        "## The claims",
        _table(("", "measured", "target", "", "floor, same run", "how"), map(_claim, targets.rows(figures))),
        *_bad(figures),
        *_section("## The demo, phase by phase", _phases(figures)),
        *_section("## The freeze and CRIU alone", _criu(figures)),
        *_section("## Where the freeze goes", _where(figures)),
        *_section("## Sidecars at rest", _steady(figures)),
        *_section("## Taken back", _rollback(figures)),
        *_section("## Relayed after the move", _relay(figures)),
        *_section("## Much memory", _memory(figures)),
        "## How it is measured",
        METHOD,
    ]
    return "\n\n".join(parts) + "\n"


METHOD = """\
- **The load** is the demo's own (`controller/demo/load.py`), a process of its own in a third pod: 64 connections
  with pipelines whose every reply is known beforehand and compared byte for byte, 1 publisher and 4 subscribers, 2
  connections with 256 KiB values at 20 MB/s, and a new connection every 5 ms. Each run has fresh pods, a fresh
  Redis and a fresh load.
- **Stall**: one connection's longest time without a byte while a reply was due, as its client saw it. Its floor is the
  same measure of the same load, for as long, with no move.
- **Freeze**: from when the driver asks for the stop until the destination's agent has answered that the workload
  runs: more than the truth by a round trip at each end.
- **CRIU alone**: `criu dump --leave-stopped` in pod a, then `criu restore --restore-detached` in pod b, each
  started with `nsenter` as a person would: the same program, options (`--tcp-established --network-lock skip`),
  Redis, load and pods, images on tmpfs, and in turn with Midstream's moves. Both commands' whole time counts. *Its
  own work* is what its statistics say (freezing, frozen, forking, restore), without the start of a process; *of
  that CRIU* is the same for the CRIU inside Midstream's freeze, the restore as the agent saw it. Nobody keeps the
  connections there: it is a floor and no alternative.
- **At rest**: redis-benchmark from the client's pod, three servers a round in an order that changes: in a pod with
  sidecars, and in two pods without. The ratio of the two equal ones is the noise: how far their median is from 1,
  plus two standard errors.
- **Taken back**: a refusal is put between the driver and one of the destination's sidecars
  (`tests/harness/interposer.py`); what that adds to the calls is in the figures.
- **Relayed**: a small C program (`tests/bench/traffic.c`) is both ends; its server is moved from one pod to another
  with the lane's connections open: between pods with TLS, the default, and between pods with cleartext links. Direct
  connections go to where the server is now; HAProxy's (Debian's, mode tcp, one thread, splicing where it can) through
  one in either pod, with TLS between the two (both show certificates) and without. All lanes are open at once, and each
  round measures each for a second or two, in an order that changes. Nothing is pinned: client, server and proxies share
  the processors, for every lane alike. The direct lane shows how little of it is the client's and the server's.
- **Much memory**: the demo's Redis filled with values that are written and read back at random during the move.
  CRIU alone dumps and restores one as large that nobody uses, in turn with the moves by stop-and-copy.
- **Images**: direct, from a tmpfs to a tmpfs, between two processes over the loopback; the socket sends one buffer
  again and again, and throws away what it gets; in a run of its own it writes that into a new file. Through the store:
  SeaweedFS and its volumes on this machine and disk; its own client does not speak S3. Damage:
  one bit of all the bytes there, restored before the next.
- Run it again: `make bench`; in two minutes and without writing this file: `make bench ARGS='--quick'`; a part:
  `make bench ARGS='--only demo,freeze'`. Its exit status says whether anything was lost, wrong or reset; no time
  makes it fail."""


WHERE = (
    "A phase is the driver's time from one journal entry to the next; below it, what the party itself says it took, "
    "or, for the proxies, the call as the driver saw it. The difference is the way there and back. The last column is "
    "the difference between the most and the fewest connections, divided by the flows."
)


def _introduction(figures: Figures) -> str:
    parts = ", ".join(figures.sections)
    kind = "" if figures.plan.name == "full" else f" This is a {figures.plan.name} run: fewer of everything."
    text = (
        f"Written by `make bench` on {figures.machine.measured}, from {figures.machine.revision}, in "
        f"{figures.seconds:.0f} s ({parts}).{kind} Do not edit. Where there are three numbers they are the median and, "
        "in brackets, the least and the most of the runs. A floor is what this machine takes for the same thing with "
        "nothing of Midstream's in it, measured in the same run: look at a figure beside its floor, not alone."
    )
    return textwrap.fill(text, WIDTH)


def _machine(figures: Figures) -> str:
    one = figures.machine
    facts = [
        ("kernel", one.kernel),
        ("processor", f"{one.cores} cores, {one.processor}"),
        ("memory", f"{one.memory_bytes / (1 << 30):.1f} GiB"),
        ("CRIU, Python", f"{one.criu}, {one.python}"),
        ("load average before, after", f"{_load(one.load_before)}; {_load(one.load_after)}"),
        ("used by other processes meanwhile", _others(one)),
        ("taken by the hypervisor meanwhile", f"{one.stolen:.1%} of the processors' time"),
        ("a 1 ms sleep ends late by", _wakeups(one)),
        ("a CRIU that starts and does nothing", ms_spread(Spread.of(figures.starts))),
    ]
    busy = [name for name, share in one.others.items() if share > BUSY]
    warning = f"\n\n**The machine was busy with something else during {', '.join(busy)}: those times are too high.**"
    return _table(("", ""), facts) + (warning if busy else "")


def _others(machine: Machine) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in machine.others.items()) or "-"


def _load(averages: Sequence[float]) -> str:
    return " ".join(f"{average:.2f}" for average in averages)


def _wakeups(machine: Machine) -> str:
    late = machine.wakeups
    return f"p50 {ms(percentile(late, 0.5))}, p99 {ms(percentile(late, 0.99))}, most {ms(max(late))}" if late else "-"


def _claim(row: targets.Row) -> Cells:
    return row.what, row.measured, row.target, row.verdict, row.floor, row.method


def _bad(figures: Figures) -> list[str]:
    if not figures.bad:
        return []
    return ["**What went wrong:**", "\n".join(f"- {reason}" for reason in figures.bad)]


def _phases(figures: Figures) -> str:
    moves = figures.moved("demo")
    if not moves:
        return ""
    names = list(dict.fromkeys(name for move in moves for name in move.phases))
    lines = [(name, ms_spread(Spread.of(move.phases[name] for move in moves if name in move.phases))) for name in names]
    return _table(("phase", f"{len(moves)} runs, {DEMO} connections"), lines)


def _criu(figures: Figures) -> str:
    numbers = sorted({one.connections for one in figures.bares})
    lines = [line for number in numbers for line in [_criu_line(figures, number)] if line]
    heads = (
        "connections",
        "Midstream, freeze",
        "of that CRIU",
        "CRIU alone",
        "dump",
        "restore",
        "its own work",
        "ratio",
    )
    return _table(heads, lines) if lines else ""


def _criu_line(figures: Figures, number: int) -> Cells:
    alone, moves = figures.bare(number), figures.moved("freeze", "scale", connections=number)
    whole = Spread.of(one.seconds for one in alone)
    frozen = Spread.of(move.freeze_seconds for move in moves)
    if whole is None or frozen is None:
        return ()
    return (
        f"{number:,}",
        ms_spread(frozen),
        ms_spread(Spread.of(move.criu_seconds for move in moves if move.criu_seconds is not None)),
        ms_spread(whole),
        ms_spread(Spread.of(one.dump_seconds for one in alone)),
        ms_spread(Spread.of(one.restore_seconds for one in alone)),
        ms_spread(Spread.of(one.work_seconds for one in alone)),
        f"{frozen.median / whole.median:.2f}",
    )


def _where(figures: Figures) -> str:
    numbers = steps.measured(figures)
    if not numbers:
        return ""
    heads = ["medians", *(f"{number:,} connection{'s' * (number != 1)}" for number in numbers), "each further one"]
    adopted = [_count(steps.flows(figures, number)) for number in numbers]
    lines: list[Cells] = [("flows adopted", *adopted, "")]
    for line in steps.table(figures, numbers):
        cells = ["-" if seconds is None else ms(seconds) for seconds in line.seconds]
        each = "" if line.each is None else f"{line.each * 1e6:.1f} us"
        lines.append(("&emsp;" * line.depth + line.name, *cells, each))
    return f"{_table(heads, lines)}\n\n{textwrap.fill(WHERE, WIDTH)}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _steady(figures: Figures) -> str:
    if figures.steady is None or not figures.steady.rounds:
        return ""
    rounds = figures.steady.rounds
    tests = sorted(next(iter(rounds[0].rates.values())))
    lines = []
    for pod in sorted(rounds[0].rates):
        rates = [Spread.of(one.rates[pod][test] for one in rounds) for test in tests]
        lines.append((pod, *(f"{r.median:,.0f} ({r.least:,.0f} to {r.most:,.0f})" for r in rates if r)))
    return _table(("pod", *(f"{test}, requests/s" for test in tests)), lines)


def _rollback(figures: Figures) -> str:
    moves = [move for move in figures.moves if move.section == "rollback"]
    places = list(dict.fromkeys(move.place for move in moves))
    lines = [_rollback_line(place, [move for move in moves if move.place == place]) for place in places]
    heads = ("the destination refuses in", "moves", "longest stall", "frozen", "lost", "resets")
    return _table(heads, lines) if lines else ""


def _rollback_line(place: str, moves: Sequence[Moved]) -> Cells:
    stall = Spread.of(max(move.stalls, default=0.0) for move in moves)
    frozen = Spread.of(move.freeze_seconds for move in moves)
    losses = [move.losses for move in moves]
    lost = sum(
        one.connections + one.newcomers + one.missing + one.bytes + one.wrong + one.ledger_flows for one in losses
    )
    resets = sum(one.resets for one in losses)
    not_frozen = frozen is None or not frozen.most
    return (place, str(len(moves)), ms_spread(stall), "no" if not_frozen else ms_spread(frozen),
            str(lost), str(resets))  # fmt: skip


def _relay(figures: Figures) -> str:
    parts = []
    if found := lanes.table(figures):
        parts += [_table(*found), lanes.WHY]
    if found := lanes.idle(figures):
        parts += [_table(*found), lanes.IDLE]
    return "\n\n".join(parts)


def _memory(figures: Figures) -> str:
    found = memory_figures.table(figures.memory)
    return f"{_table(*found)}\n\n{textwrap.fill(memory_figures.WHY, WIDTH)}" if found else ""


def _section(heading: str, body: str) -> list[str]:
    return [heading, body] if body else []


def _table(heads: Cells, lines: Iterable[Cells]) -> str:
    made = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in made)


def plain(figures: Figures) -> str:
    """The claims, for a terminal."""
    found = targets.rows(figures)
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*map(_short, found), strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(_short(row), widths, strict=True)).rstrip() for row in found
    )


def _short(row: targets.Row) -> Cells:
    return row.what, row.measured, row.target, row.verdict.strip("*"), row.floor
