"""The relay beside HAProxy."""

from __future__ import annotations

from tests.bench import lanes
from tests.bench.figures import Figures
from tests.bench.lane_figures import DIRECT, MIDSTREAM, MIDSTREAM_TLS, RIVAL, RIVAL_TLS, Idle, Lane, Relay
from tests.bench.report import render
from tests.harness.measured import figures, row


def lane(p99=80e-6, requests=40_000.0, bits=10e9) -> Lane:
    return Lane(p50=p99 / 2, p99=p99, requests=requests, bits=bits, request_cpu=20e-6, gib_cpu=0.5)


def relayed(*ours: Lane) -> Figures:
    straight = Lane(1e-5, 2e-5, 1e5, 4e10, 0.0, 0.0)
    tls = {RIVAL_TLS: lane(bits=4e9), MIDSTREAM_TLS: lane(bits=6e9)}
    rounds = [{DIRECT: straight, RIVAL: lane(), MIDSTREAM: one, **tls} for one in ours]
    idle = [Idle(MIDSTREAM, 1000, [30_000_000, 30_000_000], [34_000_000, 33_000_000])]
    return figures(relay=Relay(rounds, idle))


def test_the_relay_is_judged_by_its_median_share_of_haproxys():
    found = relayed(lane(p99=88e-6, requests=44_000, bits=5e9), lane(), lane(p99=96e-6, requests=48_000, bits=20e9))
    p99 = row(found, "relayed, cleartext links: round trip of 64 bytes, p99")
    assert (p99.measured, p99.met) == ("1.10 (1.00 to 1.20) of HAProxy's", False)
    assert p99.floor == "20.0 us direct, 80.0 us HAProxy"
    assert row(found, "relayed, cleartext links: requests/s, 64 connections").met is True
    assert row(found, "relayed, cleartext links: bulk").met is False


def test_with_tls_it_is_compared_with_a_haproxy_that_has_tls():
    bulk = row(relayed(lane()), "relayed: bulk")
    assert (bulk.measured, bulk.met) == ("1.50 (1.50 to 1.50) of HAProxy's", True)
    assert bulk.floor == "40.0 Gbit/s direct, 4.0 Gbit/s HAProxy, TLS"


def test_what_took_no_time_has_no_share():
    assert lanes.ratio(relayed(lane()).relay, lambda one: one.request_cpu, MIDSTREAM, DIRECT) is None


def test_the_report_has_every_lane_and_what_an_idle_connection_costs():
    text = render(relayed(lane()))
    heads = "| medians | direct | HAProxy | Midstream | HAProxy, TLS | Midstream, TLS |"
    assert f"{heads} Midstream / HAProxy | Midstream, TLS / HAProxy, TLS |" in text
    bulk = "| bulk | 40.0 Gbit/s | 10.0 Gbit/s | 10.0 Gbit/s | 4.0 Gbit/s | 6.0 Gbit/s |"
    assert f"{bulk} 1.00 (1.00 to 1.00) | 1.50 (1.50 to 1.50) |" in text
    assert "| 1,000 | Midstream | 30.0 MB + 30.0 MB | 34.0 MB + 33.0 MB | 7,000 bytes |" in text


def test_without_a_relay_nothing_is_said_of_it():
    assert "Relayed after the move" not in render(figures(relay=Relay([], [])))
