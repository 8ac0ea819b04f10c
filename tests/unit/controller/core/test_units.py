"""Durations and sizes as people write them."""

import pytest

from controller.core.units import byte_text, duration_text, parse_bytes, parse_rate, parse_seconds


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


def test_a_rate_that_nobody_means_is_asked_about():
    assert parse_rate("4KiB") == 4096
    with pytest.raises(ValueError, match="'100' is 100 B a second, not even a page of memory: is a unit missing"):
        parse_rate("100")


def test_what_is_no_size_is_said_in_words():
    with pytest.raises(ValueError, match="'64 stones' is not a size like 64MiB"):
        parse_bytes("64 stones")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0.0 ms"), (0.00042, "0.4 ms"), (0.0123, "12 ms"), (0.999, "999 ms"), (1.234, "1.23 s")),
        *((119.0, "119.00 s"), (1024.0, "17.1 min"), (4 * 3600.0, "4 h"), (270_000.0, "3.12 days")),
        (1e9, "11,574 days"),
    ],
)
def test_durations_are_told(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3,072.0 GiB")],
)
def test_sizes_are_told(count, text):
    assert byte_text(count) == text
