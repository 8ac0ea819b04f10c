"""The names of a chain of images, flat on the way and in folders for CRIU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.chain import TOP, flat, is_chain, parents, places, split


@given(number=st.integers(1, 999), name=st.from_regex(r"[a-z0-9-]{1,20}\.img", fullmatch=True))
def test_a_rounds_file_is_known_by_its_name(number, name):
    assert split(flat(number, name)) == (number, name)
    assert is_chain(["core-1.img", flat(number, name)])


@pytest.mark.parametrize(
    "name", ["pages-1.img", "round-0.pages-1.img", "round-1000.x", "round-1.", "around-1.x", "round-1"]
)
def test_other_files_are_the_dumps_own(name):
    assert split(name) == (0, name)


def test_without_rounds_it_is_no_chain():
    assert not is_chain(["pages-1.img", "manifest"])


def test_each_file_has_its_place():
    assert places(["pages-1.img", "round-2.pages-1.img", "round-10.core-3.img"]) == {
        "pages-1.img": (TOP, "pages-1.img"), "round-2.pages-1.img": ("2", "pages-1.img"),
        "round-10.core-3.img": ("10", "core-3.img"),
    }  # fmt: skip


def test_each_folder_leads_to_the_one_below_and_ten_comes_after_nine():
    assert parents([TOP, "10", "9"]) == {"10": "../9", TOP: "../10"}
    assert parents([TOP]) == {}
