"""The program that looks after archives (`python -m checkpoint.archive`), run for one order each time."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, TypeVar

import msgspec

import checkpoint.api as agent_api
from controller.core.errors import Answered, MidstreamError

_MAX_ANSWER_BYTES = 128 << 20
_REFUSED = 400

T = TypeVar("T")


async def carry_out(order: Any, answer: type[T]) -> T:
    """Has one order carried out by the archive program.

    Raises:
        Answered: it refused, in its own words.
        MidstreamError: it ended without an answer.
    """
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "checkpoint.archive", stdin=pipe, stdout=pipe, limit=_MAX_ANSWER_BYTES
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdin.write(msgspec.json.encode(order) + b"\n")
        line = await program.stdout.readline()
    finally:
        program.stdin.close()
        await program.wait()
    return _decoded(line, answer)


def _decoded(line: bytes, answer: type[T]) -> T:
    try:
        said = msgspec.json.decode(line, type=agent_api.ArchiveAnswer)
        if (problem := said.error) is not None:
            raise Answered(_REFUSED, problem.code, problem.message, problem.fault, problem.hint)
        return msgspec.json.decode(said.answer, type=answer)
    except msgspec.DecodeError as error:
        raise MidstreamError("no-answer", "the archive program ended without an answer") from error
