"""A machine of its own for each pytest process, so that any number of them, a demo and a user's pods share this one.

Links, addresses, ports, nft tables and rules are the network namespace's, mounts and image folders the mount
namespace's, System V's memory the IPC namespace's. Files and processes are still the real machine's.
A look inside from outside: `nsenter --target PID --net --mount --ipc`.
"""

from __future__ import annotations

import ctypes
import subprocess

from controller.lab import init
from controller.lab.home import IMAGES


def enter() -> None:
    """Moves this thread, and what it starts from now on, to a machine without a network, a mount or an image of others.

    Does nothing where that is forbidden: no pod can be made there either. Raises OSError.
    """
    try:
        init.libc_call("unshare", init.CLONE_NEWNET | init.CLONE_NEWNS | init.CLONE_NEWIPC)
    except PermissionError:
        return
    init.libc_call("mount", None, b"/", None, ctypes.c_ulong(init.MS_REC | init.MS_PRIVATE), None)
    flags = ctypes.c_ulong(init.MS_NOSUID | init.MS_NODEV)
    init.libc_call("mount", b"tmpfs", str(IMAGES).encode(), b"tmpfs", flags, b"mode=1777")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
