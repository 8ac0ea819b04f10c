"""Folders of CRIU's images made up by a test, with CRIU's own message classes."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

from checkpoint.images.pb import Message, Messages
from checkpoint.moves import rehearsal
from tests.harness.solo_agent import CRIU

MESSAGES = Messages(CRIU.parent / "python")
MAGIC = bytes(8)


def inet(number: int, state: int, source: list[int], source_port: int, peer: list[int], peer_port: int) -> Message:
    """A file_entry with one TCP socket."""
    one = rehearsal.socket_entry(MESSAGES, number, state, peer_port)
    one.isk.src_addr[:], one.isk.dst_addr[:] = source, peer
    one.isk.family = 2 if len(source) == 1 else 10
    one.isk.src_port = source_port
    return one


def stream(numbers: dict[str, int]) -> Message:
    fixed = {"opt_mask": 0, "snd_wscale": 0, "mss_clamp": 1460, "unsq_len": 0}
    return MESSAGES.tcp_stream(**fixed | numbers)


def write(folder: Path, name: str, entries: list[Message], tail: bytes = b"") -> None:
    raw = [one.SerializeToString() for one in entries]
    framed = b"".join(len(one).to_bytes(4, "little") + one for one in raw)
    (folder / f"{name}.img").write_bytes(MAGIC + framed + tail)


def core(*, pdeath_sig: int = 0, **registers: int) -> Message:
    """A thread's core_entry; what is not said of its registers is 0."""
    one = MESSAGES.core(mtype=MESSAGES.X86_64)
    for part in (one.thread_info.gpregs, one.thread_info.fpregs, one.thread_core):
        part.SetInParent()
    filled(one)
    for name, value in registers.items():
        setattr(one.thread_info.gpregs, name, value)
    one.thread_core.pdeath_sig = pdeath_sig
    return one


def filled(one: Message) -> Message:
    """The same, what it must have and has not being 0."""
    for missing in one.FindInitializationErrors():
        *way, name = missing.split(".")
        setattr(reduce(getattr, way, one), name, 0)
    return one
