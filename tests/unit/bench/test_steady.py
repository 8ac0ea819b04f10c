"""Sidecars at rest: what redis-benchmark says."""

from __future__ import annotations

from tests.bench.steady import parse_csv


def test_redis_benchmarks_table_is_read():
    text = '"test","rps","avg_latency_ms"\n"SET","61000.50","0.4"\n"GET","64000.00","0.4"\n'
    assert parse_csv(text) == {"SET": 61000.5, "GET": 64000.0}
