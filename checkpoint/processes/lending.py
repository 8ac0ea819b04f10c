"""A stopped process that makes system calls for us: what it alone can do to itself, as to receive descriptors.

Its first thread is made to enter the kernel from an instruction that the process has anyway, with registers of ours;
nothing of its memory is touched but a page of its own for the arguments, which is gone afterwards. Its signals wait.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from checkpoint.kernel import Kernel
from checkpoint.processes.tracing import seized, wait


class Abi(NamedTuple):
    """How a machine's programs call the kernel (syscall(2)): which of the words of NT_PRSTATUS is what."""

    words: int
    number: int
    arguments: tuple[int, ...]
    result: int
    address: int
    """Where the thread goes on."""
    instruction: bytes
    mmap: int
    munmap: int
    recvmsg: int
    fcntl: int


_ABIS = {
    "x86_64": Abi(27, 10, (14, 13, 12, 7, 9, 8), 10, 16, b"\x0f\x05", 9, 11, 47, 72),  # K: struct user_regs_struct
    "aarch64": Abi(34, 8, (0, 1, 2, 3, 4, 5), 0, 32, b"\x01\0\0\xd4", 222, 215, 212, 25),  # K: struct user_pt_regs
}
ABI = _ABIS.get(platform.machine())

_WORD = (1 << 64) - 1
_ELF, _ELF_64 = b"\x7fELF", 2  # elf(5), EI_CLASS
_AT_A_CALL = signal.SIGTRAP | 0x80  # PTRACE_O_TRACESYSGOOD
_OTHER_STOPS = 16
_LEAST_ERROR = -4095  # K: err.h, MAX_ERRNO
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22  # mmap(2)


def can_lend(pid: int) -> bool:
    """Whether a process is of a kind that can: its program is for this machine, and not for its 32 bits. Raises
    OSError."""
    if ABI is None:
        return False
    with Path(f"/proc/{pid}/exe").open("rb") as program:
        head = program.read(5)
    return head[:4] == _ELF and head[4] == _ELF_64


class Borrowed:
    """Such a process, while `with` lasts; blocks. Some 75 us a call, and 0.6 ms before the first."""

    def __init__(self, kernel: Kernel, pid: int, room_bytes: int) -> None:
        """`room_bytes` of its memory are ours, for the calls' arguments."""
        if ABI is None:
            raise OSError(errno.ENOSYS, "not known for this machine")
        self._kernel, self._pid, self._abi, self._room_bytes = kernel, pid, ABI, room_bytes
        self._stack = ExitStack()
        self.room = 0
        """Where that is."""

    def __enter__(self) -> Self:
        """Raises OSError."""
        kernel, pid = self._kernel, self._pid
        with ExitStack() as stack:
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, self._memory)
            instruction = _find(pid, self._memory, self._abi.instruction)
            stack.enter_context(seized(kernel, pid))
            before = kernel.words(pid, self._abi.words)
            stack.callback(kernel.set_words, pid, before)
            blocked = kernel.blocked_signals(pid)
            kernel.block_signals(pid, _WORD)
            stack.callback(kernel.block_signals, pid, blocked)
            self._words = [*before]
            self._words[self._abi.address] = instruction
            self.room = self.call(self._abi.mmap, 0, self._room_bytes, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
            stack.callback(self.call, self._abi.munmap, self.room, self._room_bytes)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def call(self, number: int, *arguments: int) -> int:
        """Have it make a system call; gives the result. Raises OSError as the call does."""
        words, abi = [*self._words], self._abi
        words[abi.number] = number
        for at, value in zip(abi.arguments, arguments, strict=False):
            words[at] = value & _WORD
        self._kernel.set_words(self._pid, words)
        self._run_to_call()
        self._run_to_call()
        result = self._kernel.words(self._pid, abi.words)[abi.result]
        if result > _WORD + _LEAST_ERROR:
            error = _WORD + 1 - result
            raise OSError(error, os.strerror(error))
        return result

    def write(self, at: int, raw: bytes) -> None:
        """Into its memory."""
        os.pwrite(self._memory, raw, at)

    def read(self, at: int, size: int) -> bytes:
        return os.pread(self._memory, size, at)

    def _run_to_call(self) -> None:
        for _ in range(_OTHER_STOPS):  # it is told once more that it is stopped
            self._kernel.run_to_call(self._pid)
            if os.WSTOPSIG(wait(self._pid)) == _AT_A_CALL:
                return
        raise OSError(errno.EBUSY, "it does not get to a system call")


def _find(pid: int, memory: int, instruction: bytes) -> int:
    """Where a process has it, in whatever it runs: the kernel's own page first (vdso(7))."""
    areas = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    runs = [one for one in areas if one[1].startswith("r-x") and one[-1] != "[vsyscall]"]
    for bounds, *_ in sorted(runs, key=lambda one: one[-1] != "[vdso]"):
        start, end = (int(word, 16) for word in bounds.split("-"))
        at = os.pread(memory, end - start, start).find(instruction)
        if at >= 0:
            return start + at
    raise OSError(errno.ENOEXEC, "it has no instruction that calls the kernel")
