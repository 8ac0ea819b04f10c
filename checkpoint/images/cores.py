"""Edit the threads of a dump: what CRIU would have the copy find that SIGSTOP and SIGCONT would not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from checkpoint.core import waits
from checkpoint.images import files
from checkpoint.images.folder import entries
from checkpoint.images.pb import Message, Messages, framed

_HEADER_BYTES = 8


def edit(folder: Path, messages: Messages, root: Iterable[int]) -> None:
    """Their waits go on, and the root, whose threads these are, does not die with CRIU. Raises AgentError
    IMAGE_DAMAGED."""
    roots = {f"core-{tid}.img" for tid in root}
    for path in folder.glob("core-*.img"):
        (core,) = entries(str(path), messages.core)
        if _go_on(core, messages) | (path.name in roots and _forget_parent(core)):
            files.write(str(path), files.read(str(path))[:_HEADER_BYTES] + framed(core))


def _go_on(core: Message, messages: Messages) -> bool:
    """On x86-64 alone: elsewhere a call's result takes an argument's place."""
    registers = core.thread_info.gpregs
    return core.mtype == messages.X86_64 and registers.mode == messages.NATIVE and waits.go_on(registers)


def _forget_parent(core: Message) -> bool:
    """The root's parent is the pod's PID 1, which it does not outlive. Where a signal at the parent's end is set
    (PR_SET_PDEATHSIG), it would come from CRIU, whose child the copy is at first."""
    if not core.thread_core.pdeath_sig:
        return False
    core.thread_core.pdeath_sig = 0
    return True
