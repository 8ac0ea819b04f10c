"""Where images are kept, and the program that looks after them there (`python -m checkpoint.archive`)."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import checkpoint.api as agent_api
from controller.core.errors import Answered, MidstreamError, Refused

DEFAULT = "/var/lib/midstream/images"

OPTIONS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_SKIP_SIGNATURE", "GOOGLE_SERVICE_ACCOUNT"),
    *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
)
"""The environment variables that are an archive's options, under their usual names."""

_MAX_ANSWER_BYTES = 128 << 20
_REFUSED = 400

T = TypeVar("T")


_MISTYPED = re.compile(r"(s3|gs|az|abfs|https?|file)(:|//)", re.IGNORECASE)
"""The beginning of a URL, where it is none: nobody's folder is called that."""


def archive_at(place: str) -> agent_api.Archive:
    """A folder (made absolute, for the agent's folder is another) or a URL, with its options from the environment.

    Raises Refused for what can be neither: a folder would be made of it.
    """
    if "://" not in place:
        if not place or _MISTYPED.match(place):
            hint = "say a folder, or a URL like s3://BUCKET/PREFIX"
            raise Refused("bad-archive", f"{place!r} is neither a folder nor a URL", "request", hint)
        return agent_api.Archive(str(Path(place).absolute()))
    return agent_api.Archive(place, {name.lower(): os.environ[name] for name in OPTIONS if os.environ.get(name)})


def key_source(file: Path | None, command: str | None) -> agent_api.KeySource:
    """Raises Refused where no key, or two, are named."""
    if file and command:
        message = f"an image is sealed with one key, and two are named: the file {file} and a command"
        raise Refused("two-keys", message, "request", "see MIDSTREAM_KEY_FILE and MIDSTREAM_KEY_COMMAND, too")
    if not (file or command):
        hint = "midstream images key FILE makes one; then say --key-file FILE, or set MIDSTREAM_KEY_FILE"
        raise Refused("no-key", "an image is sealed with a key: name its file or a command", "request", hint)
    return agent_api.KeySource(str(file.absolute()) if file else "", command or "")


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
