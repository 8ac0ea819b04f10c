"""`make bench`: measures on this machine and writes docs/bench.md; of a quick run or a part, build/bench.md.

The measurements themselves are kept in build/bench.json; `--render` makes a report of such a file again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from controller.lab.programs import CHECKOUT
from tests.bench import machine
from tests.bench.figures import FULL, QUICK, SECTIONS, Failure, Figures
from tests.bench.report import plain, render
from tests.bench.sections import SECTIONS as MEASURES
from tests.harness import leaks

REPORT = CHECKOUT / "docs" / "bench.md"
SCRATCH = CHECKOUT / "build"
INTERRUPTED = 130  # as a shell says it of SIGINT


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measures this machine: see docs/bench.md."
    )
    parser.add_argument("--quick", action="store_true", help="fewer of everything: two minutes; not for docs/bench.md")
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--output", type=Path, help="the report (docs/bench.md; of a part: build/bench.md)")
    parser.add_argument("--render", type=Path, metavar="JSON", help="measure nothing: make the report of a kept file")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(sorted(unknown))}")
    return [name for name in SECTIONS if name in names]


async def measure(figures: Figures, say: Callable[[str], None]) -> None:
    """All the sections asked for. SIGTERM, like an interrupt from the keyboard, ends everything that was started."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    began, first, others = time.monotonic(), machine.Usage.now(), dict[str, float]()
    for name in figures.sections:
        before = machine.Usage.now()
        await MEASURES[name](figures, say)
        others[name] = before.others_until(machine.Usage.now())
        say(f"{name}: other processes used {others[name]:.0%} of the machine meanwhile")
    figures.seconds = time.monotonic() - began
    after, stolen = machine.load_average(), first.stolen_until(machine.Usage.now())
    figures.machine = msgspec.structs.replace(figures.machine, load_after=after, stolen=stolen, others=others)


def run(chosen: argparse.Namespace) -> Figures:
    """Measures, and checks that nothing of it is left."""
    leaks.adopt_orphans()
    before = leaks.take(machine=False)
    plan = QUICK if chosen.quick else FULL
    figures = Figures(plan=plan, sections=chosen.only, machine=machine.look())
    began = time.monotonic()
    asyncio.run(measure(figures, lambda line: print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)))
    if left := leaks.left_since(before, machine=False):
        figures.failures.append(Failure("bench", f"left behind: {'; '.join(left)}"))
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    try:
        return bench(chosen)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: nothing is written", file=sys.stderr)
        return INTERRUPTED


def bench(chosen: argparse.Namespace) -> int:
    """Measures or reads, writes, prints; the exit status."""
    SCRATCH.mkdir(exist_ok=True)
    if chosen.render:
        figures = msgspec.json.decode(chosen.render.read_bytes(), type=Figures)
    else:
        figures = run(chosen)
        (SCRATCH / "bench.json").write_bytes(msgspec.json.encode(figures))
    complete = figures.plan.name == "full" and figures.sections == list(SECTIONS)
    output = chosen.output or (REPORT if complete else SCRATCH / "bench.md")
    output.parent.mkdir(exist_ok=True)
    output.write_text(render(figures))
    print(f"\n{plain(figures)}\n\nwritten to {output}")
    for reason in figures.bad:
        print(f"bad: {reason}", file=sys.stderr)
    return 1 if figures.bad else 0


if __name__ == "__main__":
    sys.exit(main())
