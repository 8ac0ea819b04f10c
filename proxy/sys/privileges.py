"""From root to one capability: CAP_NET_ADMIN, which TCP_REPAIR, IP_TRANSPARENT, routing and nft need, and no other.

`man 7 capabilities`, `man 2 capset`, `man 2 prctl`. To be called when everything is imported: the interpreter's folders
may be closed to the new user.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

CAP_NET_ADMIN = 12
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_libc = ctypes.CDLL(None, use_errno=True)


def drop(uid: int) -> None:
    """Become `uid` (user and group, no others) with exactly CAP_NET_ADMIN. Raises OSError; nothing to do then but end.

    A process that is not root already only needs to have it.
    """
    if os.geteuid() == 0:
        for capability in range(_last_capability() + 1):
            if capability != CAP_NET_ADMIN:
                _prctl(_PR_CAPBSET_DROP, capability)
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _capset(1 << CAP_NET_ADMIN)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if CAP_NET_ADMIN not in effective():
        raise PermissionError(1, "CAP_NET_ADMIN is missing: give it to the container, or start the proxy as root")


def effective() -> set[int]:
    """The numbers of the capabilities in force, read from the kernel."""
    return _bits(status()["CapEff"])


def names(capabilities: set[int]) -> list[str]:
    return ["NET_ADMIN" if number == CAP_NET_ADMIN else f"CAP_{number}" for number in sorted(capabilities)]


def status() -> dict[str, str]:
    """/proc/self/status as a dictionary."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _bits(hexadecimal: str) -> set[int]:
    mask = int(hexadecimal, 16)
    return {number for number in range(64) if mask >> number & 1}


def _last_capability() -> int:
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def _capset(mask: int) -> None:
    """Permitted and effective become `mask` (below 32 bits), inheritable becomes empty."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", mask, mask, 0, 0, 0, 0)
    if _libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
