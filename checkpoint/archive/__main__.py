"""`python -m checkpoint.archive`: carries out one order on an archive.

A process of its own, so that the agent has neither the keys in its memory, nor this work's threads beside its event
loop. The order is a line of JSON on standard input, and the answer a line on standard output (`ArchiveAnswer`): no key
and no credential is in argv or in an answer. Whoever gave the order keeps the pipe open; its end breaks the work off.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from checkpoint import api
from checkpoint.archive import keys, lifetime, reader, trial, writer
from checkpoint.archive.objects import Objects
from checkpoint.archive.orders import Read, Try, Write, WriteDone
from checkpoint.core.errors import AgentError, Code, problem
from checkpoint.core.squeeze import Mode

Order = Read | Write | Try | api.ListImages | api.ShowImage | api.DeleteImage | api.CollectImages | api.MakeKey

_MAX_ORDER_BYTES = 64 << 20
_TRIAL_RETRY_SECONDS = 2.0
"""Somebody waits for it, and can ask again: an archive that is down is not waited for."""


def main() -> None:
    os.umask(0o077)  # files 0600, folders 0700, obstore's too
    answer = asyncio.run(_serve())
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    os._exit(0)  # obstore's runtime has threads that wait for nothing


async def _serve() -> api.ArchiveAnswer:
    stream = asyncio.StreamReader(limit=_MAX_ORDER_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    try:
        line = await stream.readline()
        work = asyncio.create_task(_answer(line), name="the order")
        hung_up = asyncio.create_task(stream.read(1), name="whoever gave the order")
        await asyncio.wait({work, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
        hung_up.cancel()
        if work.cancelled():
            return _refusal(AgentError(Code.INTERNAL, "broken off: whoever gave the order is gone"))
        return work.result()
    finally:
        transport.close()


async def _answer(line: bytes) -> api.ArchiveAnswer:
    try:
        order: Order = msgspec.json.decode(line, type=Order)
        return api.ArchiveAnswer(msgspec.Raw(msgspec.json.encode(await _carry_out(order))))
    except msgspec.DecodeError as error:
        return _refusal(AgentError(Code.BAD_REQUEST, f"no order: {error}"))
    except AgentError as error:
        return _refusal(error)
    except Exception as error:
        return api.ArchiveAnswer(error=problem(Code.INTERNAL, f"{type(error).__name__}: {error}"))


def _refusal(error: AgentError) -> api.ArchiveAnswer:
    return api.ArchiveAnswer(error=error.problem)


async def _carry_out(order: Order) -> Any:
    match order:
        case Write():
            return await _write(order)
        case Read():
            with await asyncio.to_thread(keys.load, order.key) as kek:
                objects = Objects(order.archive, make=order.wait_seconds > 0)
                return await reader.read(
                    objects, order.image, kek, Path(order.folder), order.here,
                    wait_seconds=order.wait_seconds, deadline_seconds=order.deadline_seconds,
                )  # fmt: skip
        case Try():
            return await _try(order)
        case api.ListImages():
            return await lifetime.catalogue(Objects(order.archive))
        case api.ShowImage():
            with await asyncio.to_thread(keys.load, order.key) as kek:
                return await reader.read_manifest(Objects(order.archive), order.image, kek)
        case api.DeleteImage():
            return await lifetime.delete(Objects(order.archive), order.image, force=order.force)
        case api.CollectImages():
            return await lifetime.collect(Objects(order.archive), dry_run=order.dry_run)
        case api.MakeKey():
            return await asyncio.to_thread(keys.make, Path(order.file))


async def _try(order: Try) -> None:
    with await asyncio.to_thread(keys.load, order.key) as kek:
        objects = Objects(order.archive, _TRIAL_RETRY_SECONDS, make=order.role != "reader")
        if order.role == "reader":
            await trial.find(objects, order.image, kek)
            return
        await trial.leave(objects, order.image, kek)
        if order.role == "alone":
            await trial.take_away(objects, order.image)


async def _write(order: Write) -> WriteDone:
    with await asyncio.to_thread(keys.load, order.key) as kek:
        done = await writer.write(
            Objects(order.archive, make=True), Path(order.folder), order.draft, kek, ttl_seconds=order.ttl_seconds,
            deadline_seconds=order.deadline_seconds, mode=Mode(order.compression),
        )  # fmt: skip
    ready = done.ready
    return WriteDone(ready.key, len(done.manifest.files), ready.image_bytes, ready.stored_bytes, done.compression)


if __name__ == "__main__":
    main()
