"""Filters of system calls (seccomp(2)), for what another kernel would have answered."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence

AUDIT, READ, WRITE, IOCTL, _SECCOMP = {
    "x86_64": (0xC000003E, 0, 1, 16, 317), "aarch64": (0xC00000B7, 63, 64, 29, 277),
}[platform.machine()]  # fmt: skip
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, NOTIFY, _ERROR = 0x7FFF0000, 0x7FC00000, 0x00050000
NUMBER_AT, ARCHITECTURE_AT, SECOND_AT, THIRD_AT = 0, 4, 24, 32
NEW_LISTENER = 1 << 3

Step = tuple[int, int, int, int]


def install(steps: Sequence[Step], flags: int = 0) -> int:
    """A filter for this thread and all that it starts, for good; its listener if the flags say so. Raises OSError."""
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(packed)))
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.syscall(_SECCOMP, 1, flags, described)
    if done < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return done


def refuse_ioctl(request: int) -> None:
    """From now on the kernel knows no such request, as far as this thread sees."""
    install([
        (LOAD, 0, 0, ARCHITECTURE_AT), (JUMP_IF_EQUAL, 0, 5, AUDIT),
        (LOAD, 0, 0, NUMBER_AT), (JUMP_IF_EQUAL, 0, 3, IOCTL),
        (LOAD, 0, 0, SECOND_AT), (JUMP_IF_EQUAL, 0, 1, request),
        (RETURN, 0, 0, _ERROR | errno.ENOTTY), (RETURN, 0, 0, ALLOW),
    ])  # fmt: skip
