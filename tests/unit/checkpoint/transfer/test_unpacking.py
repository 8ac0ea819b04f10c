from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.transfer.unpacking import Unpacking


def take(unpacking: Unpacking, *pieces: tuple[str, int, bytes, bool], attempt: int = 0) -> None:
    made = tuple(Piece(name, offset, len(data), last) for name, offset, data, last in pieces)
    unpacking.take(Parcel(1, attempt, made), [memoryview(b"".join(data for _, _, data, _ in pieces))])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pieces_go_where_they_belong_in_any_order_and_twice(tmp_path: Path) -> None:
    unpacking = Unpacking(tmp_path)
    take(unpacking, ("pages", 4, b"ond", True), ("core", 0, b"whole", True))
    for _ in range(2):
        take(unpacking, ("pages", 0, b"sec-", False))
    assert files(tmp_path) == {"pages": b"sec-ond", "core": b"whole"}
    assert (tmp_path / "core").stat().st_mode & 0o777 == 0o600


def test_an_end_cuts_off_what_was_longer(tmp_path: Path) -> None:
    unpacking = Unpacking(tmp_path)
    take(unpacking, ("files", 0, b"as it was written", True))
    take(unpacking, ("files", 0, b"edited", True))
    assert files(tmp_path) == {"files": b"edited"}


def test_a_later_attempt_empties_the_folder_and_nothing_of_an_earlier_one_comes_back(tmp_path: Path) -> None:
    unpacking = Unpacking(tmp_path)
    take(unpacking, ("first", 0, b"1", True))
    take(unpacking, ("second", 0, b"2", True), attempt=1)
    take(unpacking, ("first", 0, b"1", True), attempt=0)
    assert files(tmp_path) == {"second": b"2"}


def test_a_link_that_lies_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "core").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError, match="cannot write the images") as raised:
        take(Unpacking(tmp_path / "images"), ("core", 0, b"x", True))
    assert raised.value.code is Code.INTERNAL
    assert not (tmp_path / "elsewhere").exists()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9), step=st.integers(1, 12), stale=st.booleans())
def test_however_the_bytes_come_each_piece_gets_its_own(sizes: list[int], step: int, stale: bool) -> None:
    data = [bytes([65 + at]) * size for at, size in enumerate(sizes)]
    pieces = tuple(Piece(f"f{at}", 2, size, True) for at, size in enumerate(sizes))
    whole = b"".join(data)
    slices = iter([memoryview(whole)[at : at + step] for at in range(0, len(whole), step)])
    with tempfile.TemporaryDirectory() as name:
        unpacking = Unpacking(Path(name))
        if stale:
            take(unpacking, ("later", 0, b"", True), attempt=1)
        unpacking.take(Parcel(2, 0, pieces), slices)
        assert next(slices, None) is None, "all of it is taken from the connection"
        found = files(Path(name))
    assert found == ({"later": b""} if stale else {f"f{at}": b"\0\0" + one for at, one in enumerate(data)})


def test_a_connection_that_breaks_is_not_the_folder_s_fault(tmp_path: Path) -> None:
    def cut_off() -> Iterator[memoryview]:
        yield memoryview(b"half")
        raise ConnectionResetError("cut off")

    unpacking = Unpacking(tmp_path)
    with pytest.raises(ConnectionResetError):
        unpacking.take(Parcel(1, 0, (Piece("pages", 0, 8, True),)), cut_off())
    take(unpacking, ("pages", 0, b"half and", True))
    assert files(tmp_path) == {"pages": b"half and"}
