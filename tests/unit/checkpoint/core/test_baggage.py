"""What travels: lists, what has changed between two of them, deletions, conflicts, and what no list may say."""

from __future__ import annotations

import pytest

from checkpoint.core import baggage as b
from checkpoint.core.baggage import Entry, Kind, Listing
from checkpoint.core.errors import AgentError, Code


def file(path: str, **more: int) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=1, **more)


def folder(path: str, *, whole: bool = False) -> Entry:
    return Entry(path, Kind.FOLDER, 0o755, whole=whole)


def gone(path: str, **more: int) -> Entry:
    return Entry(path, Kind.GONE, **more)


def paths(entries) -> list[str]:
    return [one.path for one in entries]


def test_a_list_counts_each_inode_once():
    listing = Listing("/", [folder("d"), file("d/a", inode=7), file("d/b", inode=7), file("c"), gone("x")])
    assert (listing.files, listing.size_bytes) == (4, 2)


def test_what_has_changed_comes_with_the_folders_above_it_and_with_its_other_names():
    before = [folder("d"), file("d/a", ctime_ns=1), file("d/b", inode=7, ctime_ns=1), file("e", inode=7, ctime_ns=1)]
    assert b.changed(before, before) == []
    now = [folder("d"), file("d/a", ctime_ns=2), *before[2:]]
    assert paths(b.changed(before, now)) == ["d", "d/a"]
    now = [*before[:2], file("d/b", inode=7, ctime_ns=1), file("e", inode=7, ctime_ns=2)]
    assert paths(b.changed(before, now)) == ["d", "d/b", "e"]
    assert paths(b.changed(before, [gone("d"), gone("e")])) == []
    assert paths(b.changed([], before)) == ["d", "d/a", "d/b", "e"]


def test_what_had_come_and_is_not_there_any_more_is_deleted_as_it_was_known():
    here = Listing("/", [folder("d"), file("d/a"), gone("z")])
    arrived = [file("d/a"), file("d/b", mtime_ns=5), file("z", mtime_ns=6), gone("y")]
    found = b.with_deletions(here, arrived)
    assert found.entries == [
        folder("d"), file("d/a"), gone("d/b", mode=0o644, size=1, mtime_ns=5),
        gone("z", mode=0o644, size=1, mtime_ns=6),
    ]  # fmt: skip


@pytest.mark.parametrize("above", [gone("d"), folder("d", whole=True), file("d")])
def test_what_went_with_its_folder_is_not_named(above):
    found = b.with_deletions(Listing("/", [above]), [folder("d"), file("d/b")])
    assert [(one.path, one.kind) for one in found.entries] == [("d", above.kind)]


def test_the_root_leaves_named_folders_to_themselves_but_for_deletions():
    entries = [folder("data"), file("data/a"), gone("data/b"), file("database")]
    assert paths(b.without(Listing("/", entries), ["/data"]).entries) == ["data", "data/b", "database"]


@pytest.mark.parametrize(
    ("wanted", "there", "words"),
    [
        (file("a", mtime_ns=5), file("a", mtime_ns=5), ""),
        (file("a", mtime_ns=5), file("a", mtime_ns=6), "is newer there"),
        (file("a"), folder("a"), "is a folder in one of the pods"),
        (folder("a"), file("a"), "is a folder in one of the pods"),
        (folder("a"), folder("a"), ""),
        (gone("a", size=1, mtime_ns=5), file("a", mtime_ns=5), ""),
        (gone("a"), file("a", mtime_ns=5), "was deleted by the workload"),
    ],
)
def test_what_the_destination_has_written_later_is_not_replaced(wanted, there, words):
    assert b.conflict(wanted, there).startswith(words)
    assert bool(b.conflict(wanted, there)) == bool(words)


def test_a_list_reads_back_as_written_whatever_the_names():
    listings = [Listing("/", [folder("ä\n"), file("ä\n/\udcff", inode=9)], "id", ["sock\udc80"])]
    assert b.decode(b.encode(listings)) == listings
    assert b.shown("a\udcff") == "a\\udcff"


@pytest.mark.parametrize(
    "entries",
    [
        [file("")], [file("/a")], [file("a//b")], [file("../a")], [file("a/..")], [file(".")], [file("a\0")],
        [file("a"), file("a")], [file("a"), file("a/b")], [gone("a"), file("a/b")], [file(".midstream-x/a")],
    ],
)  # fmt: skip
def test_a_list_that_says_what_none_may_say_is_refused(entries):
    with pytest.raises(AgentError) as caught:
        b.decode(b.encode([Listing("/", entries)]))
    assert caught.value.code is Code.IMAGE_DAMAGED


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"[" * 100000, b"\xff", b" " * (b.MAX_LIST_BYTES + 1)])
def test_what_is_no_list_is_refused(raw):
    with pytest.raises(AgentError) as caught:
        b.decode(raw)
    assert caught.value.code is Code.IMAGE_DAMAGED
