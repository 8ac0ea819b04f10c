"""The control API (`proxy.api`) over HTTP, and the little of it that anybody may see over TCP."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from proxy import metrics
from proxy.api import MAX_BODY_BYTES, ErrorBody, Legs, Orphan, PrepareInbound, PrepareOutbound, Switch, TakeOver
from proxy.core.errors import Code, ProxyError
from proxy.io.plane import Plane

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = TypeVar("Body", bound=msgspec.Struct)
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_encode = msgspec.json.Encoder().encode
_BY_STATUS = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.TOO_LARGE}


class Control:
    """Turns requests into calls of the plane. `start_uid` is who started the proxy: it and root may call."""

    def __init__(self, plane: Plane, start_uid: int) -> None:
        self._plane = plane
        self._allowed = {0, start_uid}
        self._registry = metrics.registry(plane)

    def application(self) -> web.Application:
        """Everything, for the unix socket."""
        made = web.Application(middlewares=[errors_as_json, self._only_the_pods_own], client_max_size=MAX_BODY_BYTES)
        made.add_routes(self._public())
        made.add_routes(
            [
                web.get("/v1/flows", self._flows),
                web.get("/v1/listeners", self._listeners),
                web.post("/v1/switch", self._switch),
                web.put("/v1/outbound/{migration}", self._prepare_outbound),
                web.post("/v1/outbound/{migration}/repoint", self._repoint),
                web.get("/v1/outbound/{migration}/ledger", self._outbound_ledger),
                web.delete("/v1/outbound/{migration}", self._release_outbound),
                web.put("/v1/inbound/{migration}", self._prepare_inbound),
                web.post("/v1/inbound/{migration}/ahead", self._ahead),
                web.post("/v1/inbound/{migration}/legs", self._legs),
                web.post("/v1/inbound/{migration}/resume", self._resume),
                web.get("/v1/inbound/{migration}/ledger", self._inbound_ledger),
                web.post("/v1/inbound/{migration}/takeover", self._take_over),
                web.post("/v1/inbound/{migration}/orphan", self._orphan),
                web.delete("/v1/inbound/{migration}", self._release_inbound),
            ]
        )
        return made

    def public_application(self) -> web.Application:
        """Health and metrics only, for the TCP port."""
        made = web.Application(middlewares=[errors_as_json], client_max_size=1024)
        made.add_routes(self._public())
        return made

    def _public(self) -> list[web.RouteDef]:
        return [web.get("/healthz", self._health), web.get("/metrics", self._metrics)]

    @web.middleware
    async def _only_the_pods_own(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        uid = peer_uid(request)
        if uid not in self._allowed:
            raise ProxyError(Code.FORBIDDEN, f"uid {uid} may not control this proxy")
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return _answer(self._plane.health())

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(self._registry), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _flows(self, request: web.Request) -> web.Response:
        return _answer(self._plane.views())

    async def _listeners(self, request: web.Request) -> web.Response:
        return _answer(self._plane.listeners())

    async def _switch(self, request: web.Request) -> web.Response:
        return _answer(await self._plane.switch(await _body(request, Switch)))

    async def _prepare_outbound(self, request: web.Request) -> web.Response:
        plan = await _body(request, PrepareOutbound)
        return _answer(await self._plane.prepare_outbound(_name(request), plan))

    async def _repoint(self, request: web.Request) -> web.Response:
        return _answer(self._plane.repoint(_name(request)))

    async def _outbound_ledger(self, request: web.Request) -> web.Response:
        return _answer(self._plane.outbound_ledger(_name(request)))

    async def _release_outbound(self, request: web.Request) -> web.Response:
        return _answer(self._plane.release_outbound(_name(request), _force(request)))

    async def _prepare_inbound(self, request: web.Request) -> web.Response:
        return _answer(self._plane.prepare_inbound(_name(request), await _body(request, PrepareInbound)))

    async def _ahead(self, request: web.Request) -> web.Response:
        return _answer(self._plane.build_ahead(_name(request), await _body(request, Legs)))

    async def _legs(self, request: web.Request) -> web.Response:
        return _answer(self._plane.build(_name(request), await _body(request, Legs)))

    async def _resume(self, request: web.Request) -> web.Response:
        return _answer(self._plane.resume(_name(request)))

    async def _inbound_ledger(self, request: web.Request) -> web.Response:
        return _answer(self._plane.inbound_ledger(_name(request)))

    async def _take_over(self, request: web.Request) -> web.Response:
        return _answer(self._plane.take_over(_name(request), await _body(request, TakeOver)))

    async def _orphan(self, request: web.Request) -> web.Response:
        return _answer(self._plane.orphan(_name(request), await _body(request, Orphan)))

    async def _release_inbound(self, request: web.Request) -> web.Response:
        return _answer(self._plane.release_inbound(_name(request), _force(request)))


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is answered with an ErrorBody, aiohttp's own refusals too."""
    try:
        return await handler(request)
    except ProxyError as error:
        return _refuse(error)
    except web.HTTPException as error:
        code = _BY_STATUS.get(error.status, Code.BAD_REQUEST)
        return _refuse(ProxyError(code, f"{request.method} {request.path}: {error.reason}"))
    except Exception:
        log.exception("%s %s", request.method, request.path)
        return _refuse(ProxyError(Code.INTERNAL, f"{request.method} {request.path} failed"))


def peer_uid(request: web.Request) -> int:
    """Who is at the other end of the unix socket, as the kernel says (man 7 unix, SO_PEERCRED)."""
    transport = request.transport
    if transport is None:
        raise ProxyError(Code.FORBIDDEN, "the caller has gone")
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
        _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


async def _body(request: web.Request, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise ProxyError(Code.BAD_REQUEST, f"the body: {error}") from error


def _name(request: web.Request) -> str:
    return request.match_info["migration"]


def _force(request: web.Request) -> bool:
    return request.query.get("force") == "1"


def _answer(value: object) -> web.Response:
    return web.Response(body=_encode(value), content_type="application/json")


def _refuse(error: ProxyError) -> web.Response:
    body = _encode(ErrorBody(error.problem()))
    return web.Response(status=error.code.status, body=body, content_type="application/json")
