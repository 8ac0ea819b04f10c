"""The lab's closed set of errors."""

from __future__ import annotations

import pytest

from controller.lab import errors
from controller.lab.errors import LabError

KINDS = LabError.__subclasses__()


@pytest.mark.parametrize("kind", KINDS)
def test_each_says_whose_fault_it_is_and_what_to_do(kind):
    error = kind("what happened")
    assert error.message == "what happened"
    assert error.fault in {"request", "workload", "pod", "peer", "machine", "midstream"}
    assert error.hint
    assert error.code == kind.kind != LabError.kind


def test_the_codes_differ_and_the_tree_names_every_one():
    assert len({kind.kind for kind in KINDS}) == len(KINDS)
    assert errors.__doc__ is not None
    assert all(f"── {kind.__name__} " in errors.__doc__ for kind in KINDS)
