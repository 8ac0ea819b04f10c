from __future__ import annotations

from proxy.io.context import count


def test_counting() -> None:
    counters: dict[str, int] = {}
    for key in ("a", "b", "a"):
        count(counters, key)
    assert counters == {"a": 2, "b": 1}
