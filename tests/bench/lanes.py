"""The relay's part of the report: its claims, and its tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.bench.figures import Figures, Spread
from tests.bench.lane_figures import DIRECT, LANES, MIDSTREAM, RIVAL, Idle, Lane, Relay
from tests.bench.rows import Row

P99, REQUESTS, BULK = 1.0, 1.0, 1.3
"""What is aimed at, as a share of HAProxy's."""

Of = Callable[[Lane], float]
Cells = Sequence[str]

LINES: tuple[tuple[str, Of, Callable[[float], str]], ...] = (
    ("round trip of 64 bytes, p50", lambda lane: lane.p50, lambda value: f"{value * 1e6:.1f} us"),
    ("round trip of 64 bytes, p99", lambda lane: lane.p99, lambda value: f"{value * 1e6:.1f} us"),
    ("requests/s, 64 connections", lambda lane: lane.requests, lambda value: f"{value:,.0f}"),
    ("bulk", lambda lane: lane.bits, lambda value: f"{value / 1e9:.1f} Gbit/s"),
    ("processor time of both proxies, a request", lambda lane: lane.request_cpu, lambda value: f"{value * 1e6:.1f} us"),
    ("and a GiB", lambda lane: lane.gib_cpu, lambda value: f"{value:.2f} s"),
)

WHY = """\
Where it falls short of HAProxy's: a round trip costs each of our proxies two system calls more (its sockets are in an
epoll set of their own, inside the event loop's) and the interpreter's way from one to the other, some microseconds
each way, which p50 and p99 alike have on top; with 64 connections many events share them. In bulk, HAProxy splices:
the bytes stay in the kernel, while ours are copied into the proxy and out again, in each of the two."""

IDLE = """\
Memory is what stays resident in the two proxies together, per connection; the kernel's buffers are the same for both.
A relayed connection has two descriptors in each proxy, so `ulimit -n` (20,000 here) bounds one proxy to some 9,900."""


def ratio(relay: Relay, of: Of, lane: str = MIDSTREAM, to: str = RIVAL) -> Spread | None:
    """Round by round: what one lane has of another's."""
    pairs = [(of(one[lane]), of(one[to])) for one in relay.rounds if lane in one and to in one]
    return Spread.of(ours / theirs for ours, theirs in pairs if theirs)


def claims(figures: Figures) -> list[Row]:
    """The rows that something was measured for."""
    if figures.relay is None or not figures.relay.rounds:
        return []
    (_, _, _), p99, requests, bulk, *_ = LINES
    count = len(figures.relay.rounds)
    how = f"{count} rounds, in turn: the share of each round, median (least to most)"
    return [
        _claim(figures.relay, p99, f"<= {P99}", lambda share: share <= P99, how),
        _claim(figures.relay, requests, f">= {REQUESTS}", lambda share: share >= REQUESTS, how),
        _claim(figures.relay, bulk, f">= {BULK}", lambda share: share >= BULK, how),
    ]


def _claim(relay: Relay, line: tuple[str, Of, Callable[[float], str]], target: str, met: Callable[[float], bool],
           how: str) -> Row:  # fmt: skip
    name, of, text = line
    share = ratio(relay, of)
    assert share is not None
    floor = f"{_median(relay, DIRECT, of, text)} direct, {_median(relay, RIVAL, of, text)} HAProxy"
    measured = f"{share.median:.2f} ({share.least:.2f} to {share.most:.2f}) of HAProxy's"
    return Row(f"relayed: {name}", measured, target, met(share.median), floor, how)


def _median(relay: Relay, lane: str, of: Of, text: Callable[[float], str]) -> str:
    spread = Spread.of(of(one[lane]) for one in relay.rounds if lane in one)
    return text(spread.median) if spread else "-"


def table(figures: Figures) -> tuple[Cells, list[Cells]] | None:
    """Heads and lines: medians, and Midstream's share of HAProxy's."""
    relay = figures.relay
    if relay is None or not relay.rounds:
        return None
    lanes = [lane for lane in LANES if lane in relay.rounds[0]]
    lines = [
        (name, *(_median(relay, lane, of, text) for lane in lanes), _share(ratio(relay, of)))
        for name, of, text in LINES
    ]
    return ("medians", *lanes, f"{MIDSTREAM} / {RIVAL}"), lines


def _share(share: Spread | None) -> str:
    return f"{share.median:.2f} ({share.least:.2f} to {share.most:.2f})" if share and share.median else ""


def idle(figures: Figures) -> tuple[Cells, list[Cells]] | None:
    if figures.relay is None or not figures.relay.idle:
        return None
    heads = ("idle connections", "lane", "the two proxies before", "and after", "a connection")
    return heads, [_idle(one) for one in figures.relay.idle]


def _idle(one: Idle) -> Cells:
    before, after = (" + ".join(f"{size / 1e6:.1f} MB" for size in sizes) for sizes in (one.before, one.after))
    return f"{one.flows:,}", one.lane, before, after, f"{one.each:,.0f} bytes"
