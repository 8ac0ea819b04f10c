"""A kernel's account of its structures, made by hand as the kernel's documentation has it."""

from __future__ import annotations

import struct

import pytest

from checkpoint.core.btf import Field, Types

INT, POINTER, ARRAY, STRUCT, UNION, TYPEDEF, CONST, FUNCTION, PROTOTYPE = 1, 2, 3, 4, 5, 8, 10, 12, 13
BITS = 1 << 31


class Made:
    """BTF that grows."""

    def __init__(self) -> None:
        self.names = b"\0"
        self.types = b""
        self.count = 0

    def name(self, name: str) -> int:
        if not name:
            return 0
        self.names += name.encode() + b"\0"
        return len(self.names) - len(name) - 1

    def type(self, name: str, kind: int, rest: int, *more: int, members: int = 0, flag: int = 0) -> int:
        """Gives its number."""
        self.types += struct.pack("=III", self.name(name), kind << 24 | members | flag, rest)
        self.types += struct.pack(f"={len(more)}I", *more)
        self.count += 1
        return self.count

    def struct(self, name: str, size: int, *members: tuple[str, int, int], kind: int = STRUCT, flag: int = 0) -> int:
        """Each member with its type and where it is, in bits."""
        more = [number for one, kind_of, at in members for number in (self.name(one), kind_of, at)]
        return self.type(name, kind, size, *more, members=len(members), flag=flag)

    def __bytes__(self) -> bytes:
        head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.names))
        return head + self.types + self.names


@pytest.fixture
def made() -> Made:
    return Made()


def test_a_member_has_a_place_and_a_size(made: Made):
    char = made.type("char", INT, 1, 0)
    word = made.type("u32", TYPEDEF, made.type("unsigned int", INT, 4, 0))
    constant = made.type("", CONST, word)
    pointer = made.type("", POINTER, 0)
    array = made.type("", ARRAY, 0, char, word, 12)
    made.struct("sock", 32, ("a", constant, 0), ("p", pointer, 64), ("name", array, 128))
    types = Types(bytes(made))
    assert types.field("sock", "a") == Field(0, 4)
    assert types.field("sock", "p") == Field(8, 8)
    assert types.field("sock", "name") == Field(16, 12)


def test_what_is_in_a_part_without_a_name_is_a_member_too(made: Made):
    word = made.type("int", INT, 4, 0)
    inner = made.struct("", 8, ("x", word, 0), ("y", word, 32))
    union = made.struct("", 8, ("both", word, 0), ("", inner, 0), kind=UNION)
    made.struct("outer", 16, ("first", word, 0), ("", union, 64))
    types = Types(bytes(made))
    assert types.field("outer", "both") == Field(8, 4)
    assert types.field("outer", "y") == Field(12, 4)


def test_of_a_bit_field_its_bits_are_known(made: Made):
    byte = made.type("u8", INT, 1, 0)
    made.struct("tcp", 2, ("whole", byte, 0), ("few", byte, 4 << 24 | 8), ("one", byte, 1 << 24 | 15), flag=BITS)
    types = Types(bytes(made))
    assert types.field("tcp", "whole") == Field(0, 1)
    assert types.field("tcp", "few") == Field(1, 1, 0x0F)
    assert types.field("tcp", "one") == Field(1, 1, 0x80)


def test_a_bit_field_may_be_in_several_bytes(made: Made):
    word = made.type("int", INT, 4, 0)
    made.struct(
        "wide", 8, ("nine", word, 9 << 24 | 16), ("over", word, 2 << 24 | 39), ("many", word, 32 << 24 | 16), flag=BITS
    )
    types = Types(bytes(made))
    assert types.field("wide", "nine") == Field(2, 2, 0x1FF)
    assert types.field("wide", "over") == Field(4, 2, 0x180)
    with pytest.raises(LookupError, match="too many bytes"):
        types.field("wide", "many")


def test_a_function_has_a_number(made: Made):
    word = made.type("int", INT, 4, 0)
    prototype = made.type("", PROTOTYPE, word, 0, word, members=1)
    number = made.type("bpf_iter_task_file", FUNCTION, prototype)
    made.struct("bpf_iter_task_file", 4, ("a", word, 0))  # another name space
    assert Types(bytes(made)).function("bpf_iter_task_file") == number


@pytest.mark.parametrize("what", [("none", "a"), ("sock", "none"), ("a", "a")])
def test_what_there_is_not_is_an_error(made: Made, what: tuple[str, str]):
    made.struct("sock", 4, ("a", made.type("int", INT, 4, 0), 0))
    with pytest.raises(LookupError):
        Types(bytes(made)).field(*what)
    with pytest.raises(LookupError, match="no_such"):
        Types(bytes(made)).function("no_such")


@pytest.mark.parametrize(
    "raw", [b"", b"\x9f\xeb\x02" + bytes(40), b"\x9f\xeb\x01\0" + struct.pack("=5I", 24, 0, 7, 7, 1) + bytes(8)]
)
def test_what_makes_no_sense_is_an_error(raw: bytes):
    with pytest.raises(ValueError, match="BTF"):
        Types(raw)


def test_a_kind_that_is_not_known_is_an_error(made: Made):
    made.type("later", 30, 0)
    with pytest.raises(ValueError, match="BTF"):
        Types(bytes(made))
