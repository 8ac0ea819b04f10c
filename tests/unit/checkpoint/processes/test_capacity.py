"""The twin of checkpoint/processes/capacity.py."""

from __future__ import annotations

from checkpoint.processes import capacity


def test_there_is_room():
    assert 0 < capacity.room_bytes() < 1 << 50


def test_huge_pages_that_are_promised_to_somebody_are_not_free(tmp_path):
    for size, counts in ((2048, (5, 3, 2, 1)), (1048576, (0, 0, 0, 0))):
        folder = tmp_path / f"hugepages-{size}kB"
        folder.mkdir()
        for name, count in zip(("free", "resv", "nr_overcommit", "surplus"), counts, strict=True):
            (folder / f"{name}_hugepages").write_text(f"{count}\n")
    assert capacity.free_huge_bytes(tmp_path) == {2 << 20: 3 * (2 << 20), 1 << 30: 0}
    assert all(count >= 0 for count in capacity.free_huge_bytes().values())
