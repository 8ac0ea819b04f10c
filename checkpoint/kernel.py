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
_SYS_KCMP, _SYS_BPF = {"x86_64": (312, 321), "aarch64": (272, 280)}.get(platform.machine(), (-1, -1))
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

_BPF_PROG_LOAD, _BPF_LINK_CREATE, _BPF_ITER_CREATE = 5, 28, 33  # linux/bpf.h
_BPF_TRACING, _BPF_TRACE_ITER = 26, 28
_BPF_LICENCE = b"Dual BSD/GPL"
"""The helpers that look into the kernel are for such programs alone (K: Documentation/bpf/bpf_licensing.rst)."""
_BPF_INSTRUCTION_BYTES = 8
_BPF_LOAD = struct.Struct("=IIQQ")
"""union bpf_attr, its first members: kind, instructions, their address, that of the licence."""
_BPF_ATTACH = struct.Struct("=I36xI4x")
"""expected_attach_type, and attach_btf_id behind it."""
_BPF_ATTACH_AT = 68
_BPF_LINK = struct.Struct("=I4xI4xQI4x")
"""prog_fd, attach_type, iter_info, iter_info_len."""
_BPF_TASK = struct.Struct("=8xI4x")
"""union bpf_iter_link_info: a process by its pidfd."""
_BPF_ITER = struct.Struct("=I4x")

_CLONE_FILES = 0x400  # linux/sched.h
_EPOLL_CTL_ADD = 1

_TMPFS_MAGIC = 0x01021994  # linux/magic.h

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

    def watch_folder(self, path: str, mask: int) -> int:
        """A descriptor that tells of what happens to the files of a folder (inotify(7)). The caller closes it."""
        fd = _done(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            _done(_LIBC.inotify_add_watch(fd, os.fsencode(path), mask), path)
        except OSError:
            os.close(fd)
            raise
        return fd

    def is_tmpfs(self, path: str) -> bool:
        """Whether what is written there is in memory (statfs(2))."""
        found = (ctypes.c_long * 32)()  # struct statfs has 15 of them, and begins with the type
        if _LIBC.statfs(os.fsencode(path), found) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        return int(found[0]) == _TMPFS_MAGIC

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

    def disconnect(self, sock: socket.SocketType) -> None:
        """Have a connection be none any more, whoever else has it open; in repair mode nothing is sent, else a reset
        (K: tcp.c, tcp_disconnect)."""
        unspecified = ctypes.create_string_buffer(16)  # struct sockaddr, AF_UNSPEC
        _done(_LIBC.connect(sock.fileno(), unspecified, len(unspecified)))

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
        error, _ = self._filter_of(sock)
        return error == errno.EACCES

    def has_filter(self, sock: socket.SocketType) -> bool:
        """Whether a socket has a packet filter (SO_ATTACH_FILTER, socket(7))."""
        error, length = self._filter_of(sock)
        return error != 0 or length != 0

    def _filter_of(self, sock: socket.SocketType) -> tuple[int, int]:
        """Why it cannot be had, or 0, and its length, which alone is asked for."""
        length = ctypes.c_uint(0)
        failed = _LIBC.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(length))
        return ctypes.get_errno() if failed else 0, length.value

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
        _done(_LIBC.unshare(_CLONE_FILES))

    def watch(self, epoll: int, wanted: Sequence[tuple[int, int, int]]) -> None:
        """Have an epoll watch descriptors of ours: number here, events, data (epoll_ctl(2)). 2 us each."""
        events = (_Event * len(wanted))(*(_Event(*one[1:]) for one in wanted))
        address, size, call = ctypes.addressof(events), ctypes.sizeof(_Event), _LIBC.epoll_ctl
        for index, (number, *_) in enumerate(wanted):
            _done(call(epoll, _EPOLL_CTL_ADD, number, ctypes.c_void_p(address + size * index)))

    def load_iterator(self, program: bytes, function: int) -> int:
        """A descriptor of a BPF program that stands for this function of the kernel's, by its number in BTF (bpf(2),
        BPF_PROG_LOAD). The caller closes it."""
        code = ctypes.create_string_buffer(program, len(program))
        licence = ctypes.create_string_buffer(_BPF_LICENCE)
        count = len(program) // _BPF_INSTRUCTION_BYTES
        head = _BPF_LOAD.pack(_BPF_TRACING, count, ctypes.addressof(code), ctypes.addressof(licence))
        attach = _BPF_ATTACH.pack(_BPF_TRACE_ITER, function)
        return self._bpf(_BPF_PROG_LOAD, head.ljust(_BPF_ATTACH_AT, b"\0") + attach)

    def iterate(self, program: int, pidfd: int) -> int:
        """A descriptor that is read for what the program says of this process (BPF_ITER_CREATE). The caller closes
        it."""
        task = ctypes.create_string_buffer(_BPF_TASK.pack(pidfd))
        attributes = _BPF_LINK.pack(program, _BPF_TRACE_ITER, ctypes.addressof(task), len(task))
        link = self._bpf(_BPF_LINK_CREATE, attributes)
        try:
            return self._bpf(_BPF_ITER_CREATE, _BPF_ITER.pack(link))
        finally:
            os.close(link)

    def _bpf(self, command: int, attributes: bytes) -> int:
        return self._call(_SYS_BPF, command, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes))

    def _ptrace(self, request: int, tid: int, data: Any = None, address: int = 0) -> None:
        _done(_LIBC.ptrace(ctypes.c_long(request), ctypes.c_long(tid), ctypes.c_void_p(address), data))

    def _call(self, number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
        """A system call that the C library has no function for."""
        return _done(_LIBC.syscall(number, *arguments))


def _done(result: int, path: str | None = None) -> int:
    """What a function of the C library gave. Raises OSError where that says that it failed."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return result
