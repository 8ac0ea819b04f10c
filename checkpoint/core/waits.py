"""Which calls of threads that wait are made again, by the registers of x86-64. Pure.

Two kinds end early, with EINTR: those whose time that is left is in the kernel alone (K: linux/restart_block.h), which
CRIU's dump ends in the copy and in the original alike (criu: compel, get_task_regs), and those that a stop ends even
where no signal is for the program (signal(7)). Programs that get no signals do not expect it. Their arguments are still
in the registers, and nothing was done: the call is made again. It waits its whole time once more, but for one that is
given as a moment and a sleep that has written what is left of it over its own argument, as sleep(3) does. Any other
sleep would be too long by that, and whoever waits for events with a time limit looks at the clock afterwards: those end
early.
"""

from __future__ import annotations

from typing import Protocol

_INTERRUPTED = (1 << 64) - 4  # -EINTR
_SYSCALL_BYTES = 2

# The calls' numbers on x86-64 (asm/unistd_64.h)
_AS_BEFORE = {
    7,  # poll
    *(0, 19, 45, 47, 299, 43, 288),  # read, readv, recvfrom, recvmsg, recvmmsg, accept, accept4: with SO_RCVTIMEO
    *(1, 20, 44, 46, 307),  # write, writev, sendto, sendmsg, sendmmsg: with SO_SNDTIMEO
    *(65, 220, 128),  # semop, semtimedop, rt_sigtimedwait
}
_FUTEX, _COMMAND, _WAIT_BITSET = 202, 0x7F, 9  # linux/futex.h; its limit is a moment, as of sem_timedwait(3)
_EPOLL_WAIT, _EPOLL_PWAIT, _FOR_EVER = 232, 281, 0xFFFFFFFF
_NANOSLEEP, _CLOCK_NANOSLEEP = 35, 230

CALLS = frozenset({*_AS_BEFORE, _FUTEX, _EPOLL_WAIT, _EPOLL_PWAIT, _NANOSLEEP, _CLOCK_NANOSLEEP})
"""Those that may be."""


def may_end_early(call: int, limit: int) -> bool:
    """Whether it is one of them, and not one that begins again by itself: most threads that wait are in a futex without
    a time limit. `limit` is the fourth argument."""
    return call in CALLS and (call != _FUTEX or limit != 0)


class Registers(Protocol):
    """Of a thread that runs 64-bit code."""

    orig_ax: int
    """The call; `di`, `si`, `dx` and `r10` are its arguments, and `ax` its result."""
    di: int
    si: int
    dx: int
    r10: int
    ax: int
    ip: int
    """Where the thread goes on, behind the instruction."""


def go_on(registers: Registers) -> bool:
    """Have the thread make its call again; False where that is not wanted."""
    if registers.ax != _INTERRUPTED or not _may_be_made_again(registers):
        return False
    registers.ax = registers.orig_ax
    registers.ip -= _SYSCALL_BYTES
    return True


def _may_be_made_again(registers: Registers) -> bool:
    call = registers.orig_ax
    if call == _FUTEX:
        return registers.si & _COMMAND == _WAIT_BITSET
    if call in (_EPOLL_WAIT, _EPOLL_PWAIT):
        return registers.r10 & _FOR_EVER == _FOR_EVER
    if call == _NANOSLEEP:
        return registers.di == registers.si
    if call == _CLOCK_NANOSLEEP:
        return registers.dx == registers.r10
    return call in _AS_BEFORE
