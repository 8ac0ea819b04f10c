"""Netlink messages as bytes, and a socket to send them: enough for one nft table, one rule and one route.

Encoded here and not by a library: inside the freeze a thousand set elements cost one system call and no Python object
each, and nothing has to be imported after the privileges are gone. Layouts: include/uapi/linux/netlink.h,
netfilter/nf_tables.h, fib_rules.h, rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from proxy.sys import options

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def big32(kind: int, value: int) -> bytes:
    """nf_tables speaks network order."""
    return attribute(kind, (value % (1 << 32)).to_bytes(4, "big"))


def native32(kind: int, value: int) -> bytes:
    """rtnetlink speaks the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the value of each attribute in a row of them."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        yield kind & ~NLA_F_NESTED, data[offset + _ATTRIBUTE.size : offset + length]
        offset += max(length + 3 & ~3, _ATTRIBUTE.size)


class Message:
    """A netlink message without its sequence number, which the socket gives it."""

    __slots__ = ("body", "flags", "kind")

    def __init__(self, kind: int, flags: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body

    def encode(self, sequence: int) -> bytes:
        flags = self.flags | NLM_F_REQUEST
        padding = bytes(-len(self.body) % 4)
        return _HEADER.pack(_HEADER.size + len(self.body), self.kind, flags, sequence, 0) + self.body + padding


class Netlink:
    """A netlink socket. The kernel has handled a message when send() returns, so nothing here waits."""

    SEND_BUFFER_BYTES = 8 << 20  # a transaction of 10,000 IPv6 flows is about 0.7 MB and must fit in one send

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, options.SO_SNDBUFFORCE, self.SEND_BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, options.SO_RCVBUFFORCE, self.SEND_BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._sequence = 0

    def send(self, messages: Sequence[Message]) -> None:
        """Send as one datagram. Raises the first OSError that the kernel answers with."""
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(message.encode(first + i) for i, message in enumerate(messages)))
        for error in self._errors():
            raise OSError(error, os.strerror(error))

    def ask(self, questions: Sequence[Message]) -> list[bytes]:
        """Send as one datagram. Gives the body of each one's answer, in order; b"" for what does not exist (ENOENT).

        Raises the first OSError that is another.
        """
        first = self._sequence + 1
        self._sequence += len(questions)
        self._socket.send(b"".join(question.encode(first + i) for i, question in enumerate(questions)))
        answers: list[bytes] = []
        while len(answers) < len(questions):
            answer = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            _length, kind, _flags, sequence, _port = _HEADER.unpack_from(answer)
            if sequence >= first:  # else one that nobody has waited for
                answers.append(_known(kind, answer[_HEADER.size :]))
        return answers

    def dump(self, question: Message) -> list[bytes]:
        """The bodies of all that there is (NLM_F_DUMP); none, where there is no place for such things (ENOENT).

        Raises OSError.
        """
        self._sequence += 1
        self._socket.send(Message(question.kind, question.flags | NLM_F_DUMP, question.body).encode(self._sequence))
        found: list[bytes] = []
        while True:
            answer = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            for kind, body in _messages(answer, self._sequence):
                if kind == NLMSG_DONE or not (known := _known(kind, body)):
                    return found
                found.append(known)

    def _errors(self) -> list[int]:
        errors: list[int] = []
        while True:
            try:
                answer = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return errors
            errors += answer_errors(answer)

    def close(self) -> None:
        self._socket.close()


def _messages(answer: bytes, wanted: int) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each in a datagram of answers to one question."""
    offset = 0
    while offset + _HEADER.size <= len(answer):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(answer, offset)
        if sequence == wanted:
            yield kind, answer[offset + _HEADER.size : offset + length]
        offset += max(length + 3 & ~3, _HEADER.size)


def _known(kind: int, body: bytes) -> bytes:
    """Raises OSError for an error, but for ENOENT."""
    if kind != NLMSG_ERROR:
        return body
    code = -_ERRNO.unpack_from(body)[0]
    if code != errno.ENOENT:
        raise OSError(code, os.strerror(code))
    return b""


def answer_errors(answer: bytes) -> list[int]:
    """The errnos in a datagram of answers; an acknowledgement is errno 0 and left out."""
    errors, offset = list[int](), 0
    while offset + _HEADER.size <= len(answer):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(answer, offset)
        if kind == NLMSG_ERROR:
            code = -_ERRNO.unpack_from(answer, offset + _HEADER.size)[0]
            errors += [code] if code else []
        if length < _HEADER.size:
            break
        offset += (length + 3) & ~3
    return errors
