"""What is aimed at, and whether it was met: one row for each claim, computed from the figures. Pure."""

from __future__ import annotations

from tests.bench import image_figures, lanes, memory_figures
from tests.bench.figures import Comparison, Figures, Moved, Spread, compare, percentile
from tests.bench.rows import Row

DEMO, FEW = 64, 1
BASE_SECONDS, EACH_SECONDS = 0.1, 60e-6
"""What a freeze may take, and what each connection may add."""

STALL_MEDIAN, STALL_AIM, STALL_MOST = 0.12, 0.05, 0.25
CONNECT_P99 = 0.005
RATIO_TO_CRIU = 1.5
ROLLBACK_STALL = 0.15
TELLING_NOISE = 0.1
"""With more noise than this, "within the noise" says nothing."""


def ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f} ms" if milliseconds >= 99.95 else f"{milliseconds:.3g} ms"


def ms_spread(spread: Spread | None) -> str:
    """Median, then from the least to the most; of a single value, the value."""
    if spread is None:
        return "-"
    return ms(spread.median) if spread.count == 1 else f"{ms(spread.median)} ({ms(spread.least)} to {ms(spread.most)})"


def rows(figures: Figures) -> list[Row]:
    """The rows that something was measured for, in the order of the claims."""
    made = [
        *_nothing_lost(figures),
        *_demo(figures),
        *_criu(figures, DEMO),
        *_many(figures),
        *_steady(figures),
        *_rollback(figures),
        *lanes.claims(figures),
        *memory_figures.claims(figures.memory),
        *image_figures.claims(figures.transfer, figures.store),
    ]
    return [row for row in made if row is not None]


def _nothing_lost(figures: Figures) -> list[Row]:
    if not figures.moves:
        return []
    losses, moves = figures.losses, figures.moves
    replies, newcomers = sum(move.replies for move in moves), sum(move.newcomers for move in moves)
    ledger = f"{losses.ledger_flows:,} flows, {losses.ledger_bytes:,} bytes"
    lost = f"{losses.connections + losses.newcomers} connections, {losses.missing} replies, {losses.bytes:,} bytes"
    checked = f"{len(moves)} moves, {replies:,} replies compared byte for byte, {newcomers:,} newcomers"
    return [
        Row("lost, as the clients saw it", lost, "0", not losses.seen, "", checked),
        Row("replies wrong", str(losses.wrong), "0", not losses.wrong, "", "as above"),
        Row("resets", str(losses.resets), "0", not losses.resets, "", "as above, the newcomers' too"),
        Row("lost, by the ledger", ledger, "0", not losses.ledger_flows, "", "both proxies' counts, flow by flow"),
        Row("runs that failed", str(len(figures.failures)), "0", not figures.failures, "", "what failed is below"),
    ]


def _demo(figures: Figures) -> list[Row]:
    moves = figures.moved("demo")
    stalls = [stall for move in moves for stall in move.stalls]
    if not stalls:
        return []
    quiet = figures.quiet(DEMO)
    runs = f"{len(moves)} runs of the demo, {DEMO} connections"
    p50 = percentile(stalls, 0.5)
    target = f"<= {ms(STALL_MEDIAN)} (aim {ms(STALL_AIM)})"
    found = [
        Row("stall, p50", ms(p50), target, p50 <= STALL_MEDIAN, _quiet(quiet, 0.5),
            f"{runs}: each connection's longest silence; the floor is that of the same load with no move"),
        Row("stall, longest", ms(max(stalls)), f"<= {ms(STALL_MOST)}", max(stalls) <= STALL_MOST,
            _quiet(quiet, 1.0), f"the longest of {len(stalls):,} silences; {runs}"),
    ]  # fmt: skip
    freeze = ms_spread(Spread.of(move.freeze_seconds for move in moves))
    how = f"{runs}, by the driver's clock"
    return [*found, Row("freeze", freeze, "", None, _bare_floor(figures, DEMO), how), *_connect(figures, moves)]


def _quiet(stalls: list[float], fraction: float) -> str:
    return f"{ms(percentile(stalls, fraction))} with no move" if stalls else ""


def _connect(figures: Figures, moves: list[Moved]) -> list[Row]:
    connects = [seconds for move in moves for seconds in move.connects]
    quiet = [seconds for one in figures.quiets if one.connections == DEMO for seconds in one.connects]
    if not connects:
        return []
    p99 = percentile(connects, 0.99)
    return [
        Row("connect() during the freeze, p99", ms(p99), f"<= {ms(CONNECT_P99)}", p99 <= CONNECT_P99,
            _quiet(quiet, 0.99), f"{len(connects):,} new connections begun in a freeze"),
    ]  # fmt: skip


def _bare_floor(figures: Figures, connections: int) -> str:
    spread = Spread.of(one.seconds for one in figures.bare(connections))
    return f"{ms(spread.median)}, CRIU alone" if spread else ""


def _criu(figures: Figures, connections: int) -> list[Row]:
    """Only moves that alternated with bare runs are compared with them."""
    frozen = Spread.of(move.freeze_seconds for move in figures.moved("freeze", "scale", connections=connections))
    alone = Spread.of(one.seconds for one in figures.bare(connections))
    if frozen is None or alone is None:
        return []
    ratio = frozen.median / alone.median
    work = Spread.of(one.work_seconds for one in figures.bare(connections))
    return [
        Row(f"freeze / CRIU alone, {connections:,} connections", f"{ratio:.2f}", f"<= {RATIO_TO_CRIU}",
            ratio <= RATIO_TO_CRIU if connections == DEMO else None,
            f"{ms_spread(alone)}; its own work {ms(work.median) if work else '-'}",
            f"{frozen.count} moves, {ms_spread(frozen)}, in turn with `criu dump` + `criu restore` by hand: medians"),
    ]  # fmt: skip


def _many(figures: Figures) -> list[Row]:
    numbers = sorted({move.connections for move in figures.moved("scale")} - {FEW})
    return [row for number in numbers for row in _crowd(figures, number)]


def _crowd(figures: Figures, number: int) -> list[Row]:
    moves = figures.moved("scale", connections=number)
    freeze = Spread.of(move.freeze_seconds for move in moves)
    if freeze is None:
        return []
    stalls = [stall for move in moves for stall in move.stalls]
    quiet = figures.quiet(number)
    most = BASE_SECONDS + number * EACH_SECONDS
    lost = "something" if any(not move.losses.none for move in moves) else "nothing"
    return [
        Row(f"freeze, {number:,} connections", ms_spread(freeze), f"<= {ms(most)}", freeze.median <= most,
            _bare_floor(figures, number),
            f"{freeze.count} moves, {lost} lost in them; the median counts"),
        Row(f"stall, {number:,} connections", f"p50 {ms(percentile(stalls, 0.5))}, longest {ms(max(stalls))}", "", None,
            _quiet(quiet, 1.0), f"{len(stalls):,} silences"),
        *_criu(figures, number),
    ]  # fmt: skip


def _steady(figures: Figures) -> list[Row]:
    steady = figures.steady
    if steady is None or not steady.rounds:
        return []
    found = []
    for test in sorted(steady.rounds[0].rates[next(iter(steady.rounds[0].rates))]):
        compared = compare(steady.rounds, test)
        assert compared is not None
        ratio, same = compared.ratio, compared.same
        found.append(
            Row(f"throughput with sidecars / without, {test}",
                f"{ratio.median:.3f} ({ratio.least:.3f} to {ratio.most:.3f})", "1.00 within noise",
                _same(compared),
                f"A/A {same.median:.3f} ({same.least:.3f} to {same.most:.3f}), so noise ±{compared.noise:.3f}"
                + (": too much to tell" if _same(compared) is None else ""),
                f"{ratio.count} rounds of redis-benchmark, order changed each round: medians of the rounds' ratios")
        )  # fmt: skip
    cpu, how = f"{steady.sidecars_cpu * 1e3:.1f} ms a second", "proc_pid_stat(5), during these rounds"
    return [*found, Row("processor time of the two sidecars", cpu, "", None, "", how)]


def _same(compared: Comparison) -> bool | None:
    """Whether the two are the same; None where the noise is too large to say that they are."""
    return None if compared.within_noise and compared.noise > TELLING_NOISE else compared.within_noise


def _rollback(figures: Figures) -> list[Row]:
    moves = [move for move in figures.moves if move.section == "rollback"]
    stalls = [stall for move in moves for stall in move.stalls]
    if not stalls:
        return []
    longest = max(stalls)
    kept = all(move.losses.none for move in moves)
    taken_back = sum(move.outcome == "rolled-back" for move in moves)
    return [
        Row("rollback: lost", "0" if kept else "see below", "0", kept and taken_back == len(moves), "",
            f"{taken_back} of {len(moves)} moves taken back, the destination refusing at each place in turn"),
        Row("rollback: stall, longest", ms(longest), f"<= {ms(ROLLBACK_STALL)}", longest <= ROLLBACK_STALL,
            _quiet(figures.quiet(DEMO), 1.0), f"{len(stalls):,} silences, {DEMO} connections"),
    ]  # fmt: skip
