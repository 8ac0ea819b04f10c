"""The rates of a home: probed once, kept, and learnt from."""

from __future__ import annotations

from controller import rates
from controller.core.predict import Rates, Sample, Size

SAMPLE = Sample("post-copy", Size(1 << 30), 0.2, 4.0)


def test_a_fresh_home_is_probed(tmp_path):
    found = rates.load(tmp_path)
    assert found.samples == []
    assert found.copy_bytes_per_second > 1e6


def test_what_is_learnt_is_there_the_next_time(tmp_path):
    rates.learn(tmp_path, Rates(1e9), SAMPLE)
    assert rates.load(tmp_path) == Rates(1e9, [SAMPLE])
    assert [path.name for path in tmp_path.iterdir()] == [rates.NAME]


def test_a_damaged_record_is_as_none(tmp_path):
    (tmp_path / rates.NAME).write_text("{")
    assert rates.load(tmp_path).samples == []


def test_a_home_that_is_gone_learns_nothing(tmp_path):
    rates.learn(tmp_path / "gone", Rates(1e9), SAMPLE)
