"""Rounds among the images by links, and a chain unfolded as CRIU opens it."""

from __future__ import annotations

from checkpoint.images import chain


def make(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.img").write_text(text)
    return folder


def test_a_rounds_files_are_among_the_images_and_its_link_is_not(tmp_path):
    images, one = make(tmp_path / "images"), make(tmp_path / "rounds/2", pages="memory", core="")
    (one / "parent").symlink_to("../1")
    assert chain.add(images, one, 2) == {"round-2.pages.img": 6, "round-2.core.img": 0}
    assert (images / "round-2.pages.img").samefile(one / "pages.img"), "a link: nothing was copied"


def test_what_leads_to_the_rounds_is_taken_away(tmp_path):
    (tmp_path / "parent").symlink_to("../rounds/1")
    chain.cut(tmp_path)
    chain.cut(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_chain_is_unfolded_with_the_dump_on_top(tmp_path):
    images = make(tmp_path / "images", **{"pages": "3", "round-1.pages": "1", "round-2.pages": "2"})
    top = chain.unfold(images, [one.name for one in images.iterdir()], tmp_path / "view")
    chain_of_texts = [top / "pages.img", top / "parent/pages.img", top / "parent/parent/pages.img"]
    assert [one.read_text() for one in chain_of_texts] == ["3", "2", "1"]
    assert not (top / "parent/parent/parent").exists()


def test_what_is_no_chain_stays_as_it_is(tmp_path):
    assert chain.unfold(tmp_path, ["pages-1.img"], tmp_path / "view") == tmp_path
    assert not (tmp_path / "view").exists()
