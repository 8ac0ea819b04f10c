from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from checkpoint.baggage import scan
from checkpoint.core.baggage import ROOT, Kind


def test_every_kind_is_told_and_a_folder_comes_before_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("four")
    os.link(tmp_path / "b" / "file", tmp_path / "a")
    (tmp_path / "c").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "e"))
        found = scan.look("/ground", tmp_path, "me")
    assert [(one.path, one.kind) for one in found.entries] == [
        ("a", Kind.FILE), ("b", Kind.FOLDER), ("b/file", Kind.FILE), ("c", Kind.LINK), ("d", Kind.FIFO),
    ]  # fmt: skip
    by_path = {one.path: one for one in found.entries}
    assert by_path["a"].inode == by_path["b/file"].inode != 0
    assert (by_path["a"].size, by_path["b"].size) == (4, 0)
    assert (found.left, found.identity, found.files, found.size_bytes) == (["e"], "me", 4, 4)


def test_what_is_ours_is_not_the_workloads(tmp_path: Path) -> None:
    (tmp_path / ".midstream-m").mkdir()
    (tmp_path / ".midstream-m" / "new").write_text("staged")
    assert scan.look("/ground", tmp_path).entries == []


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and trusted attributes are root's")
def test_a_layers_deletions_are_told(tmp_path: Path) -> None:
    """Of the root's layer: what is deleted, and a folder whose former content is. Elsewhere no folder is that."""
    os.mknod(tmp_path / "deleted", 0o020000, os.makedev(0, 0))
    (tmp_path / "replaced").mkdir()
    os.setxattr(tmp_path / "replaced", "trusted.overlay.opaque", b"y")
    (tmp_path / "plain").mkdir()
    gone, plain, replaced = scan.look(ROOT, tmp_path).entries
    assert (gone.kind, plain.whole, replaced.whole) == (Kind.GONE, False, True)
    assert not any(one.whole for one in scan.look("/ground", tmp_path).entries)


def test_what_cannot_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan.look("/ground", tmp_path / "none")
