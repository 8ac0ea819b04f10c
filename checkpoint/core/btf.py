"""What a kernel says of its own structures and functions: BTF (K: Documentation/bpf/btf.rst). Pure."""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

_MAGIC, _VERSION = 0xEB9F, 1
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
"""struct btf_type: its name, what it is, and its size in bytes or another type."""
_STRUCT, _UNION, _FUNCTION = 4, 5, 12
_POINTER, _ARRAY = 2, 3
_POINTER_BYTES = 8
_OTHER_NAMES = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag: the type is another's."""
_MORE = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes that follow a type of this kind: int, array, var, decl tag."""
_MORE_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""For each of its members, parameters, values: struct, union, enum, function prototype, section, 64-bit enum."""
_KINDS = 20
_LOADED = (1, 2, 4)
"""Bytes that a bit field may be in."""


class Field(NamedTuple):
    """Where a member of a structure is."""

    offset: int
    """In bytes."""
    size: int
    """In bytes."""
    mask: int = 0
    """Of a bit field: the bits of these bytes that are it."""


class Types:
    """A kernel's."""

    def __init__(self, raw: bytes) -> None:
        """Raises ValueError for what makes no sense. Takes 0.1 s for a whole kernel."""
        try:
            magic, version, _, length, types_at, types_bytes, names_at, names_bytes = _HEADER.unpack_from(raw)
            if (magic, version) != (_MAGIC, _VERSION):
                raise ValueError("this is no BTF that is known here")
            self._types = raw[length + types_at : length + types_at + types_bytes]
            self._names = raw[length + names_at : length + names_at + names_bytes]
            self._walk()
        except (struct.error, IndexError) as error:
            raise ValueError(f"the BTF makes no sense: {error}") from error

    def _walk(self) -> None:
        """Types have numbers, from 1 on, and many lengths."""
        base = [_TYPE.size + _MORE.get(kind, 0) for kind in range(_KINDS)]
        each = [_MORE_EACH.get(kind, 0) for kind in range(_KINDS)]
        starts, at, end, head = array("I", [0]), 0, len(self._types), struct.Struct("=II").unpack_from
        named: dict[int, dict[int, int]] = {_STRUCT: {}, _FUNCTION: {}}
        while at < end:
            name, info = head(self._types, at)
            kind = info >> 24 & 0x1F
            if kind in named:
                named[kind].setdefault(name, len(starts))
            starts.append(at)
            at += base[kind] + each[kind] * (info & 0xFFFF)
        self._starts, self._named = starts, named

    def function(self, name: str) -> int:
        """Its number. Raises LookupError."""
        return self._number(_FUNCTION, name)

    def field(self, structure: str, member: str) -> Field:
        """Raises LookupError where there is none."""
        found = self._member(self._number(_STRUCT, structure), self._name(member))
        if found is None:
            raise LookupError(f"{structure} has no {member}")
        bits, width, kind = found
        if not width:
            return Field(bits // 8, self._size(kind))
        for size in _LOADED:
            start = bits // 8 // size * size
            if bits - 8 * start + width <= 8 * size:
                return Field(start, size, (1 << width) - 1 << bits - 8 * start)
        raise LookupError(f"{member} of {structure} is in too many bytes")

    def _number(self, kind: int, name: str) -> int:
        found = self._named[kind].get(self._name(name))
        if found is None:
            raise LookupError(f"this kernel has no {name}")
        return found

    def _name(self, name: str) -> int:
        found = self._names.find(b"\0" + name.encode() + b"\0")
        if found < 0:
            raise LookupError(f"this kernel has no {name}")
        return found + 1

    def _member(self, number: int, name: int) -> tuple[int, int, int] | None:
        """Its offset and, of a bit field, its width, in bits, and its type; those without a name are looked into."""
        _, info, _ = self._type(number)
        are_bits = info >> 31
        for index in range(info & 0xFFFF):
            called, kind, offset = _TYPE.unpack_from(self._types, self._starts[number] + _TYPE.size * (index + 1))
            width, offset = (offset >> 24, offset & 0xFFFFFF) if are_bits else (0, offset)
            if called == name:
                return offset, width, kind
            inner = self._real(kind)
            if not called and self._kind(inner) in (_STRUCT, _UNION) and (found := self._member(inner, name)):
                return found[0] + offset, *found[1:]
        return None

    def _size(self, number: int) -> int:
        number = self._real(number)
        kind = self._kind(number)
        if kind == _POINTER:
            return _POINTER_BYTES
        if kind == _ARRAY:
            element, _, count = _TYPE.unpack_from(self._types, self._starts[number] + _TYPE.size)
            return self._size(element) * int(count)
        return self._type(number)[2]

    def _real(self, number: int) -> int:
        """Without its other names."""
        while self._kind(number) in _OTHER_NAMES:
            number = self._type(number)[2]
        return number

    def _kind(self, number: int) -> int:
        return self._type(number)[1] >> 24 & 0x1F

    def _type(self, number: int) -> tuple[int, int, int]:
        name, info, rest = _TYPE.unpack_from(self._types, self._starts[number])
        return name, info, rest
