"""The agent's API (`checkpoint.api`) over HTTP on a unix socket."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from checkpoint.api import (
    MAX_BODY_BYTES,
    Beacon,
    Changes,
    Connections,
    EarlyMemory,
    ErrorBody,
    FetchImages,
    Foresee,
    Health,
    Packed,
    Paired,
    PreDump,
    PrepareInbound,
    PrepareOutbound,
    ReceiveImages,
    ReserveRoom,
    RestoreWorkload,
    Room,
    RunWorkload,
    SendImages,
    StartClone,
    StoreCheckpoint,
    StoreImages,
)
from checkpoint.checkpoints import Checkpoints
from checkpoint.core.errors import AgentError, Code
from checkpoint.custodian import Custodian
from checkpoint.inspection import belongings
from checkpoint.inspection.workload import inspect
from checkpoint.processes import capacity, procfs
from checkpoint.sockets import procnet

_LOG = logging.getLogger(__name__)
_UCRED = struct.Struct("iII")  # unix(7), struct ucred
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Body = TypeVar("_Body")


class Agent:
    """Handlers: each decodes, asks the custodian, and encodes."""

    def __init__(self, custodian: Custodian, checkpoints: Checkpoints, health: Health) -> None:
        self._custodian = custodian
        self._checkpoints = checkpoints
        self._health = health

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_errors, _peers], client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/v1/room", self._get_room)
        app.router.add_get("/v1/workloads", self._get_workloads)
        app.router.add_post("/v1/workloads", self._run)
        app.router.add_get("/v1/workloads/{name}", self._inspect)
        app.router.add_delete("/v1/workloads/{name}", self._kill)
        app.router.add_get("/v1/migrations", self._get_migrations)
        app.router.add_put("/v1/outbound/{migration}", self._prepare_outbound)
        app.router.add_delete("/v1/outbound/{migration}", self._forget_outbound)
        app.router.add_post("/v1/outbound/{migration}/send", self._send)
        app.router.add_post("/v1/outbound/{migration}/store", self._store)
        app.router.add_post("/v1/outbound/{migration}/predump", self._predump)
        app.router.add_post("/v1/inbound/{migration}/look", self._look)
        app.router.add_post("/v1/inbound/{migration}/receive", self._receive)
        app.router.add_post("/v1/outbound/{migration}/stop", self._stop)
        app.router.add_post("/v1/outbound/{migration}/foresee", self._foresee)
        app.router.add_post("/v1/outbound/{migration}/pair", self._pair)
        for step in ("pack", "survey", "ready", "dump", "adopt", "seal", "compare", "commit", "release"):
            app.router.add_post(f"/v1/outbound/{{migration}}/{step}", self._outbound_step(step))
        app.router.add_put("/v1/inbound/{migration}", self._prepare_inbound)
        app.router.add_post("/v1/inbound/{migration}/reserve", self._reserve)
        app.router.add_post("/v1/inbound/{migration}/try", self._try_archive)
        app.router.add_post("/v1/inbound/{migration}/early", self._early)
        app.router.add_post("/v1/inbound/{migration}/stage", self._stage)
        app.router.add_post("/v1/inbound/{migration}/pair", self._make_pairs)
        app.router.add_post("/v1/inbound/{migration}/adjust", self._adjust)
        app.router.add_post("/v1/inbound/{migration}/restore", self._restore)
        app.router.add_post("/v1/inbound/{migration}/resume", self._resume)
        app.router.add_get("/v1/inbound/{migration}/memory", self._memory)
        app.router.add_delete("/v1/inbound/{migration}", self._forget_inbound)
        app.router.add_post("/v1/checkpoints/{image}", self._checkpoint)
        app.router.add_post("/v1/clones/{migration}", self._clone)
        return app

    async def _get_health(self, _: web.Request) -> web.Response:
        uptime_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        return _answer(msgspec.structs.replace(self._health, uptime_seconds=uptime_seconds))

    async def _get_room(self, _: web.Request) -> web.Response:
        return _answer(
            Room(
                memory_bytes=capacity.room_bytes(),
                image_bytes=self._custodian.store.free_bytes(),
                pids=procfs.thread_ids(),
                listening_ports=procnet.listening_ports(),
                own_root=self._custodian.own_root,
                mounts=belongings.mounted(),
                file_bytes=belongings.free_bytes(),
                pid_max=procfs.pid_max(),
                huge_bytes=capacity.free_huge_bytes(),
                most_descriptors=capacity.most_descriptors(),
            )
        )

    async def _get_workloads(self, _: web.Request) -> web.Response:
        return _answer([self._custodian.view(one) for one in self._custodian.workloads.records()])

    async def _run(self, request: web.Request) -> web.Response:
        return _answer(await self._custodian.run(await _body(request, RunWorkload)))

    async def _inspect(self, request: web.Request) -> web.Response:
        record = self._custodian.workloads.get(request.match_info["name"])
        found = inspect(self._custodian.view(record))
        named = request.query.getall("with", [])
        seen, problems, warnings = await asyncio.to_thread(self._custodian.belongings, record, named)
        problems, warnings = [*found.problems, *problems], [*found.warnings, *warnings]
        return _answer(msgspec.structs.replace(found, belongings=seen, problems=problems, warnings=warnings))

    async def _kill(self, request: web.Request) -> web.Response:
        return _answer(await self._custodian.kill(request.match_info["name"]))

    async def _get_migrations(self, _: web.Request) -> web.Response:
        return _answer(self._custodian.all())

    async def _prepare_outbound(self, request: web.Request) -> web.Response:
        wanted = await _body(request, PrepareOutbound)
        return _answer(await self._custodian.prepare_outbound(request.match_info["migration"], wanted))

    async def _send(self, request: web.Request) -> web.Response:
        wanted = await _body(request, SendImages)
        return _answer(await self._custodian.outbound(request.match_info["migration"]).send(wanted))

    async def _store(self, request: web.Request) -> web.Response:
        wanted = await _body(request, StoreImages)
        return _answer(await self._custodian.outbound(request.match_info["migration"]).store(wanted))

    async def _predump(self, request: web.Request) -> web.Response:
        wanted = await _body(request, PreDump)
        return _answer(await self._custodian.outbound(request.match_info["migration"]).predump(wanted))

    async def _foresee(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Foresee)
        return _answer(await self._custodian.outbound(request.match_info["migration"]).foresee(wanted))

    async def _pair(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Paired)
        return _answer(await self._custodian.outbound(request.match_info["migration"]).pair(wanted))

    async def _stop(self, request: web.Request) -> web.Response:
        ahead = request.query.get("ahead") == "1"
        return _answer(await self._custodian.outbound(request.match_info["migration"]).stop(ahead=ahead))

    def _outbound_step(self, step: str) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return _answer(await getattr(self._custodian.outbound(request.match_info["migration"]), step)())

        return handle

    async def _forget_outbound(self, request: web.Request) -> web.Response:
        return _answer(await self._custodian.forget_outbound(request.match_info["migration"]))

    async def _prepare_inbound(self, request: web.Request) -> web.Response:
        wanted = await _body(request, PrepareInbound)
        return _answer(await self._custodian.prepare_inbound(request.match_info["migration"], wanted))

    async def _look(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Beacon)
        return _answer(self._custodian.inbound(request.match_info["migration"]).look(wanted))

    async def _receive(self, request: web.Request) -> web.Response:
        wanted = await _body(request, ReceiveImages)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).receive(wanted))

    async def _reserve(self, request: web.Request) -> web.Response:
        wanted = await _body(request, ReserveRoom)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).reserve(wanted))

    async def _try_archive(self, request: web.Request) -> web.Response:
        wanted = await _body(request, FetchImages)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).try_archive(wanted))

    async def _early(self, request: web.Request) -> web.Response:
        wanted = await _body(request, EarlyMemory)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).early(wanted))

    async def _stage(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Packed)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).stage(wanted))

    async def _make_pairs(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Connections)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).pair(wanted))

    async def _adjust(self, request: web.Request) -> web.Response:
        wanted = await _body(request, Changes)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).adjust(wanted))

    async def _restore(self, request: web.Request) -> web.Response:
        wanted = await _body(request, RestoreWorkload)
        return _answer(await self._custodian.inbound(request.match_info["migration"]).restore(wanted))

    async def _resume(self, request: web.Request) -> web.Response:
        return _answer(await self._custodian.inbound(request.match_info["migration"]).resume())

    async def _memory(self, request: web.Request) -> web.Response:
        return _answer(self._custodian.inbound(request.match_info["migration"]).memory())

    async def _forget_inbound(self, request: web.Request) -> web.Response:
        return _answer(await self._custodian.forget_inbound(request.match_info["migration"]))

    async def _checkpoint(self, request: web.Request) -> web.Response:
        wanted = await _body(request, StoreCheckpoint)
        return _answer(await self._checkpoints.checkpoint(request.match_info["image"], wanted))

    async def _clone(self, request: web.Request) -> web.Response:
        wanted = await _body(request, StartClone)
        return _answer(await self._checkpoints.clone(request.match_info["migration"], wanted))


def listen(path: Path) -> socket.socket:
    """A listening socket that appears at `path` whole and only for its owner: bound beside it, then renamed."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(beside))
    beside.chmod(0o600)
    sock.listen(64)
    sock.setblocking(False)
    beside.rename(path)
    return sock


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def _body(request: web.Request, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise AgentError(Code.BAD_REQUEST, f"the body is no {kind.__name__}: {error}") from error


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The one place where what went wrong becomes an answer."""
    try:
        return await handler(request)
    except AgentError as error:
        return _refusal(error)
    except web.HTTPRequestEntityTooLarge:
        return _refusal(AgentError(Code.TOO_LARGE, f"a body has {MAX_BODY_BYTES} bytes at most"))
    except web.HTTPNotFound:
        return _refusal(AgentError(Code.NOT_FOUND, f"there is nothing at {request.path}"))
    except web.HTTPMethodNotAllowed:
        return _refusal(AgentError(Code.METHOD, f"{request.path} does not take {request.method}"))
    except web.HTTPException as error:
        return _refusal(AgentError(Code.BAD_REQUEST, error.reason))
    except Exception as error:
        _LOG.exception("%s %s", request.method, request.path)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refusal(AgentError(Code.NO_SPACE, f"there is no space left for {error.filename or 'the images'}"))
        return _refusal(AgentError(Code.INTERNAL, f"{type(error).__name__}: {error}"))


@web.middleware
async def _peers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer root and the agent's own user only (SO_PEERCRED, unix(7)); the socket's mode says the same."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        raise AgentError(Code.FORBIDDEN, "the caller is gone")
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid not in (0, os.geteuid()):
        raise AgentError(Code.FORBIDDEN, f"user {uid} may not call the agent")
    return await handler(request)


def _refusal(error: AgentError) -> web.Response:
    return _answer(ErrorBody(error.problem, error.criu_log), error.status)
