"""`python shade.py FD ASKED ROOT PROGRAM ARGUMENT…`: becomes the program, some of whose system calls somebody else
answers.

A seccomp filter (seccomp(2), SECCOMP_RET_USER_NOTIF) on ptrace(PTRACE_SEIZE, ROOT, …), which CRIU begins a dump with;
where ASKED is not `start` on getdents64(2) too, where it is `pages` or `areas` on ioctl(…, PAGEMAP_SCAN, …), and where
it is `areas` on openat(2) to read what is named from a folder; everything else passes. Its listener is sent over FD, a
SOCK_SEQPACKET socket, with one byte; where the kernel has no such filter its error number goes instead, in text, and
the program runs as it would have.

Standard library only, and nothing of ours: it is started with -I -S, which takes 12 ms, not 40.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), linux/fs.h
PTRACE_SEIZE = 0x4206  # linux/ptrace.h
START, FILES, PAGES, AREAS = "start", "files", "pages", "areas"
NUMBERS = {"x86_64": (0xC000003E, 317, 217, 16, 257, 101), "aarch64": (0xC00000B7, 277, 61, 29, 56, 117)}
"""The AUDIT_ARCH, seccomp(2), getdents64(2), ioctl(2), openat(2) and ptrace(2) of each machine (linux/audit.h,
asm/unistd.h)."""
_NO_CALL = 0xFFFFFFFF
_NO_FOLDER = 0xFFFFFF9C  # AT_FDCWD

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_AT, _SECOND_AT, _THIRD_AT = 0, 4, 16, 24, 32
"""Of struct seccomp_data; of an argument the low half."""
_SET_MODE_FILTER, _NEW_LISTENER, _SPEC_ALLOW = 1, 1 << 3, 1 << 2


def install(asked: str, root: int) -> int:
    """Install the filter for good; its listener. Raises OSError."""
    architecture, seccomp, getdents, ioctl, openat, ptrace = NUMBERS.get(platform.machine(), (0, 0, 0, 0, 0, 0))
    if not seccomp:
        raise OSError(38, "not known for this machine")
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT), (_JUMP_IF_EQUAL, 0, 16, architecture),
        (_LOAD, 0, 0, _NUMBER_AT), (_JUMP_IF_EQUAL, 13, 0, _NO_CALL if asked == START else getdents),
        (_JUMP_IF_EQUAL, 2, 0, ioctl if asked in (PAGES, AREAS) else _NO_CALL),
        (_JUMP_IF_EQUAL, 3, 0, openat if asked == AREAS else _NO_CALL),
        (_JUMP_IF_EQUAL, 6, 11, ptrace),
        (_LOAD, 0, 0, _SECOND_AT), (_JUMP_IF_EQUAL, 8, 9, PAGEMAP_SCAN),
        (_LOAD, 0, 0, _THIRD_AT), (_JUMP_IF_EQUAL, 0, 7, os.O_RDONLY),
        (_LOAD, 0, 0, _FIRST_AT), (_JUMP_IF_EQUAL, 5, 4, _NO_FOLDER),
        (_LOAD, 0, 0, _FIRST_AT), (_JUMP_IF_EQUAL, 0, 3, PTRACE_SEIZE),
        (_LOAD, 0, 0, _SECOND_AT), (_JUMP_IF_EQUAL, 0, 1, root),
        (_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # SPEC_ALLOW: it is not for security, so CRIU need not run without speculation.
    listener: int = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER | _SPEC_ALLOW, described)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        try:
            listener = install(sys.argv[2], int(sys.argv[3]))
        except OSError as error:
            sock.send(str(error.errno).encode())
        else:
            socket.send_fds(sock, [b"!"], [listener])
            os.close(listener)
    os.execv(sys.argv[4], sys.argv[4:])


if __name__ == "__main__":
    main()
