"""A chain of images: the rounds of a pre-copy, each on top of the one before, and on top the dump. Pure: names.

CRIU wants a folder for each, and in it a link to the one below (`parent`). What is signed for, sent and stored is one
folder without folders in it: there a round's file has its round's number before its name.

    on the way     round-1.pages-1.img   round-2.pages-1.img   pages-1.img
    for CRIU       1/pages-1.img         2/pages-1.img         top/pages-1.img   (2/parent -> ../1, top/parent -> ../2)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

PARENT = "parent"
"""CRIU's name of the link (criu: image.h, CR_PARENT_LINK)."""
TOP = "top"

_PREFIX = "round-"
ROUND = _PREFIX + r"([1-9][0-9]{0,2})\."
"""What a round's files' names begin with, as a pattern."""
_NAME = re.compile(ROUND + r"(.+)\Z")


def flat(number: int, name: str) -> str:
    """The name, among all images, of a file of round `number`."""
    return f"{_PREFIX}{number}.{name}"


def split(name: str) -> tuple[int, str]:
    """The round that a file is of, 0 for the dump itself, and its own name."""
    found = _NAME.match(name)
    return (int(found[1]), found[2]) if found else (0, name)


def is_chain(names: Iterable[str]) -> bool:
    """Whether rounds are among these files."""
    return any(name.startswith(_PREFIX) for name in names)


def places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """For each file the folder in which CRIU looks for it, and its name there."""
    found = {name: split(name) for name in names}
    return {name: (str(number) if number else TOP, own) for name, (number, own) in found.items()}


def parents(folders: Iterable[str]) -> dict[str, str]:
    """For each folder of a chain but the lowest, the one below: where its `parent` leads."""
    rounds = sorted({int(one) for one in folders if one != TOP})
    order = [*map(str, rounds), TOP]
    return {upper: f"../{lower}" for lower, upper in pairwise(order)}
