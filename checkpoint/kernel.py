"""The system calls of the agent, behind one object: tests and other kernels may bring their own.

Times are seconds of the monotonic clock. Every method raises OSError as the call does; callers translate.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import socket
import stat
import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

_SYS_PIDFD_GETFD = 438  # the same number on every architecture (asm-generic/unistd.h)
_SYS_IOPRIO_SET, _SYS_IOPRIO_GET = {"x86_64": (251, 252), "aarch64": (30, 31)}.get(platform.machine(), (-1, -1))
_SYS_GETDENTS64, _SYS_KCMP = {"x86_64": (217, 312), "aarch64": (61, 272)}.get(platform.machine(), (-1, -1))
_KCMP_FILE, _KCMP_EPOLL_TFD = 0, 7  # linux/kcmp.h
_EPOLL_SLOT = struct.Struct("=III")
_SO_GET_FILTER = 26  # asm-generic/socket.h
_IOPRIO_WHO_PROCESS = 1  # linux/ioprio.h: one thread
TCP_REPAIR = 19  # netinet/tcp.h; Python's socket module has no name for it
_TCP_REPAIR_OFF_NO_WP = -1  # leave repair mode without a window probe (K: tcp.c, do_tcp_setsockopt)

_PTRACE_GETREGS, _PTRACE_SETREGS, _PTRACE_DETACH, _PTRACE_SYSCALL = 12, 13, 17, 24  # linux/ptrace.h
_PTRACE_GETREGSET, _PTRACE_SETREGSET, _NT_PRSTATUS = 0x4204, 0x4205, 1
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_O_TRACESYSGOOD = 0x4206, 0x4207, 1
_PTRACE_GETSIGMASK, _PTRACE_SETSIGMASK, _SIGNAL_SET_BYTES = 0x420A, 0x420B, 8

_CLONE_FILES = 0x400  # linux/sched.h
_EPOLL_CTL_ADD = 1

IN_MODIFY, IN_CLOSE_WRITE = 0x2, 0x8  # linux/inotify.h

_LIBC = ctypes.CDLL(None, use_errno=True)


_REGISTERS = """r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base
                ds es fs gs"""


class Registers(ctypes.Structure):
    """struct user_regs_struct of x86-64 (sys/user.h)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _REGISTERS.split())
    orig_ax: int
    di: int
    si: int
    dx: int
    r10: int
    ax: int
    ip: int
    cs: int


class _Vector(ctypes.Structure):
    """struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Event(ctypes.Structure):
    """struct epoll_event (epoll_ctl(2)), which x86-64 alone packs (K: EPOLL_PACKED)."""

    _pack_ = 1 if platform.machine() == "x86_64" else 8
    _fields_ = (("events", ctypes.c_uint32), ("data", ctypes.c_uint64))


class Shared(IntEnum):
    """What two tasks may have in common (kcmp(2), linux/kcmp.h)."""

    MEMORY = 1
    DESCRIPTORS = 2
    FOLDERS = 3


class Kernel:
    """The real one."""

    def now(self) -> float:
        return time.monotonic()

    def expect_descriptors(self, count: int) -> None:
        """Make this process's table of descriptors large now: growing it later stands still for an RCU grace period, 10
        ms and more, where there are threads (K: fs/file.c, expand_fdtable, synchronize_rcu)."""
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, count))

    def nap(self, seconds: float) -> None:
        """Block for a moment far shorter than the event loop's own clock tells apart (uvloop: 1 ms)."""
        time.sleep(seconds)

    def pidfd_open(self, pid: int) -> int:
        """A descriptor that stays with this process for ever (pidfd_open(2)). The caller closes it."""
        return os.pidfd_open(pid)

    def pidfd_signal(self, pidfd: int, number: signal.Signals) -> None:
        signal.pidfd_send_signal(pidfd, number)

    def forbid_writing(self, pid: int) -> None:
        """Have what a process writes into files fail from now on, with EFBIG (RLIMIT_FSIZE, getrlimit(2)). It is not
        ended by that: like Python, and so like a child of ours, it ignores SIGXFSZ."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))

    def pidfd_getfd(self, pidfd: int, fd: int) -> int:
        """A duplicate of another process's descriptor (pidfd_getfd(2)), close-on-exec. The caller closes it."""
        return self._call(_SYS_PIDFD_GETFD, pidfd, fd, 0)

    def list_folder(self, fd: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        """getdents64(2): the next of what a folder has, as bytes in `buffer`; how many, 0 at the end."""
        return self._call(_SYS_GETDENTS64, fd, buffer, len(buffer))

    def watch_folder(self, path: str, mask: int) -> int:
        """A descriptor that tells of what happens to the files of a folder (inotify(7)). The caller closes it."""
        fd: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0 and _LIBC.inotify_add_watch(fd, os.fsencode(path), mask) >= 0:
            return fd
        error = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(error, os.strerror(error), path)

    def io_priority(self, tid: int) -> int:
        """A thread's class and level (ioprio_set(2)); 0: none of its own. ENOSYS where their numbers are not known."""
        return self._call(_SYS_IOPRIO_GET, _IOPRIO_WHO_PROCESS, tid)

    def set_io_priority(self, tid: int, priority: int) -> None:
        self._call(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, tid, priority)

    def socket_inode(self, fd: int) -> int:
        """0 for what is no socket."""
        found = os.fstat(fd)
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else 0

    def enter_repair(self, sock: socket.socket) -> None:
        """Have a connection send nothing more, not at its end either. Raises OSError for a listening socket."""
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)

    def disconnect(self, sock: socket.socket) -> None:
        """Have a connection in repair mode be none any more, whoever else has it open; nothing is sent (K: tcp.c,
        tcp_disconnect)."""
        unspecified = ctypes.create_string_buffer(16)  # struct sockaddr, AF_UNSPEC
        if _LIBC.connect(sock.fileno(), unspecified, len(unspecified)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def leave_repair(self, sock: socket.socket) -> None:
        """Make a socket that CRIU dumped an ordinary one again; nothing is sent."""
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, _TCP_REPAIR_OFF_NO_WP)

    def in_repair(self, sock: socket.socket) -> bool:
        return sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR) != 0

    def are_one_file(self, one: tuple[int, int], other: tuple[int, int]) -> bool:
        """Whether two descriptors, (PID, number) each, lead to one open file (kcmp(2), KCMP_FILE)."""
        return self._call(_SYS_KCMP, one[0], other[0], _KCMP_FILE, one[1], other[1]) == 0

    def is_shared(self, one: int, other: int, what: Shared) -> bool | None:
        """Whether two processes or threads have one and the same of that; None: one is gone, or the kernel does not
        say."""
        try:
            return self._call(_SYS_KCMP, one, other, what, 0, 0) == 0
        except OSError:
            return None

    def is_watched(self, pid: int, epoll: int, target: int) -> bool:
        """Whether a descriptor leads to the open file that an epoll of its process watches under its number (kcmp(2),
        KCMP_EPOLL_TFD)."""
        slot = ctypes.create_string_buffer(_EPOLL_SLOT.pack(epoll, target, 0))
        return self._call(_SYS_KCMP, pid, pid, _KCMP_EPOLL_TFD, target, slot) == 0

    def has_program(self, sock: socket.SocketType) -> bool:
        """Whether a socket's packet filter is an eBPF program (SO_ATTACH_BPF, socket(7)): one that cannot be had (K:
        net/core/filter.c, sk_get_filter)."""
        length = ctypes.c_uint(0)
        found = _LIBC.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(length))
        return found != 0 and ctypes.get_errno() == errno.EACCES

    def has_filter(self, sock: socket.SocketType) -> bool:
        """Whether a socket has a packet filter (SO_ATTACH_FILTER, socket(7)); its length alone is asked for."""
        length = ctypes.c_uint(0)
        found = _LIBC.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(length))
        return found != 0 or length.value != 0

    def seize(self, tid: int) -> None:
        """Begin to trace a stopped thread; it can be waited for, and looked at then (ptrace(2))."""
        self._ptrace(_PTRACE_SEIZE, tid, ctypes.c_void_p(_PTRACE_O_TRACESYSGOOD))
        self._ptrace(_PTRACE_INTERRUPT, tid)

    def registers(self, tid: int) -> Registers:
        """A traced thread's. On x86-64."""
        found = Registers()
        self._ptrace(_PTRACE_GETREGS, tid, ctypes.byref(found))
        return found

    def set_registers(self, tid: int, wanted: Registers) -> None:
        self._ptrace(_PTRACE_SETREGS, tid, ctypes.byref(wanted))

    def words(self, tid: int, count: int) -> list[int]:
        """The general registers of a traced thread, in the kernel's order. Raises OSError EBADMSG where they are not
        that many."""
        found = (ctypes.c_uint64 * count)()
        vector = _Vector(ctypes.cast(found, ctypes.c_void_p), ctypes.sizeof(found))
        self._ptrace(_PTRACE_GETREGSET, tid, ctypes.byref(vector), _NT_PRSTATUS)
        if vector.length != ctypes.sizeof(found):
            raise OSError(errno.EBADMSG, "the thread runs code of another kind")
        return list(found)

    def set_words(self, tid: int, words: Sequence[int]) -> None:
        wanted = (ctypes.c_uint64 * len(words))(*words)
        vector = _Vector(ctypes.cast(wanted, ctypes.c_void_p), ctypes.sizeof(wanted))
        self._ptrace(_PTRACE_SETREGSET, tid, ctypes.byref(vector), _NT_PRSTATUS)

    def blocked_signals(self, tid: int) -> int:
        """A traced thread's, a bit each."""
        found = ctypes.c_uint64()
        self._ptrace(_PTRACE_GETSIGMASK, tid, ctypes.byref(found), _SIGNAL_SET_BYTES)
        return found.value

    def block_signals(self, tid: int, wanted: int) -> None:
        self._ptrace(_PTRACE_SETSIGMASK, tid, ctypes.byref(ctypes.c_uint64(wanted)), _SIGNAL_SET_BYTES)

    def run_to_call(self, tid: int) -> None:
        """Let a traced thread run until it enters or leaves a system call."""
        self._ptrace(_PTRACE_SYSCALL, tid)

    def let_go(self, tid: int) -> None:
        """Trace it no more: it stands still as before."""
        self._ptrace(_PTRACE_DETACH, tid)

    def unshare_descriptors(self) -> None:
        """Have this thread a table of descriptors of its own from now on (unshare(2), CLONE_FILES)."""
        if _LIBC.unshare(_CLONE_FILES) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def watch(self, epoll: int, number: int, events: int, data: int) -> None:
        """Have an epoll watch one of our descriptors, under its number here (epoll_ctl(2))."""
        if _LIBC.epoll_ctl(epoll, _EPOLL_CTL_ADD, number, ctypes.byref(_Event(events, data))) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def _ptrace(self, request: int, tid: int, data: Any = None, address: int = 0) -> None:
        if _LIBC.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), data) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def _call(self, number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
        """A system call that the C library has no function for."""
        found: int = _LIBC.syscall(number, *arguments)
        if found < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return found
