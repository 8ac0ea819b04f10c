"""userfaultfd(2) and ioctl_userfaultfd(2): the calls that put pages into another process, and its events."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
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
_NORESERVE = 0x4000  # MAP_NORESERVE, asm-generic/mman-common.h: not in Python 3.11's mmap
_NOWHERE = (errno.ENOENT, errno.EINVAL, errno.EFAULT)


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

    def __init__(self, size: int = CHUNK_BYTES) -> None:
        """It takes up what is written of it, in large pages where the kernel has them."""
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def forget(self, offset: int, size: int) -> None:
        """What was written there is wanted no more: its memory is the machine's again."""
        self._map.madvise(mmap.MADV_DONTNEED, offset, size)


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


def copy(fd: int, to: int, source: int, size: int) -> None:
    """Put `size` bytes at our address `source` there and wake who waits for them. Raises Gone and Changing."""
    try:
        fcntl.ioctl(fd, _COPY, _COPY_ARGS.pack(to, source, size, 0, 0))
    except OSError:  # it did some of it at most
        _copy_patiently(fd, to, source, size)


def _copy_patiently(fd: int, to: int, source: int, size: int) -> None:
    def attempt(done: int, span: int) -> int:
        args = bytearray(_COPY_ARGS.pack(to + done, source + done, span, 0, 0))
        return _try(fd, _COPY, args, lambda: _COPY_ARGS.unpack(args)[4])

    _all(fd, to, size, attempt)


def zero(fd: int, address: int, size: int = PAGE_BYTES) -> None:
    """Put pages of zeros there, which take no memory until they are written. Raises Gone and Changing."""

    def attempt(done: int, span: int) -> int:
        args = bytearray(_ZERO_ARGS.pack(address + done, span, 0, 0))
        return _try(fd, _ZEROPAGE, args, lambda: _ZERO_ARGS.unpack(args)[3])

    _all(fd, address, size, attempt)


class _Stopped(Exception):
    """A call that did not do all of it: how many bytes it did, and why it went no further."""

    def __init__(self, done: int, error: OSError) -> None:
        self.done, self.error = done, error


def _try(fd: int, request: int, args: bytearray, done: Callable[[], int]) -> int:
    """Raises _Stopped."""
    try:
        fcntl.ioctl(fd, request, args)
    except OSError as error:
        raise _Stopped(max(0, done()), error) from error
    return done()


def _all(fd: int, address: int, size: int, attempt: Callable[[int, int], int]) -> None:
    """Whatever of it is still to be done and can be: what is there already, or nobody has any more, is passed over."""
    done, span = 0, size
    while done < size:
        span = min(span, size - done)
        try:
            done += attempt(done, span)
        except _Stopped as stopped:
            done += stopped.done
            if stopped.error.errno in _NOWHERE and not stopped.done and span > PAGE_BYTES:
                # The kernel does nothing of a range that is not all in one area: some of this one may be.
                span = span // PAGE_BYTES // 2 * PAGE_BYTES
            else:
                done += _skip(fd, stopped.error, address + done, done)


def _skip(fd: int, error: OSError, address: int, done: int) -> int:
    """What it means that nothing could be done there, and how many bytes to pass over."""
    if error.errno == errno.ESRCH:
        raise Gone from error
    if error.errno == errno.EAGAIN:
        raise Changing(done) from error
    if error.errno == errno.EEXIST or error.errno in _NOWHERE:
        wake(fd, address, address + PAGE_BYTES)
        return PAGE_BYTES
    raise error


def wake(fd: int, start: int, end: int) -> None:
    """Whoever waits for a page there looks again: it may be there, or not be waited for any more. The kernel wakes
    nobody where memory is unmapped or moved, and not everybody where it is unregistered (K: userfaultfd_unregister()
    wakes before it locks the areas; a fault needs no other lock)."""
    fcntl.ioctl(fd, _WAKE, _RANGE.pack(start, end - start))


def unregister(fd: int, start: int, end: int) -> None:
    """Faults there are the kernel's own again. Nothing, where there is nothing any more."""
    try:
        fcntl.ioctl(fd, _UNREGISTER, _RANGE.pack(start, end - start))
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EINVAL, errno.ESRCH):
            raise
