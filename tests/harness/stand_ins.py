"""Pods in which nothing runs: records, and sidecars that answer as they are told, on the real sockets."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from checkpoint.api import ErrorBody, Problem
from controller.lab.pod import Pod, save
from controller.lab.process import Process
from tests.harness.leaks import fresh_home


class Sidecar:
    """An agent or a proxy, as far as its answers go. A call that nobody has put down an answer for is refused."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        """Method and path of each call, and what was said with it."""
        self.answers: dict[str, Any] = {}
        """By method and path."""
        self.refusals: dict[str, ErrorBody] = {}
        """Those calls that fail, with status 500."""

    @property
    def calls(self) -> list[str]:
        return [call for call, _ in self.asked]

    async def handle(self, request: web.Request) -> web.Response:
        raw, call = await request.read(), f"{request.method} {request.rel_url}"
        self.asked.append((call, msgspec.json.decode(raw) if raw else None))
        if call in self.answers:
            return web.Response(body=msgspec.json.encode(self.answers[call]))
        if call in self.refusals:
            return web.Response(status=500, body=msgspec.json.encode(self.refusals[call]))
        problem = Problem("not-put-down", f"{call} is not expected", "request")
        return web.Response(status=404, body=msgspec.json.encode(ErrorBody(problem)))


class Stand:
    """One pod of them."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.agent, self.proxy = Sidecar(), Sidecar()


@asynccontextmanager
async def stands(*names: str, **options: Any) -> AsyncIterator[tuple[Path, list[Stand]]]:
    """A home with such pods, and they. Their first process is the test's own. `options`: a `Pod`'s."""
    home = fresh_home()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        made = [Stand(_record(home, index, name, options)) for index, name in enumerate(names, 1)]
        for one in made:
            await stack.enter_async_context(_serving(one.agent, one.pod.agent_socket))
            await stack.enter_async_context(_serving(one.proxy, one.pod.proxy_socket))
        yield home, made


def _record(home: Path, index: int, name: str, options: dict[str, Any]) -> Pod:
    folder = home / "pods" / name
    (folder / "proxy").mkdir(parents=True)
    us = Process.of(os.getpid())
    made = Pod(
        name, index, f"198.18.41.{index}", f"fd00::{index}", str(folder), link="", images="", pid1=us.pid,
        start_ticks=us.start_ticks, complete=True, **options,
    )  # fmt: skip
    save(made)
    return made


@asynccontextmanager
async def _serving(sidecar: Sidecar, socket: Path) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(sidecar.handle))
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        yield
    finally:
        await runner.cleanup()
