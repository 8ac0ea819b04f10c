"""Gives orders to the archive program (`python -m checkpoint.archive`): one process an order, gone with its answer."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, TypeVar

import msgspec

from checkpoint.api import ArchiveAnswer
from checkpoint.core.errors import AgentError, Code, from_problem

_MAX_ANSWER_BYTES = 128 << 20
_END_SECONDS = 10.0

_Answer = TypeVar("_Answer")


async def carry_out(order: Any, answer: type[_Answer]) -> _Answer:
    """Have one order carried out; cancelled, it is broken off. Raises AgentError, the program's own too."""
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "checkpoint.archive", stdin=pipe, stdout=pipe, limit=_MAX_ANSWER_BYTES, env=_environment()
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdin.write(msgspec.json.encode(order) + b"\n")
        line = await program.stdout.readline()
    finally:
        program.stdin.close()  # it ends by this, whatever it is doing
        await asyncio.shield(_reap(program))
    return _decoded(line, answer)


def _environment() -> dict[str, str]:
    """Ours, but for an agent that was told to load no certificate authorities: an object store is asked for its own."""
    ours = dict(os.environ)
    if ours.get("SSL_CERT_FILE") == os.devnull:
        del ours["SSL_CERT_FILE"]
    return ours


async def _reap(program: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(program.wait(), _END_SECONDS)
    except TimeoutError:
        program.kill()
        await program.wait()


def _decoded(line: bytes, answer: type[_Answer]) -> _Answer:
    try:
        said = msgspec.json.decode(line, type=ArchiveAnswer)
        if said.error is not None:
            raise from_problem(said.error)
        return msgspec.json.decode(said.answer, type=answer)
    except msgspec.DecodeError as error:
        raise AgentError(Code.INTERNAL, "the archive program ended without an answer: see agent.log") from error
