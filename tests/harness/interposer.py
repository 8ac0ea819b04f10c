"""Stands between the controller and a sidecar and lets one call go wrong, as a broken pod would.

The sidecar's socket is renamed (a bound unix socket is reached by its new name just as well) and a small HTTP server
takes its place: it passes every call on, except those it was told to spoil. The product knows nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple

import aiohttp
from aiohttp import web


class Spoil(Enum):
    REFUSE = "answer 507 without passing the call on"
    SWALLOW = "pass the call on and cut the connection instead of answering"
    HANG = "hold the call back until released"


class Call(NamedTuple):
    """One call to a sidecar, which comes after `spare` such calls."""

    party: Literal["agent", "proxy"]
    method: str
    ending: str
    """Of its path."""
    spare: int = 0


DESTINATION_REFUSES = {
    "Preflight": Call("agent", "GET", "/v1/room"),
    "Preparing (agent)": Call("agent", "PUT", ""),
    "Preparing (proxy)": Call("proxy", "PUT", ""),
    "Adopting": Call("proxy", "POST", "/legs"),
    "Transferring": Call("proxy", "POST", "/legs", spare=1),
    "Restoring": Call("agent", "POST", "/restore"),
}
"""Where the destination has a say before the commit: which of its sidecars refuses which call."""


class Interposer:
    """What is spoilt, and what has come by."""

    def __init__(self, real: Path) -> None:
        self._real = real
        self._spoilt: dict[tuple[str, str], Spoil] = {}
        self._spared: dict[tuple[str, str], int] = {}
        self.seen: list[str] = []
        self.reached = asyncio.Event()
        """Set when a spoilt call has arrived."""
        self.release = asyncio.Event()
        """Lets the calls that hang go on."""

    def spoil(self, method: str, ending: str, how: Spoil, spare: int = 0) -> None:
        """From now on, the first `spare` of them excepted: calls of `method` whose path ends with `ending`."""
        self._spoilt[method, ending] = how
        self._spared[method, ending] = spare

    def heal(self) -> None:
        self._spoilt.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        how = self._fate(request)
        if how is not None:
            self.reached.set()
        if how is Spoil.REFUSE:
            problem = {"code": "refused-by-test", "message": "the destination says no", "fault": "pod", "hint": ""}
            return web.json_response({"error": problem}, status=507)
        if how is Spoil.HANG:
            await self.release.wait()
        answer = await self._pass_on(request)
        if (answer is None or how is Spoil.SWALLOW) and request.transport is not None:
            request.transport.abort()
        return answer or web.Response()

    def _fate(self, request: web.Request) -> Spoil | None:
        for (method, ending), how in self._spoilt.items():
            if method == request.method and request.path.endswith(ending):
                self._spared[method, ending] -= 1
                return how if self._spared[method, ending] < 0 else None
        return None

    async def _pass_on(self, request: web.Request) -> web.Response | None:
        """None: nobody answers, or nobody asks any more."""
        connector, url, data = (
            aiohttp.UnixConnector(str(self._real)),
            f"http://sidecar{request.path_qs}",
            request.read(),
        )
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.request(request.method, url, data=await data) as answer,
            ):
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except (aiohttp.ClientError, ConnectionError):
            return None


@asynccontextmanager
async def between(socket: Path) -> AsyncIterator[Interposer]:
    """An interposer in front of the sidecar that serves `socket`; gone again afterwards."""
    real = socket.with_suffix(".real")
    socket.rename(real)
    interposer = Interposer(real)
    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{path:.*}", interposer.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    ours = socket.stat().st_ino
    try:
        yield interposer
    finally:
        interposer.release.set()
        await runner.cleanup()
        if socket.stat().st_ino == ours:
            real.rename(socket)
        else:  # a sidecar that was started anew has taken its place back
            real.unlink()
