"""Figures of benches that nobody has run: what the tests of the bench's arithmetic and of its report begin with."""

from __future__ import annotations

from tests.bench import targets
from tests.bench.figures import (
    FULL,
    PLAIN,
    SECTIONS,
    TWIN,
    WITH_SIDECARS,
    Bare,
    Figures,
    Machine,
    Moved,
    Quiet,
    Round,
    Steady,
)

MACHINE = Machine(
    kernel="6.1",
    cores=2,
    processor="A | B",
    memory_bytes=4 << 30,
    criu="4.2.1",
    python="3.11.2",
    revision="abc1234",
    measured="2025-01-01 00:00 UTC",
    load_before=(0.5, 0.25, 0.0),
    stolen=0.015,
    wakeups=[0.0001, 0.0002],
)


def moved(section="demo", connections=64, *, freeze=0.1, stalls=(0.1, 0.2), place="", **more) -> Moved:
    values = {
        "outcome": "rolled-back" if place else "succeeded",
        "hold_seconds": freeze + 0.01,
        "flows": connections,
        "phases": {"Stopping": 0.004, "Checkpointing": freeze / 2},
        "agents": {"criu": 0.02, "dump": freeze / 2},
        "calls": {"REPOINT": 0.001},
        "criu_dump": {"freezing": 0.001, "frozen": 0.02},
        "connects": [0.001, 0.002],
        "replies": 1000,
        "newcomers": 10,
    } | more
    return Moved(
        section=section, connections=connections, freeze_seconds=freeze, stalls=list(stalls), place=place, **values
    )


def alone(connections=64, section="freeze", dump=0.03, restore=0.02) -> Bare:
    return Bare(section, connections, dump, restore, {"freezing": 0.001, "frozen": 0.01}, {"restore": 0.012})


def one_round(sidecars: float, plain_rate: float, twin: float) -> Round:
    return Round({WITH_SIDECARS: {"GET": sidecars}, PLAIN: {"GET": plain_rate}, TWIN: {"GET": twin}})


def figures(**more) -> Figures:
    return Figures(plan=FULL, sections=list(SECTIONS), machine=MACHINE, **more)


def everything() -> Figures:
    return figures(
        moves=[
            moved(),
            moved(freeze=0.12),
            moved("freeze", freeze=0.06),
            moved("scale", 1, freeze=0.05),
            moved("scale", 1000, freeze=0.15),
            moved("rollback", place="Restoring", freeze=0.08, stalls=(0.09,)),
            moved("rollback", place="Preflight", freeze=0.0, stalls=(0.001,)),
        ],
        bares=[alone(), alone(1, "scale"), alone(1000, "scale", 0.1, 0.08)],
        quiets=[Quiet(64, [0.002, 0.004], [0.0005]), Quiet(1000, [0.01], [])],
        starts=[0.01],
        steady=Steady([one_round(99, 100, 101), one_round(101, 100, 98), one_round(100, 100, 100)], 0.0004),
    )


def row(found: Figures, what: str) -> targets.Row:
    (one,) = [row for row in targets.rows(found) if row.what == what]
    return one
