"""What a person sees while a migration happens, and at its end.

**Nothing is drawn inside the freeze.** Drawing costs milliseconds of processor time, and from Stopping to Repointing
(and while a move is taken back) every one of them is a millisecond in which the workload does not run. What is
reported in that time is only noted; it is drawn when the workload runs again. For the same reason no thread refreshes
the screen: it changes when something is reported, and not more often than `REDRAW_SECONDS`.

On a terminal the phases appear in place; elsewhere (a pipe, a log, CI), and when asked to be quiet, each event is one
line. Quiet lines go to standard error, so that standard output carries nothing but the JSON that was asked for.
"""

from __future__ import annotations

import atexit
import time
from collections import deque
from types import TracebackType

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from controller.core.phases import FINAL, FROZEN, Phase
from controller.core.result import MigrationResult
from controller.core.units import byte_text, duration_text
from controller.demo.report import Tick
from controller.demo.verdict import Verdict
from controller.views.panels import final_panel, final_sentence
from controller.views.tables import show_checks, show_flows_table, show_plan, show_pods, show_records

__all__ = ["Display", "show_checks", "show_flows_table", "show_plan", "show_pods", "show_records"]

REDRAW_SECONDS = 0.08
"""At most a dozen pictures a second: the eye wants no more, and the load shares the processor with us."""

PLAIN_LOAD_SECONDS = 5.0
"""Between two lines about the load, where there is no terminal."""

PLAIN_MEMORY_SECONDS = 1.0
MEANINGFUL_SECONDS = 0.05
"""A rate over less than this is none."""

RATE_TICKS = 10
"""The rate shown is the mean over so many ticks, about a second."""

BAR_CELLS = 24

STANDSTILL = frozenset(phase.value for phase in (*FROZEN, Phase.ROLLING_BACK))
"""Phases in which the workload does not run, or may not: nothing is drawn."""

ENDINGS = frozenset(phase.value for phase in FINAL)


class Line(msgspec.Struct):
    """A phase on the screen. `seconds` is None while it lasts; `failed` when it is why the move was taken back."""

    name: str
    seconds: float | None = None
    failed: bool = False

    @property
    def mark(self) -> Text:
        if self.failed:
            return Text("✗", "red")
        return Text("…", "yellow") if self.seconds is None else Text("✓", "green")


class Display:
    """The observer of a migration. Use it as a context manager, so that the terminal is given back whatever happens."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=quiet, highlight=False)
        self._plain = quiet or not self._console.is_terminal
        self._lines: list[Line] = []
        self._held: tuple[int, int] | None = None
        self._memory: tuple[int, int] | None = None
        self._memory_line = ""
        self._said_memory_at = float("-inf")
        self._ticks: deque[Tick] = deque(maxlen=RATE_TICKS)
        self._frozen = False
        self._waiting = False
        self._buffered: list[str] = []
        self._said_load_at = float("-inf")
        self._drawn_at = float("-inf")
        self._live: Live | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def note(self, text: str) -> None:
        """A sentence about what was done before or beside the migration."""
        if self._plain or self._frozen:
            self._say(text)
        else:
            self._console.print(Text.assemble(("  ✓ ", "green"), text))

    def phase_started(self, name: str, at: float) -> None:
        """`at` is CLOCK_MONOTONIC seconds."""
        self._frozen = name in STANDSTILL
        if not self._frozen:
            self._thaw()
        if name in (Phase.ROLLING_BACK, Phase.FAILED) and self._lines:
            self._lines[-1].failed = True
        if name not in ENDINGS and name != Phase.PENDING:
            self._lines.append(Line(name))
            self._draw(urgent=True)

    def phase_ended(self, name: str, seconds: float) -> None:
        """The phase that was started last is over."""
        if not self._lines or self._lines[-1].name != name:
            return
        self._lines[-1].seconds = seconds
        self._say(f"{name:<14}{duration_text(seconds):>9}")
        self._draw(urgent=True)

    def held(self, flows: int, held_bytes: int) -> None:
        """So many flows are held, and so many bytes of their peers."""
        if self._held != (flows, held_bytes):
            self._held = flows, held_bytes
            self._say(f"held: {_held_text(flows, held_bytes)}")
            self._draw()

    def waiting(self, why: str) -> None:
        """The move has not begun, for a reason that passes. Said once, though it changes while it passes."""
        if not self._waiting:
            self._waiting = True
            self.note(why)

    def round(self, number: int, written_bytes: int, seconds: float) -> None:
        """Pre-copy: one round has copied so much; the workload runs."""
        self.note(f"round {number}: {byte_text(written_bytes)} in {duration_text(seconds)}")

    def early(self, arrived_bytes: int, whole: bool) -> None:
        """So much of the workload's memory was sent ahead; the workload runs where it was."""
        self._memory_line = f"{byte_text(arrived_bytes)} sent before the freeze"
        if self._due(whole):
            self._say(f"memory: {self._memory_line}")
        self._draw()

    def memory(self, arrived_bytes: int, total_bytes: int, seconds: float) -> None:
        """Post-copy: so much of the workload's memory has come since it runs at the destination."""
        if self._memory != (arrived_bytes, total_bytes):
            self._memory = arrived_bytes, total_bytes
            rate = f", {byte_text(int(arrived_bytes / seconds))}/s" if seconds > MEANINGFUL_SECONDS else ""
            self._memory_line = f"{byte_text(arrived_bytes)} of {byte_text(total_bytes)}{rate}"
            if self._due(arrived_bytes == total_bytes):
                self._say(f"memory: {self._memory_line}")
            self._draw()

    def _due(self, last: bool) -> bool:
        """Without a terminal not every step is worth a line."""
        now = time.monotonic()
        if last or now - self._said_memory_at >= PLAIN_MEMORY_SECONDS:
            self._said_memory_at = now
            return True
        return False

    def load(self, tick: Tick) -> None:
        """The demo's load goes on."""
        self._ticks.append(tick)
        if tick.at - self._said_load_at >= PLAIN_LOAD_SECONDS and not self._frozen:
            self._said_load_at = tick.at
            self._say(f"load: {_load_text(self._ticks).plain}")
        self._draw()

    def finish(self, ending: MigrationResult | Verdict) -> None:
        """The last picture, and what it all means."""
        self._frozen = False
        self._thaw()
        self._draw(urgent=True)
        self.close()
        if self._plain:
            self._console.print(final_sentence(ending), soft_wrap=True, markup=False)
        else:
            self._console.print(final_panel(ending, self._console.width))

    def close(self) -> None:
        """Give the terminal back. Twice is as good as once."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self.close)

    def picture(self) -> RenderableType:
        """What is on the screen now."""
        parts: list[RenderableType] = []
        if self._lines:
            parts += [Text(), _phase_table(self._lines)]
        if self._held:
            parts += [_labelled("held", Text(_held_text(*self._held)))]
        if self._memory_line:
            parts += [_labelled("memory", Text(self._memory_line))]
        if self._ticks:
            parts += [_labelled("load", _load_text(self._ticks))]
        return Padding(Group(*parts), (0, 0, 1, 2))

    def _say(self, text: str) -> None:
        if self._plain:
            self._buffered.append(text)
            if not self._frozen:
                self._thaw()

    def _thaw(self) -> None:
        """Print what was noted while nothing might be drawn."""
        for line in self._buffered:
            self._console.print(line, soft_wrap=True, markup=False)
        self._buffered.clear()

    def _draw(self, *, urgent: bool = False) -> None:
        if self._plain or self._frozen:
            return
        now = time.monotonic()
        if not urgent and now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        self._screen().update(self.picture(), refresh=True)

    def _screen(self) -> Live:
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )  # no thread of its own: see the head of this file
            self._live.start()
            atexit.register(self.close)  # the cursor is hidden: an error must not leave it so
        return self._live


def _phase_table(lines: list[Line]) -> Table:
    """One row a phase: ✓ or …, its name, its time, and how much of the whole that was; a rule beside the freeze."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "left", "left"):
        table.add_column(justify=justify)
    longest = max((line.seconds or 0.0 for line in lines), default=0.0)
    frozen = [line for line in lines if line.name in STANDSTILL]
    for line in lines:
        style = "bold cyan" if line.name in STANDSTILL else ""
        seconds = Text("" if line.seconds is None else duration_text(line.seconds), style)
        table.add_row(line.mark, Text(line.name, style), seconds, _bracket(line, frozen), _bar(line, longest))
    return table


def _bar(line: Line, longest: float) -> Text:
    cells = round(BAR_CELLS * (line.seconds or 0.0) / longest) if longest else 0
    return Text("━" * max(cells, line.seconds is not None), "cyan" if line.name in STANDSTILL else "bright_black")


def _bracket(line: Line, frozen: list[Line]) -> Text:
    """A bracket that spans the phases in which the workload stands still."""
    if line not in frozen:
        return Text()
    if len(frozen) == 1:
        return Text("╶ frozen", "cyan")
    index = next(number for number, each in enumerate(frozen) if each is line)
    corner = "╷" if index == 0 else "╵" if index == len(frozen) - 1 else "│"
    return Text(f"{corner} frozen" if index == len(frozen) // 2 else corner, "cyan")


def _labelled(label: str, text: Text) -> Text:
    return Text.assemble(("\n" if label == "held" else "") + f"{label}  ", text, style="")


def _held_text(flows: int, held_bytes: int) -> str:
    kept = f", {byte_text(held_bytes)} kept for them" if held_bytes else ""
    return f"{flows:,} connections{kept}"


def _load_text(ticks: deque[Tick]) -> Text:
    """How the load does: what is wrong is red, what is right is quiet."""
    first, last = ticks[0], ticks[-1]
    rate = (last.requests - first.requests) / (last.at - first.at) if last.at > first.at else 0.0
    parts = [
        Text(f"{last.open:,} open"),
        Text(f"{last.lost:,} lost", "bold red") if last.lost else None,
        Text(f"{rate:,.0f} replies/s"),
        Text(f"{last.wrong:,} wrong", "bold red" if last.wrong else "green"),
        Text(f"{last.probes:,} newcomers"),
        Text(f"{last.probes_failed:,} turned away", "bold red") if last.probes_failed else None,
        Text(
            f"silent {duration_text(last.silence_seconds)}", "yellow" if last.silence_seconds > 0.05 else "bright_black"
        ),
    ]
    return Text("  ·  ", "bright_black").join(part for part in parts if part is not None)
