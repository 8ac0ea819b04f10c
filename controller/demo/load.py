"""The load of `midstream demo`: a process of its own in the client's pod.

    python -m controller.demo.load --host 10.88.0.2 --port 6379 --connections 64

It prints one `controller.demo.report.Event` a line on stdout: "ready" when everything is connected and answers, "tick"
about ten times a second, "report" at the end, or "failed". It reads one command on stdin, "stop": then it asks nothing
new, waits for what is due, makes the last checks and reports. When stdin closes before that, it is an orphan and exits.

Exit status: 0 reported (the report says whether anything was lost), 1 failed to begin, 3 took too long, 4 orphaned.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import select
import sys
import time
from collections.abc import Callable, Sequence
from enum import IntEnum

import msgspec
import uvloop

from controller.demo import options as command_line
from controller.demo.exchange import Asker, Peer
from controller.demo.filler import Filling, Toucher, fill
from controller.demo.options import Options
from controller.demo.pacer import Pacer
from controller.demo.peers import Bulk, Counter, Pattern, Publisher, Subscriber
from controller.demo.prober import Prober
from controller.demo.report import MISTAKES_KEPT, Event, Failed, Ready, Report, Tick
from controller.demo.wire import Wire, connect

STEADY_EXCHANGES = 5
"""Pipelines a connection must have had answered before the load calls itself ready."""
COALESCE_SECONDS = 0.005
"""What happens within this time is looked at together: 10,000 connections cannot be looked at after every reply."""
STDIN, STDOUT = 0, 1


class Exit(IntEnum):
    REPORTED = 0
    FAILED = 1
    TOO_LONG = 3
    ORPHANED = 4


class Control:
    """The two pipes to whoever started the load."""

    def __init__(self, orphaned: Callable[[], object]) -> None:
        self.stop = asyncio.Event()
        self._orphaned = orphaned
        self._line = b""

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(STDIN, self._readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(STDIN)

    def say(self, event: Event) -> None:
        """Write a line, however long the reader takes."""
        line = memoryview(msgspec.json.encode(event) + b"\n")
        while line:
            line = line[os.write(STDOUT, line) :]

    def mention(self, event: Event) -> None:
        """Write a line if the reader has room for it: a tick is not worth waiting for."""
        if select.select([], [STDOUT], [], 0)[1]:
            self.say(event)

    def _readable(self) -> None:
        data = os.read(STDIN, 4096)
        self._line += data
        if b"stop\n" in self._line:
            self.stop.set()
        if not data:
            self.close()
            if not self.stop.is_set():
                self._orphaned()


class Load:
    """All the connections, from the first SYN to the report."""

    def __init__(self, options: Options, control: Control) -> None:
        self._options, self._control = options, control
        prefix = f"midstream:{secrets.token_hex(4)}"
        pattern = Pattern(options.bulk_value_bytes)
        self._counters = [Counter(f"counter{n}", prefix) for n in range(options.connections)]
        self._subscribers = [Subscriber(f"subscriber{n}", prefix, options.channels) for n in range(options.subscribers)]
        self._publishers = [Publisher("publisher", prefix, options.channels, self._subscribers)] * bool(
            self._subscribers
        )
        self._bulk = [Bulk(f"bulk{n}", prefix, pattern) for n in range(options.bulk)]
        self._filling = Filling(prefix, options.fill_bytes) if options.fill_bytes else None
        self._touchers = (
            [Toucher(f"toucher{n}", self._filling, n, options.touchers) for n in range(options.touchers)]
            if self._filling
            else []
        )
        self._askers: list[Asker] = [*self._counters, *self._publishers, *self._bulk, *self._touchers]
        self._peers: list[Peer] = [*self._subscribers, *self._askers]
        self._wires: dict[Peer, Wire] = {}
        self._pacers: list[Pacer] = []
        self._prober = Prober(options.host, options.port, options.probe_seconds, options.probe_timeout_seconds)
        self._stirred = asyncio.Event()
        self._began = self._cpu = 0.0

    async def run(self) -> Exit:
        """Connect, settle, tick until told to stop, check, report."""
        try:
            if not await self._begin():
                return Exit.FAILED
            await self._tick_until_stopped()
            await self._finish()
            self._control.say(self._report())
            return Exit.REPORTED
        finally:
            self._close()

    async def _begin(self) -> bool:
        if self._filling is not None:
            await asyncio.to_thread(fill, self._options.host, self._options.port, self._filling)
        await self._connect()
        self._pacers = self._make_pacers()
        if self._introduced():
            gc.collect()
            gc.disable()  # its pauses would be silences; nothing here makes cycles while it runs
            self._start()
            await self._until(self._steady_or_hopeless, self._options.ready_seconds)
        if not self._steady():
            self._control.say(Failed(self._why_not_ready()))
            return False
        self._began, self._cpu = time.monotonic(), time.process_time()
        for peer in self._peers:
            peer.silence.forget()
        self._prober.start()
        self._control.say(Ready(self._began, len(self._peers)))
        return True

    async def _connect(self) -> None:
        """Subscribers first: the first number published must find them all."""
        for peer in self._peers:
            self._wires[peer] = await connect(peer, self._options.host, self._options.port, self._stirred.set)
        await self._until(self._introduced_or_hopeless, self._options.ready_seconds)

    def _introduced_or_hopeless(self) -> bool:
        return self._introduced() or self._hopeless()

    def _steady_or_hopeless(self) -> bool:
        return self._steady() or self._hopeless()

    def _hopeless(self) -> bool:
        """It begins with every connection or not at all."""
        return not all(peer.open for peer in self._peers)

    def _introduced(self) -> bool:
        asked = all(asker.idle for asker in self._askers)
        return asked and all(subscriber.ready for subscriber in self._subscribers) and not self._hopeless()

    def _make_pacers(self) -> list[Pacer]:
        options = self._options
        paced: list[tuple[Sequence[Asker], float, int]] = [
            (self._counters[options.idle :], options.turn_seconds, 1),
            (self._publishers, options.pace_seconds, 1),
            (self._bulk, options.bulk_seconds, options.bulk_window),
            (self._touchers, options.touch_seconds, 1),
        ]
        return [
            Pacer([(self._wires[asker], asker) for asker in askers], period, window) for askers, period, window in paced
        ]

    def _start(self) -> None:
        for pacer in self._pacers:
            pacer.start()

    def _steady(self) -> bool:
        asked = all(asker.exchanges >= STEADY_EXCHANGES for asker in self._askers[self._options.idle :])
        heard = all(subscriber.replies for subscriber in self._subscribers)
        return asked and heard and not self._hopeless()

    def _why_not_ready(self) -> str:
        losses = sorted({peer.loss for peer in self._peers if peer.loss is not None})
        where = f"{self._options.host} port {self._options.port}"
        if losses:
            count = sum(not peer.open for peer in self._peers)
            return f"{count} of {len(self._peers)} connections to {where} did not come about: {', '.join(losses)}"
        return f"{where} did not answer every connection within {self._options.ready_seconds:g} s"

    async def _tick_until_stopped(self) -> None:
        while not self._control.stop.is_set():
            self._control.mention(self._tick())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._control.stop.wait(), self._options.telling_seconds)

    async def _finish(self) -> None:
        """Ask nothing new, wait for what is due, make the last checks; whoever still owes something was lost."""
        deadline = time.monotonic() + self._options.drain_seconds
        for pacer in self._pacers:
            pacer.stop()
        await self._until(self._all_idle, deadline - time.monotonic())
        for asker in self._askers:
            if asker.open and asker.idle:
                self._wires[asker].send(asker.goodbye(time.monotonic()))
        await self._until(self._all_idle, deadline - time.monotonic())
        await self._prober.finish(deadline)
        for peer in self._peers:
            if not peer.idle:
                peer.lost("silent", time.monotonic())

    def _all_idle(self) -> bool:
        return all(peer.idle for peer in self._peers)

    def _close(self) -> None:
        for pacer in self._pacers:
            pacer.stop()
        self._prober.abandon()
        for wire in self._wires.values():
            wire.finish()

    def _tick(self) -> Tick:
        now = time.monotonic()
        alive = sum(peer.open for peer in self._peers)
        return Tick(
            at=now,
            requests=sum(peer.replies for peer in self._peers),
            wrong=sum(peer.wrong for peer in self._peers),
            open=alive,
            lost=len(self._peers) - alive,
            silence_seconds=max((peer.silence.current(now) for peer in self._peers), default=0.0),
            probes=len(self._prober.probes),
            probes_failed=self._prober.failed,
            bulk_bytes=sum(peer.bytes_sent + peer.bytes_received for peer in self._bulk),
        )

    def _report(self) -> Report:
        mistakes = [mistake for peer in self._peers for mistake in peer.mistakes]
        return Report(
            host=self._options.host,
            port=self._options.port,
            began=self._began,
            ended=time.monotonic(),
            cpu_seconds=time.process_time() - self._cpu,
            connections=[peer.report() for peer in self._peers],
            probes=sorted(self._prober.probes, key=lambda probe: probe.began),
            mistakes=mistakes[:MISTAKES_KEPT],
            touches=sorted(one for toucher in self._touchers for one in toucher.latencies),
        )

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait for `done`, or for so long; it is asked whenever something happened to a connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while not done():
                    self._stirred.clear()
                    await self._stirred.wait()
                    await asyncio.sleep(COALESCE_SECONDS)


async def run(options: Options) -> Exit:
    """The load, within its limits: it ends when its parent does, and after `limit_seconds` at the latest."""
    task = asyncio.current_task()
    assert task is not None
    control = Control(task.cancel)
    control.listen()
    try:
        async with asyncio.timeout(options.limit_seconds):
            return await Load(options, control).run()
    except TimeoutError:
        return Exit.TOO_LONG
    except asyncio.CancelledError:
        return Exit.ORPHANED
    finally:
        control.close()


def main() -> None:
    sys.exit(uvloop.run(run(command_line.parse())))


if __name__ == "__main__":
    main()
