"""The load as the controller sees it: a child process that says events and is told to stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from controller.demo.options import Options, command_line
from controller.demo.report import DECODER, Event, Failed, Ready, Report, Tick

T = TypeVar("T")

LINE_BYTES = 64 << 20
"""A report has a line to itself: about 60 bytes for each new connection that was tried."""
SPARE_SECONDS = 5.0
"""How much longer than the load's own deadline to wait for its report."""


class LoadError(Exception):
    """The load did not begin, died, or did not answer in time. Says what it said itself, where it said anything."""


class LoadProcess:
    """Start with `start`, then `ready`, then as long as wanted, then `stop`; always `close` (or use `async with`)."""

    def __init__(self, process: asyncio.subprocess.Process, options: Options, on_tick: Callable[[Tick], None]) -> None:
        self.process = process
        self._options, self._on_tick = options, on_tick
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self._report: asyncio.Future[Report] = loop.create_future()
        self._reading = loop.create_task(self._read(), name="demo-load-events")

    @classmethod
    async def start(
        cls, options: Options, on_tick: Callable[[Tick], None] = lambda tick: None, prefix: Sequence[str] = ()
    ) -> LoadProcess:
        """Start the load. `prefix` is put before its command, for instance `nsenter --net=…`."""
        process = await asyncio.create_subprocess_exec(
            *prefix,
            sys.executable,
            "-m",
            "controller.demo.load",
            *command_line(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        return cls(process, options, on_tick)

    async def __aenter__(self) -> LoadProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ready(self) -> Ready:
        """Wait until everything is connected and answers. Raises `LoadError` when that does not come about."""
        return await self._within(self._ready, 2 * self._options.ready_seconds)

    async def stop(self) -> Report:
        """Have it finish and report. Raises `LoadError`."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        return await self._within(self._report, self._options.drain_seconds)

    async def close(self) -> None:
        """End it, whatever it does: its stdin closes, and if that is not enough it is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), SPARE_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reading
        for future in (self._ready, self._report):
            if not future.cancel():
                future.exception()  # asked for, so that asyncio does not complain that nobody did

    async def _within(self, future: asyncio.Future[T], seconds: float) -> T:
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds + SPARE_SECONDS)
        except TimeoutError:
            raise LoadError(f"the load said nothing for {seconds + SPARE_SECONDS:g} s") from None

    async def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            async for line in self.process.stdout:
                self._take(DECODER.decode(line))
        except (msgspec.MsgspecError, ValueError) as error:
            self._fail(f"the load said what is no event: {error}")
        code = await self.process.wait()
        self._fail(f"the load ended with status {code}")

    def _take(self, event: Event) -> None:
        match event:
            case Tick():
                self._on_tick(event)
            case Ready():
                self._ready.set_result(event)
            case Report():
                self._report.set_result(event)
            case Failed():
                self._fail(event.message)

    def _fail(self, message: str) -> None:
        for future in (self._ready, self._report):
            if not future.done():
                future.set_exception(LoadError(message))
