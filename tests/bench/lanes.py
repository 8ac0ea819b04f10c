"""The relay's part of the report: its claims, and its tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.bench.figures import Figures, Spread
from tests.bench.lane_figures import DIRECT, LANES, MIDSTREAM, MIDSTREAM_TLS, RIVAL, RIVAL_TLS, Idle, Lane, Relay
from tests.bench.rows import Row

P99, REQUESTS, BULK = 1.0, 1.0, 1.3
"""What is aimed at, as a share of HAProxy's."""

Of = Callable[[Lane], float]
Line = tuple[str, Of, Callable[[float], str]]
Cells = Sequence[str]

LINES: tuple[Line, ...] = (
    ("round trip of 64 bytes, p50", lambda lane: lane.p50, lambda value: f"{value * 1e6:.1f} us"),
    ("round trip of 64 bytes, p99", lambda lane: lane.p99, lambda value: f"{value * 1e6:.1f} us"),
    ("requests/s, 64 connections", lambda lane: lane.requests, lambda value: f"{value:,.0f}"),
    ("bulk", lambda lane: lane.bits, lambda value: f"{value / 1e9:.1f} Gbit/s"),
    ("processor time of both proxies, a request", lambda lane: lane.request_cpu, lambda value: f"{value * 1e6:.1f} us"),
    ("and a GiB", lambda lane: lane.gib_cpu, lambda value: f"{value:.2f} s"),
)

WHY = """\
Where it falls short of HAProxy's: a request is two messages for either proxy, and each message one receive and one
send, with ours as with HAProxy in cleartext. With TLS that is so with ours alone: left to itself OpenSSL receives a
record in two and gives each to TCP by itself; ours is handed up to 64 KiB, and as much is sent of it. So what a request
takes more of the processor is the interpreter's way from one call to the other: frames, offsets and what is kept until
it is acknowledged, so that a link that breaks can be made again. A wake-up of ours costs one call more too (its sockets
are in an epoll set of their own, inside the event loop's): with many connections many messages share it, but a round
trip on one connection has it whole, four times. In bulk HAProxy can splice where its links are cleartext: the bytes
stay in the kernel, while ours are copied into each proxy, kept, and copied out again. With TLS both have to."""

IDLE = """\
Memory is what stays resident in the two proxies together, per connection; the kernel's buffers are the same for both.
Both check certificates at both ends. Of ours OpenSSL keeps some 41 kB for a TLS link's two ends; the rest is objects.
A relayed connection has two descriptors in each proxy, or one where others need it more: `ulimit -n` is 20,000 here."""


def ratio(relay: Relay, of: Of, lane: str = MIDSTREAM, to: str = RIVAL) -> Spread | None:
    """Round by round: what one lane has of another's."""
    pairs = [(of(one[lane]), of(one[to])) for one in relay.rounds if lane in one and to in one]
    return Spread.of(ours / theirs for ours, theirs in pairs if theirs)


def claims(figures: Figures) -> list[Row]:
    """The rows that something was measured for; like is compared with like."""
    relay = figures.relay
    if relay is None or not relay.rounds:
        return []
    pairs = [(MIDSTREAM_TLS, RIVAL_TLS, "relayed"), (MIDSTREAM, RIVAL, "relayed, cleartext links")]
    return [
        _claim(relay, pair, line, target, met)
        for pair in pairs
        for line, target, met in (
            (LINES[1], f"<= {P99}", lambda share: share <= P99),
            (LINES[2], f">= {REQUESTS}", lambda share: share >= REQUESTS),
            (LINES[3], f">= {BULK}", lambda share: share >= BULK),
        )
    ]


def _claim(relay: Relay, pair: tuple[str, str, str], line: Line, target: str, met: Callable[[float], bool]) -> Row:
    (lane, rival, title), (name, of, text) = pair, line
    share = ratio(relay, of, lane, rival)
    assert share is not None
    floor = f"{_median(relay, DIRECT, of, text)} direct, {_median(relay, rival, of, text)} {rival}"
    measured = f"{_share(share)} of HAProxy's"
    how = f"{share.count} rounds, in turn: the share of each round, median (least to most)"
    return Row(f"{title}: {name}", measured, target, met(share.median), floor, how)


def _median(relay: Relay, lane: str, of: Of, text: Callable[[float], str]) -> str:
    spread = Spread.of(of(one[lane]) for one in relay.rounds if lane in one)
    return text(spread.median) if spread else "-"


def table(figures: Figures) -> tuple[Cells, list[Cells]] | None:
    """Heads and lines: medians, and Midstream's share of HAProxy's."""
    relay = figures.relay
    if relay is None or not relay.rounds:
        return None
    lanes = [lane for lane in LANES if lane in relay.rounds[0]]
    shares = [pair for pair in ((MIDSTREAM, RIVAL), (MIDSTREAM_TLS, RIVAL_TLS)) if set(pair) <= set(lanes)]
    lines = [
        (
            name,
            *(_median(relay, lane, of, text) for lane in lanes),
            *(_share(ratio(relay, of, *pair)) for pair in shares),
        )
        for name, of, text in LINES
    ]
    return ("medians", *lanes, *(f"{ours} / {theirs}" for ours, theirs in shares)), lines


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
