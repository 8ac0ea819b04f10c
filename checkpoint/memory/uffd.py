"""userfaultfd(2) and ioctl_userfaultfd(2): the calls that put pages into another process, and its events."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from enum import IntEnum
from typing import NamedTuple

from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES

_COPY = 0xC028AA03  # _IOWR(0xAA, 3, struct uffdio_copy), linux/userfaultfd.h
_ZEROPAGE = 0xC020AA04
_UNREGISTER = 0x8010AA01
_WAKE = 0x8010AA02
_COPY_ARGS = struct.Struct("<QQQQq")
_ZERO_ARGS = struct.Struct("<QQQq")
_RANGE = struct.Struct("<QQ")
_MESSAGE = struct.Struct("<BBHIQQQ")


class Kind(IntEnum):
    PAGEFAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


class Event(NamedTuple):
    """One message. PAGEFAULT: `b` is the address. FORK: `a` is the child's descriptor, in the low 32 bits. REMAP: from,
    to, length. REMOVE and UNMAP: start and end."""

    kind: int
    a: int
    b: int
    c: int


class Gone(Exception):
    """The process has ended."""


class Changing(Exception):
    """The process changes its address space in this moment: take its events, then try again (EAGAIN)."""


class Buffer:
    """Page-aligned memory of ours that the kernel copies from."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, CHUNK_BYTES)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))


def events(fd: int) -> list[Event]:
    """What has happened since; empty when nothing did. Each FORK brings a descriptor that is the caller's to close."""
    found: list[Event] = []
    while True:
        try:
            raw = os.read(fd, _MESSAGE.size)
        except BlockingIOError:
            return found
        if len(raw) < _MESSAGE.size:
            return found
        kind, _, _, _, a, b, c = _MESSAGE.unpack(raw)
        found.append(Event(kind, a, b, c))
        if kind != Kind.PAGEFAULT:
            return found  # what comes after it is seen with the address space as it then is


def copy(fd: int, to: int, source: int, size: int) -> int:
    """Put `size` bytes at our address `source` there and wake who waits for them; the bytes that are there now.

    Raises Gone and Changing, the latter with the bytes done until then as its argument.
    """
    done = 0
    while done < size:
        args = bytearray(_COPY_ARGS.pack(to + done, source + done, size - done, 0, 0))
        try:
            fcntl.ioctl(fd, _COPY, args)
            return size
        except OSError as error:
            done += max(0, _COPY_ARGS.unpack(args)[4])
            done += _skip(fd, error, to + done, done)
    return size


def zero(fd: int, address: int, size: int = PAGE_BYTES) -> None:
    """Put pages of zeros there, which take no memory until they are written. Raises Gone and Changing."""
    done = 0
    while done < size:
        args = bytearray(_ZERO_ARGS.pack(address + done, size - done, 0, 0))
        try:
            fcntl.ioctl(fd, _ZEROPAGE, args)
            return
        except OSError as error:
            done += max(0, _ZERO_ARGS.unpack(args)[3])
            done += _skip(fd, error, address + done, done)


def _skip(fd: int, error: OSError, address: int, done: int) -> int:
    """What a failed call means: a page that is there already, or that nobody has any more, is passed over."""
    if error.errno == errno.ESRCH:
        raise Gone from error
    if error.errno == errno.EAGAIN:
        raise Changing(done) from error
    if error.errno == errno.EEXIST:
        fcntl.ioctl(fd, _WAKE, _RANGE.pack(address, PAGE_BYTES))
        return PAGE_BYTES
    if error.errno in (errno.ENOENT, errno.EINVAL, errno.EFAULT):
        return PAGE_BYTES
    raise error


def unregister(fd: int, start: int, end: int) -> None:
    """Faults there are the kernel's own again. Nothing, where there is nothing any more."""
    try:
        fcntl.ioctl(fd, _UNREGISTER, _RANGE.pack(start, end - start))
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EINVAL, errno.ESRCH):
            raise
