"""Options that are durations or sizes."""

from __future__ import annotations

import click
import pytest

from controller.cli.options import DURATION, SIZE


def test_they_are_read_as_people_write_them():
    assert DURATION.convert("7d", None, None) == 7 * 86400
    assert SIZE.convert("64MiB", None, None) == 64 << 20
    assert SIZE.convert(5, None, None) == 5


def test_anything_else_is_a_usage_error():
    with pytest.raises(click.BadParameter):
        DURATION.convert("soon", None, None)
