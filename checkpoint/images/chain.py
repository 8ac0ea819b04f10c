"""The rounds of a pre-copy among the images, at the source; and a chain as CRIU wants it, at the destination."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from checkpoint.core import chain


def add(images: Path, folder: Path, number: int) -> dict[str, int]:
    """Put the files of a round, which is in `folder`, among the images, by links; gives their sizes."""
    sizes: dict[str, int] = {}
    for one in folder.iterdir():
        if not one.is_symlink():  # the link to the round before
            name = chain.flat(number, one.name)
            (images / name).hardlink_to(one)
            sizes[name] = one.stat().st_size
    return sizes


def cut(images: Path) -> None:
    """Take away what CRIU has made of a dump to lead to the rounds before: it leads nowhere elsewhere."""
    (images / chain.PARENT).unlink(missing_ok=True)


def unfold(images: Path, names: Iterable[str], view: Path) -> Path:
    """Show CRIU the images of these `names` as the chain that they are, if they are one.

    Gives the folder to restore from. `view`, a folder of our own, is filled with links where it is needed.
    """
    if not chain.is_chain(names):
        return images
    places = chain.places(names)
    folders = {folder for folder, _ in places.values()}
    for folder in folders:
        (view / folder).mkdir(mode=0o700, parents=True)
    for name, (folder, own) in places.items():
        (view / folder / own).symlink_to(images / name)
    for folder, parent in chain.parents(folders).items():
        (view / folder / chain.PARENT).symlink_to(parent)
    return view / chain.TOP
