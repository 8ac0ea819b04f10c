"""What the bench measures: plain values, a struct for each kind of run. No I/O, no clock; all times are seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec

from tests.bench import image_figures
from tests.bench.image_figures import ImagePlan, Store, Transfer
from tests.bench.lane_figures import Relay, RelayPlan
from tests.bench.memory_figures import Memory, MemoryPlan


class Plan(msgspec.Struct, frozen=True):
    """How often each thing is done."""

    name: str
    demo_runs: int
    freeze_pairs: int
    one_pairs: int
    thousand_pairs: int
    crowds: dict[int, int]
    """Pairs by number of connections, for the largest numbers."""
    steady_rounds: int
    steady_requests: int
    """Of each test of one redis-benchmark: many short rounds tell more on a noisy machine than few long ones."""
    rollback_rounds: int
    relay: RelayPlan
    memory: MemoryPlan
    images: ImagePlan


# 9,000 idle ones: HAProxy takes two descriptors for each, and `ulimit -n` is 20,000 on small machines.
FULL = Plan("full", 20, 12, 5, 5, {3000: 3, 10_000: 3}, 40, 12_000, 2, RelayPlan(12, idle=(1000, 3000, 9000)),
            MemoryPlan((1 << 30, 4 << 30), 1 << 30), ImagePlan(4 << 30, 3, 512 << 20, 1000))  # fmt: skip
QUICK = Plan("quick", 5, 3, 1, 2, {}, 8, 12_000, 1, RelayPlan(4, idle=(1000,)),
             MemoryPlan((1 << 28,), 1 << 28), ImagePlan(256 << 20, 1, 64 << 20, 100))  # fmt: skip

SECTIONS = ("demo", "freeze", "scale", "steady", "rollback", "relay", "memory", "transfer", "store")


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    kernel: str
    cores: int
    processor: str
    memory_bytes: int
    criu: str
    python: str
    revision: str
    measured: str
    """Date and time, UTC."""
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stolen: float = 0.0
    """The share of the processors' time that the hypervisor gave to others during the run."""
    others: dict[str, float] = {}
    """By section: the share of the processors' time that processes used which are not the bench's."""
    wakeups: list[float] = []
    """How late a process that sleeps a millisecond woke up, before the first run."""


class Losses(msgspec.Struct, frozen=True):
    """What must not be: the first six as the clients counted, the rest by the two proxies' ledger."""

    connections: int = 0
    newcomers: int = 0
    resets: int = 0
    wrong: int = 0
    missing: int = 0
    bytes: int = 0
    ledger_flows: int = 0
    """Flows lost, or whose account does not balance."""
    ledger_bytes: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    @property
    def none(self) -> bool:
        return self == Losses()

    @property
    def seen(self) -> bool:
        """Whether a client lost anything."""
        return bool(self.connections or self.newcomers or self.missing or self.bytes)


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """One migration under load."""

    section: str
    connections: int
    """The load's own connections; its probes come on top."""
    outcome: str
    place: str = ""
    """Where it was made to fail, "" for nowhere."""
    freeze_seconds: float
    hold_seconds: float
    flows: int
    phases: dict[str, float]
    agents: dict[str, float] = {}
    """The agents' own account of their steps."""
    calls: dict[str, float] = {}
    """Each of the driver's calls, from asked to answered, by the action's name."""
    criu_dump: dict[str, float] = {}
    stalls: list[float] = []
    """Each connection's longest silence around the move."""
    connects: list[float] = []
    """How long connect() took, begun during the freeze."""
    replies: int = 0
    newcomers: int = 0
    losses: Losses = Losses()
    reasons: list[str] = []
    """Why it proves a loss, or proves nothing; empty when all is well."""

    @property
    def title(self) -> str:
        return f"{self.section}, {self.place or f'{self.connections:,} connections'}"

    @property
    def criu_seconds(self) -> float | None:
        """CRIU's part of the freeze: its own account of the dump, and the restore as the destination's agent saw it."""
        if "frozen" not in self.criu_dump or "criu" not in self.agents:
            return None
        return self.criu_dump.get("freezing", 0.0) + self.criu_dump["frozen"] + self.agents["criu"]


class Quiet(msgspec.Struct, frozen=True):
    """The same load with no move: the floor of its stalls and its connects."""

    connections: int
    stalls: list[float]
    """Each connection's longest silence in as long a run."""
    connects: list[float]


class Bare(msgspec.Struct, frozen=True):
    """CRIU alone, by hand: one dump and one restore of the same Redis under the same load."""

    section: str
    connections: int
    dump_seconds: float
    """The whole command, its start included."""
    restore_seconds: float
    dump_work: dict[str, float]
    """CRIU's own statistics (stats-dump, stats-restore)."""
    restore_work: dict[str, float]

    @property
    def seconds(self) -> float:
        return self.dump_seconds + self.restore_seconds

    @property
    def work_seconds(self) -> float:
        """What CRIU says it spent on the tree: no process start, no reading of its own caches."""
        dump, restore = self.dump_work, self.restore_work
        parts = dump.get("freezing", 0), dump.get("frozen", 0), restore.get("forking", 0), restore.get("restore", 0)
        return float(sum(parts))


WITH_SIDECARS, PLAIN, TWIN = "with sidecars", "without", "without, another"


class Round(msgspec.Struct, frozen=True):
    """One redis-benchmark against each of the three pods, in this order: requests a second by test."""

    rates: dict[str, dict[str, float]]


class Steady(msgspec.Struct, frozen=True):
    rounds: list[Round]
    sidecars_cpu: float
    """Processor seconds a second that the pod's two sidecars used meanwhile."""


class Failure(msgspec.Struct, frozen=True):
    """A run that did not come to its end."""

    section: str
    message: str


class Figures(msgspec.Struct, kw_only=True):
    """Everything that was measured."""

    plan: Plan
    sections: list[str]
    machine: Machine
    moves: list[Moved] = []
    bares: list[Bare] = []
    quiets: list[Quiet] = []
    starts: list[float] = []
    """How long `criu --version` in a pod took, started as the bare CRIU is: a process start and nothing else."""
    steady: Steady | None = None
    relay: Relay | None = None
    memory: Memory | None = None
    transfer: Transfer | None = None
    store: Store | None = None
    failures: list[Failure] = []
    seconds: float = 0.0
    """How long the bench took."""

    def moved(self, *sections: str, connections: int | None = None) -> list[Moved]:
        """The migrations of these sections that went through: one that was taken back tells nothing of the others."""
        chosen = [move for move in self.moves if move.section in sections and move.outcome == "succeeded"]
        return [move for move in chosen if connections in (None, move.connections)]

    def bare(self, connections: int) -> list[Bare]:
        return [one for one in self.bares if one.connections == connections]

    def quiet(self, connections: int) -> list[float]:
        """The longest silences of that many connections with no move."""
        return [stall for one in self.quiets if one.connections == connections for stall in one.stalls]

    @property
    def losses(self) -> Losses:
        return sum((move.losses for move in self.moves), Losses())

    @property
    def bad(self) -> list[str]:
        """Why the exit status is not 0; empty when nothing was lost, wrong or reset, and nothing failed."""
        found = [f"{move.title}: {'; '.join(move.reasons)}" for move in self.moves if move.reasons]
        if self.memory is not None:
            found += [f"{one.title}: {'; '.join(one.reasons)}" for one in self.memory.moves if one.reasons]
        found += image_figures.bad(self.store)
        return found + [f"{failure.section}: {failure.message}" for failure in self.failures]


class Spread(msgspec.Struct, frozen=True):
    """How a measurement spreads over runs."""

    count: int
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of nothing."""
        found = sorted(values)
        return cls(len(found), statistics.median(found), found[0], found[-1]) if found else None


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile. Raises ValueError on no values."""
    if not values:
        raise ValueError("no percentile of nothing")
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


class Comparison(msgspec.Struct, frozen=True):
    """Ratios of paired runs, and what two equal things differ by on the same machine in the same minutes."""

    ratio: Spread
    same: Spread
    """The A/A comparison: another pod of the same kind."""
    noise: float
    """A ratio nearer to 1 than this cannot be told from 1."""

    @property
    def within_noise(self) -> bool:
        return abs(self.ratio.median - 1) <= self.noise


def compare(rounds: Sequence[Round], test: str) -> Comparison | None:
    """With sidecars against without, judged by without against without. None of nothing.

    The noise is what the two equal pods' median differs from 1 by, plus two standard errors of a median of so many
    rounds (1.25 standard deviations over the root of their number).
    """
    ratios = [one.rates[WITH_SIDECARS][test] / one.rates[PLAIN][test] for one in rounds]
    same = [one.rates[TWIN][test] / one.rates[PLAIN][test] for one in rounds]
    of, equal = Spread.of(ratios), Spread.of(same)
    if of is None or equal is None:
        return None
    deviation = statistics.stdev(same) if len(same) > 1 else math.inf
    return Comparison(of, equal, abs(equal.median - 1) + 2 * 1.25 * deviation / math.sqrt(len(same)))
