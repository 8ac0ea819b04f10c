"""Where the freeze goes: the medians of every step, by the number of connections. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tests.bench.figures import Figures, Moved, median

Value = Callable[[Moved], float | None]


class Step(msgspec.Struct, frozen=True):
    """One line of the table; `depth` 1 is part of the line above it."""

    name: str
    of: Value
    depth: int = 0


def _phase(name: str) -> Value:
    return lambda move: move.phases.get(name)


def _agent(name: str) -> Value:
    return lambda move: move.agents.get(name)


def _call(name: str) -> Value:
    return lambda move: move.calls.get(name)


def _dump_work(move: Moved) -> float | None:
    parts = [move.criu_dump[name] for name in ("freezing", "frozen") if name in move.criu_dump]
    return sum(parts) if parts else None


STEPS = (
    Step("**freeze**, stop to resume", lambda move: move.freeze_seconds),
    Step("Stopping", _phase("Stopping")),
    Step("source's agent: stop", _agent("stop"), 1),
    Step("Checkpointing", _phase("Checkpointing")),
    Step("source's agent: dump", _agent("dump"), 1),
    Step("CRIU's own account of it", _dump_work, 2),
    Step("Adopting", _phase("Adopting")),
    Step("source's agent: adopt what is left after the dump", _agent("adopt"), 1),
    Step("Transferring", _phase("Transferring")),
    Step("source's agent: seal", _agent("seal"), 1),
    Step("destination's proxy: build the legs", _call("BUILD_LEGS"), 1),
    Step("Restoring", _phase("Restoring")),
    Step("destination's agent: restore", _agent("restore"), 1),
    Step("of that until CRIU was done", _agent("criu"), 2),
    Step("destination's proxy: join the pairs", _call("JOIN_PAIRS"), 1),
    Step("Committing", _phase("Committing")),
    Step("source's agent: commit", _agent("commit"), 1),
    Step("Repointing", _phase("Repointing")),
    Step("destination's agent: resume", _call("RESUME"), 1),
    Step("destination's proxy: resume", _call("RESUME_LEGS"), 1),
    Step("source's proxy: repoint", _call("REPOINT"), 1),
    Step("**hold**, stop to repointed", lambda move: move.hold_seconds),
)


class Line(msgspec.Struct, frozen=True):
    name: str
    depth: int
    seconds: list[float | None]
    """One for each number of connections."""
    each: float | None
    """Seconds for one more connection, between the fewest and the most; None where there is nothing to divide."""


def table(figures: Figures, numbers: Sequence[int]) -> list[Line]:
    """The lines for the numbers of connections that were measured."""
    groups = [figures.moved("demo", "freeze", "scale", connections=number) for number in numbers]
    flows = [median(move.flows for move in group) for group in groups]
    made = []
    for step in STEPS:
        values = [_median(step.of, group) for group in groups]
        made.append(Line(step.name, step.depth, values, _slope(flows, values)))
    return made


def measured(figures: Figures) -> list[int]:
    """The numbers of connections that moves were measured with, the fewest first."""
    return sorted({move.connections for move in figures.moved("demo", "freeze", "scale")})


def flows(figures: Figures, number: int) -> float | None:
    """How many flows were adopted: the load's other connections and some probes come on top of the number."""
    return median(move.flows for move in figures.moved("demo", "freeze", "scale", connections=number))


def _median(of: Value, group: Sequence[Moved]) -> float | None:
    return median(value for move in group if (value := of(move)) is not None)


def _slope(flows: Sequence[float | None], values: Sequence[float | None]) -> float | None:
    if len(flows) < 2:
        return None
    few, many, least, most = flows[0], flows[-1], values[0], values[-1]
    if few is None or many is None or least is None or most is None or many <= few:
        return None
    return (most - least) / (many - few)
