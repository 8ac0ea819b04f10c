"""The report has what was measured, and says what went wrong."""

from __future__ import annotations

import msgspec

from tests.bench import targets
from tests.bench.figures import FULL, QUICK, Figures, Losses
from tests.bench.report import plain, render
from tests.harness.measured import MACHINE, alone, everything, figures, moved


def test_the_report_has_every_section_and_sound_tables():
    text = render(everything())
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## The machine",
        "## The claims",
        "## The demo, phase by phase",
        "## The freeze and CRIU alone",
        "## Where the freeze goes",
        "## Sidecars at rest",
        "## Taken back",
        "## How it is measured",
    ]
    for table in tables(text):
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table
    assert "What went wrong" not in text
    assert "| Preflight | 1 | 1 ms | no | 0 | 0 |" in text
    assert "| 64 | 60 ms | 41 ms | 50 ms | 30 ms | 20 ms | 23 ms | 1.20 |" in text


def tables(text: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_a_part_of_the_bench_has_only_its_part_of_the_report():
    text = render(Figures(plan=QUICK, sections=["demo"], machine=msgspec.structs.replace(MACHINE, wakeups=[])))
    assert "This is a quick run" in text
    assert "## Where the freeze goes" not in text
    assert "## Sidecars at rest" not in text
    assert "## The claims" in text


def test_half_a_pair_is_left_out():
    text = render(figures(bares=[alone()]))
    assert "## The freeze and CRIU alone" not in text


def test_the_report_says_what_went_wrong():
    text = render(figures(moves=[moved(losses=Losses(resets=1), reasons=["1 connections reset"])]))
    assert "- demo, 64 connections: 1 connections reset" in text
    assert "| resets | 1 | 0 | **not met** |" in text


def test_a_busy_machine_is_told_of():
    quiet = msgspec.structs.replace(MACHINE, others={"demo": 0.02, "freeze": 0.1})
    assert "busy" not in render(Figures(plan=FULL, sections=["demo"], machine=quiet))
    busy = msgspec.structs.replace(MACHINE, others={"demo": 0.02, "freeze": 0.3})
    text = render(Figures(plan=FULL, sections=["demo"], machine=busy))
    assert "**The machine was busy with something else during freeze: those times are too high.**" in text
    assert "| used by other processes meanwhile | demo 2%, freeze 30% |" in text


def test_the_claims_fit_a_terminal():
    text = plain(everything())
    assert "**" not in text
    assert len(text.splitlines()) == len(targets.rows(everything()))
    assert plain(figures()) == ""


def test_the_same_figures_give_the_same_text():
    assert render(everything()) == render(everything())
