"""Threads that wait in poll(2) when they are dumped go on waiting in the copy.

What is left of a wait with a time limit is in the kernel alone (K: linux/restart_block.h), so CRIU has such a call end
early, with EINTR (criu: compel, get_task_regs). After SIGSTOP and SIGCONT poll does not do that, and programs that get
no signals do not expect it. Its arguments are still in the registers: it is made again, and waits its whole time. A
sleep would be too long by that, so it ends early; and of a wait that had been interrupted before nothing more is known.
"""

from __future__ import annotations

from pathlib import Path

from checkpoint.core import polls
from checkpoint.images import files
from checkpoint.images.folder import entries, framed
from checkpoint.images.pb import Messages

_HEADER_BYTES = 8


def restart_polls(folder: Path, messages: Messages) -> int:
    """Edits the images of a dump; gives how many threads it was. On x86-64: elsewhere the result takes an argument's
    place. Raises AgentError IMAGE_DAMAGED."""
    return sum(_restart(str(path), messages) for path in folder.glob("core-*.img"))


def _restart(path: str, messages: Messages) -> bool:
    (core,) = entries(path, messages.core)
    if core.mtype != messages.X86_64:
        return False
    registers = core.thread_info.gpregs
    found = polls.again(registers.orig_ax, registers.ax, registers.ip)
    if found is None:
        return False
    registers.ax, registers.ip = found
    files.write(path, files.read(path)[:_HEADER_BYTES] + framed(core))
    return True
