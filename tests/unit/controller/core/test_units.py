"""Durations and sizes as people write them."""

import pytest

from controller.core.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("250ms", 0.25), ("2m", 120), ("1.5", 1.5), (" 1 h ", 3600)]
)
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "count"), [("64MiB", 64 << 20), ("1GB", 10**9), ("4096", 4096), ("1.5kib", 1536)])
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "ten", "10 parsecs", "-1s", "0s", "1e3"])
def test_what_is_no_duration_is_said_in_words(text):
    with pytest.raises(ValueError, match="is not a duration like 10s"):
        parse_seconds(text)


def test_what_is_no_size_is_said_in_words():
    with pytest.raises(ValueError, match="'64 stones' is not a size like 64MiB"):
        parse_bytes("64 stones")
