"""The bench's command line."""

from __future__ import annotations

import argparse

import pytest

from tests.bench.__main__ import options
from tests.bench.figures import SECTIONS


def test_only_some_sections_in_the_usual_order():
    assert options(["--only", "freeze,demo"]).only == ["demo", "freeze"]
    assert options([]).only == list(SECTIONS)
    assert not options([]).quick


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        options(["--only", "demo,lunch"])
    assert "no such section: lunch" in capsys.readouterr().err
