"""Programs for the kernel's virtual machine: its instructions (RFC 9669). Pure."""

from __future__ import annotations

import struct
from enum import IntEnum

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
_STORE = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
_STORE_ZEROES, _CALL, _EXIT, _IF_ZERO = 0x7A, 0x85, 0x95, 0x15
_JUMP_AT = 2


class Register(IntEnum):
    RESULT = 0
    """Of a call, and of the program."""
    FIRST = 1
    """Arguments, up to the fifth: a call forgets them."""
    SECOND = 2
    THIRD = 3
    A = 6
    """These stay."""
    B = 7
    C = 8
    D = 9
    STACK = 10
    """Its end; offsets are negative."""


class Helper(IntEnum):
    """What the kernel does for a program (linux/bpf.h, ___BPF_FUNC_MAPPER)."""

    PROBE_READ_KERNEL = 113
    SEQ_WRITE = 127
    SKC_TO_TCP_SOCK = 137
    SOCK_FROM_FILE = 162


class Operation(IntEnum):
    """What is done to a register, with a number or with another."""

    SET, SET_TO = 0xB7, 0xBF
    ADD, ADD_THE = 0x07, 0x0F
    AND = 0x57
    LEFT = 0x67
    RIGHT, RIGHT_BY = 0x77, 0x7F


class Program:
    """One that is being written."""

    def __init__(self) -> None:
        self._code: list[bytes] = []

    def load(self, into: Register, base: Register, offset: int, size: int = 8) -> None:
        """So many bytes from an address."""
        self._add(_LOAD[size], into, base, offset)

    def store(self, base: Register, offset: int, value: Register, size: int = 8) -> None:
        self._add(_STORE[size], base, value, offset)

    def clear(self, base: Register, offset: int) -> None:
        """8 bytes."""
        self._add(_STORE_ZEROES, base, 0, offset)

    def do(self, operation: Operation, on: Register, value: int | Register) -> None:
        if isinstance(value, Register):
            self._add(operation, on, value)
        else:
            self._add(operation, on, 0, 0, value)

    def call(self, helper: Helper) -> None:
        self._add(_CALL, 0, 0, 0, helper)

    def jump_if_zero(self, value: Register) -> int:
        """To where it is said to `land`; gives which jump it is."""
        self._add(_IF_ZERO, value)
        return len(self._code) - 1

    def land(self, *jumps: int) -> None:
        """These go on here."""
        for at in jumps:
            code = bytearray(self._code[at])
            struct.pack_into("=h", code, _JUMP_AT, len(self._code) - at - 1)
            self._code[at] = bytes(code)

    def end(self) -> None:
        """With 0, which is success."""
        self.do(Operation.SET, Register.RESULT, 0)
        self._add(_EXIT)

    def __bytes__(self) -> bytes:
        return b"".join(self._code)

    def _add(self, code: int, to: int = 0, other: int = 0, offset: int = 0, value: int = 0) -> None:
        self._code.append(_INSTRUCTION.pack(code, to | other << 4, offset, value))
