"""Options that are durations or sizes."""

from __future__ import annotations

import click
import pytest

from controller.cli.options import DURATION, HOLD, SIZE


def test_they_are_read_as_people_write_them():
    assert DURATION.convert("7d", None, None) == 7 * 86400
    assert SIZE.convert("64MiB", None, None) == 64 << 20
    assert SIZE.convert(5, None, None) == 5


@pytest.mark.parametrize(("kind", "text"), [(HOLD, "25h"), (DURATION, "99999999d"), (SIZE, "9999999TiB")])
def test_what_is_more_than_anybody_means_is_a_usage_error(kind, text):
    with pytest.raises(click.BadParameter, match=f"'{text}' is more than"):
        kind.convert(text, None, None)


def test_anything_else_is_a_usage_error():
    with pytest.raises(click.BadParameter):
        DURATION.convert("soon", None, None)
