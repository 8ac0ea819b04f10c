"""Options and the command line that carries them."""

from __future__ import annotations

import pytest

from controller.demo.options import Options, command_line, parse


def test_defaults() -> None:
    assert parse(["--host", "10.0.0.1", "--port", "6379"]) == Options(host="10.0.0.1", port=6379)


def test_a_command_line_says_the_same_again() -> None:
    options = Options(host="fd00::1", port=1, connections=3, pace_seconds=0.25, bulk=0, bulk_bytes_per_second=1e6)
    assert parse(command_line(options)) == options


@pytest.mark.parametrize("argv", [[], ["--host", "a"], ["--host", "a", "--port", "x"]])
def test_what_is_missing_or_no_number_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(argv)
    assert "usage:" in capsys.readouterr().err


def test_bulk_is_paced_by_its_rate() -> None:
    options = Options(host="a", port=1, bulk=2, bulk_bytes_per_second=20e6, bulk_value_bytes=200_000)
    assert options.bulk_seconds == pytest.approx(0.02)


def test_many_connections_have_fewer_turns_each() -> None:
    assert Options(host="a", port=1, connections=10).turn_seconds == 0.01
    assert Options(host="a", port=1, connections=6400).turn_seconds == 1.0


def test_many_connections_are_asked_less_often():
    assert Options(host="a", port=1, connections=64).telling_seconds == 0.1
    assert Options(host="a", port=1, connections=5000).telling_seconds == 1.0
