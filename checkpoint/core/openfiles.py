"""What the kernel can say of every open file of a process at once: a program for its iterator over them (K:
kernel/bpf/task_iter.c), and what that writes of each. Pure.

Such a program is told one open file after the other, may look at the kernel's own structures, and writes what it finds
to whoever reads the iterator. Where a structure has what, each kernel says itself (`checkpoint.core.btf`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from checkpoint.core.bpf import Helper, Operation, Program, Register
from checkpoint.core.btf import Field, Types


class OpenFile(NamedTuple):
    """A descriptor. What a file of its kind has not is 0."""

    ino: int
    operations: int
    """The address of what the kernel can do with such files: it tells their kinds apart."""
    peer6: bytes
    """The address of a TCP or UDP socket's peer, where it is of IPv6."""
    peer: bytes
    """Where it is of IPv4."""
    number: int
    error: int
    """A socket's, that nobody was told yet."""
    told: int
    """How much is in its queue of errors (recv(2), MSG_ERRQUEUE)."""
    expected: int
    """The sequence number that a TCP connection waits for."""
    read: int
    """The one up to which the application has read."""
    family: int
    type: int
    protocol: int
    port: bytes
    """The peer's, in the network's order."""
    urgent: int
    """Not 0: urgent data is unread, or on its way (K: tcp.h, TCP_URG_VALID)."""
    state: int
    """linux/tcp_states.h"""
    shutdown: int
    """1: of receiving, 2: of sending (K: net/sock.h, RCV_SHUTDOWN)."""
    closed_on_exec: int
    settings: bytes
    """Of a TCP socket everything that somebody may set: two of one family where it is the same are set alike."""


_made: Callable[[tuple[object, ...]], OpenFile] = partial(tuple.__new__, OpenFile)
"""As OpenFile._make, which counts them each time, and takes ten times as long."""

_COLUMNS = (
    ("Q", "inode", "i_ino"),
    ("Q", "file", "f_op"),
    ("16s", "sock_common", "skc_v6_daddr"),
    ("4s", "sock_common", "skc_daddr"),
    ("I", "bpf_iter__task_file", "fd"),
    ("I", "sock", "sk_err"),
    ("I", "sock", "sk_error_queue.qlen"),
    ("I", "tcp_sock", "rcv_nxt"),
    ("I", "tcp_sock", "copied_seq"),
    ("H", "sock_common", "skc_family"),
    ("H", "sock", "sk_type"),
    ("H", "sock", "sk_protocol"),
    ("2s", "sock_common", "skc_dport"),
    ("H", "tcp_sock", "urg_data"),
    ("B", "sock_common", "skc_state"),
    ("B", "sock", "sk_shutdown"),
)
"""Of the record, in the same order; the largest first, so that all are aligned."""
_SETTINGS = {
    "file": ("f_flags", "f_owner"),
    "sock_common": ("skc_flags", "skc_bound_dev_if"),
    "sock": (
        "sk_tsflags", "sk_ll_usec", "sk_max_pacing_rate", "sk_lingertime", "sk_rcvlowat", "sk_rcvtimeo", "sk_sndtimeo",
        "sk_mark", "sk_priority", "sk_filter",
    ),
    "inet_sock": ("tos", "uc_ttl", "min_ttl", "pmtudisc"),
    "inet_connection_sock": ("icsk_ca_ops", "icsk_user_timeout", "icsk_ulp_ops"),
    "tcp_sock": (
        "linger2", "thin_lto", "notsent_lowat", "recvmsg_inq", "nonagle", "keepalive_time", "keepalive_intvl",
        "keepalive_probes",
    ),
    "ipv6_pinfo": ("hop_limit", "pmtudisc", "tclass", "min_hopcount"),
}  # fmt: skip
"""Where the kernel keeps what of `checkpoint.core.sockopts` matters to a connection, and what makes one more than
plain."""
_MATTERS = {"nonagle": 0b11}
"""The bits of these that are settings: TCP_NODELAY and TCP_CORK, and not that something is to go at once (K: tcp.h,
TCP_NAGLE_PUSH)."""
_INSIDE = {"sk_error_queue": "sk_buff_head", "f_owner": "fown_struct"}
"""What these members are."""
_FORMAT = "=" + "".join(one for one, *_ in _COLUMNS)
_CLOSED_ON_EXEC_AT = struct.calcsize(_FORMAT)
_SETTINGS_AT = -(-(_CLOSED_ON_EXEC_AT + 1) // 8) * 8
_WORD = 8
"""Bytes."""
_SIZES = (1, 2, 4, 8)
"""What is loaded at once."""


class _Copied(NamedTuple):
    field: Field
    at: int
    """Where in the record."""
    width: int
    """There: not less than the field's own size."""


class Asking:
    """The program, for one kernel."""

    def __init__(self, types: Types) -> None:
        """Raises LookupError where the kernel is another than we know."""
        self.function = types.function("bpf_iter_task_file")
        """The number of what it stands for."""
        written = _Writing(types)
        self.program = bytes(written.program)
        self._length = written.length
        pad = _SETTINGS_AT - _CLOSED_ON_EXEC_AT - 1
        self._decode = struct.Struct(f"{_FORMAT}B{pad}x{self._length - _SETTINGS_AT}s").iter_unpack

    def decode(self, raw: bytes | bytearray) -> list[OpenFile]:
        """What it has written. Raises ValueError for what is no whole number of records."""
        if len(raw) % self._length:
            raise ValueError("the kernel has not told all")
        return list(map(_made, self._decode(raw)))


class _Writing:
    """Writes it."""

    def __init__(self, types: Types) -> None:
        self._types = types
        self._copied: dict[str, list[_Copied]] = {}
        """By the structure."""
        self.length = self._place_settings(self._place_columns())
        """Of a record, in bytes."""
        self.program = Program()
        self._write()

    def _place_columns(self) -> int:
        for index, (width, structure, member) in enumerate(_COLUMNS):
            at = struct.calcsize("=" + "".join(one for one, *_ in _COLUMNS[:index]))
            self._place(structure, self._field(structure, member), at, struct.calcsize(f"={width}"))
        return _SETTINGS_AT

    def _place_settings(self, at: int) -> int:
        """Gives where they end."""
        fields = [(one, self._setting(one, member)) for one, members in _SETTINGS.items() for member in members]
        for structure, field in sorted(fields, key=lambda one: -one[1].size):
            self._place(structure, field, at, field.size)
            at += field.size
        return -(-at // _WORD) * _WORD

    def _place(self, structure: str, field: Field, at: int, width: int) -> None:
        self._copied.setdefault(structure, []).append(_Copied(field, at, width))

    def _setting(self, structure: str, member: str) -> Field:
        found = self._field(structure, member)
        if (matters := _MATTERS.get(member)) is None:
            return found
        return found._replace(mask=found.mask & matters * (found.mask & -found.mask))  # from its lowest bit on

    def _field(self, structure: str, member: str) -> Field:
        """Also one of a structure inside."""
        outer, _, inner = member.partition(".")
        found = self._types.field(structure, outer)
        if outer == "f_owner" and found.size > _WORD:  # the structure itself, in older kernels
            inner = "pid"
        if not inner:
            return found
        within = self._types.field(_INSIDE[outer], inner)
        return Field(found.offset + within.offset, within.size)

    def _write(self) -> None:
        program, context, file, other, sock = self.program, Register.A, Register.B, Register.C, Register.D
        program.do(Operation.SET_TO, context, Register.FIRST)
        self._follow(file, context, "bpf_iter__task_file", "file")
        self._follow(other, context, "bpf_iter__task_file", "task")
        nothing = program.jump_if_zero(file), program.jump_if_zero(other)  # it has told all
        for at in range(0, self.length, _WORD):
            program.clear(Register.STACK, at - self.length)
        self._copy(context, "bpf_iter__task_file")
        self._copy_closed_on_exec(context, other)
        self._copy(file, "file")
        self._follow(other, file, "file", "f_inode")
        self._copy(other, "inode")
        program.do(Operation.SET_TO, Register.FIRST, file)
        program.call(Helper.SOCK_FROM_FILE)
        no_socket = program.jump_if_zero(Register.RESULT)
        self._follow(sock, Register.RESULT, "socket", "sk")
        no_sock = program.jump_if_zero(sock)
        self._copy(sock, "sock_common", "sock")
        program.do(Operation.SET_TO, Register.FIRST, sock)
        program.call(Helper.SKC_TO_TCP_SOCK)
        no_tcp = program.jump_if_zero(Register.RESULT)
        program.do(Operation.SET_TO, sock, Register.RESULT)
        self._copy(sock, "inet_sock", "inet_connection_sock", "tcp_sock")  # each begins with the one before
        self._follow(other, sock, "inet_sock", "pinet6")
        no_ipv6 = program.jump_if_zero(other)
        self._copy(other, "ipv6_pinfo")
        program.land(no_socket, no_sock, no_tcp, no_ipv6)
        self._say(context, other)
        program.land(*nothing)
        program.end()

    def _follow(self, to: Register, base: Register, structure: str, member: str) -> None:
        self.program.load(to, base, self._types.field(structure, member).offset)

    def _copy(self, base: Register, *structures: str) -> None:
        """What the record has of these, which begin at one address."""
        value = Register.FIRST
        for field, at, width in (one for structure in structures for one in self._copied[structure]):
            if width not in _SIZES:
                self._read(at, base, field.offset, width)
                continue
            self.program.load(value, base, field.offset, field.size)
            if field.mask:
                self.program.do(Operation.AND, value, field.mask)
            self.program.store(Register.STACK, at - self.length, value, width)

    def _read(self, at: int, base: Register, offset: int, size: int) -> None:
        """More than is loaded at once, into the record."""
        program = self.program
        program.do(Operation.SET_TO, Register.FIRST, Register.STACK)
        program.do(Operation.ADD, Register.FIRST, at - self.length)
        program.do(Operation.SET, Register.SECOND, size)
        program.do(Operation.SET_TO, Register.THIRD, base)
        program.do(Operation.ADD, Register.THIRD, offset)
        program.call(Helper.PROBE_READ_KERNEL)

    def _copy_closed_on_exec(self, context: Register, task: Register) -> None:
        """A bit for each descriptor, in words (K: linux/fdtable.h)."""
        program, number, word = self.program, Register.C, Register.D
        self._follow(word, task, "task_struct", "files")
        self._follow(word, word, "files_struct", "fdt")
        self._follow(word, word, "fdtable", "close_on_exec")
        program.load(number, context, self._types.field("bpf_iter__task_file", "fd").offset, 4)
        program.do(Operation.SET_TO, Register.FIRST, number)
        program.do(Operation.RIGHT, Register.FIRST, 6)
        program.do(Operation.LEFT, Register.FIRST, 3)
        program.do(Operation.ADD_THE, word, Register.FIRST)
        self._read(_SETTINGS_AT, word, 0, _WORD)  # there for a moment
        program.load(word, Register.STACK, _SETTINGS_AT - self.length)
        program.do(Operation.AND, number, 63)
        program.do(Operation.RIGHT_BY, word, number)
        program.do(Operation.AND, word, 1)
        program.store(Register.STACK, _CLOSED_ON_EXEC_AT - self.length, word, 1)
        program.clear(Register.STACK, _SETTINGS_AT - self.length)

    def _say(self, context: Register, other: Register) -> None:
        program = self.program
        self._follow(other, context, "bpf_iter__task_file", "meta")
        self._follow(Register.FIRST, other, "bpf_iter_meta", "seq")
        program.do(Operation.SET_TO, Register.SECOND, Register.STACK)
        program.do(Operation.ADD, Register.SECOND, -self.length)
        program.do(Operation.SET, Register.THIRD, self.length)
        program.call(Helper.SEQ_WRITE)
