"""The load against a real Redis, without Midstream: it sees what it must see, and a clean run is clean."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from controller.core.result import MigrationResult
from controller.demo.options import Options
from controller.demo.process import LoadError, LoadProcess
from controller.demo.report import Report, Tick, Window, longest, probes_in_freeze, stalls
from controller.demo.verdict import KEPT_EVERYTHING, LOST_SOMETHING, Verdict, judge
from tests.harness.lone_redis import HOST, Redis, Tamperer, free_port
from tests.harness.moving import until

SMALL = Options(
    host=HOST,
    port=0,
    connections=8,
    subscribers=2,
    bulk=1,
    bulk_bytes_per_second=4e6,
    probe_seconds=0.01,
    drain_seconds=1.0,
    limit_seconds=60.0,
)


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--daemonize", "no"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    while b"Ready to accept" not in (line := await process.stdout.readline()):
        assert line, "redis-server ended"
    drain = asyncio.create_task(process.stdout.read(), name="redis output")
    yield Redis(process, port)
    if process.returncode is None:
        process.kill()
    await process.wait()
    await drain


async def run_load(
    port: int,
    while_it_runs: Callable[[list[Tick]], Awaitable[None]] | None = None,
    seconds: float = 0.6,
    **changes: object,
) -> Report:
    """A run of the load, with something done to it in the middle, by who can wait for what the load says of that."""
    options, ticks = msgspec.structs.replace(SMALL, port=port, **changes), list[Tick]()
    async with await LoadProcess.start(options, ticks.append) as load:
        await load.ready()
        await asyncio.sleep(seconds / 2)  # the duration of the run, not a wait for something
        if while_it_runs is not None:
            await while_it_runs(ticks)
        await asyncio.sleep(seconds / 2)
        return await load.stop()


async def seen(ticks: list[Tick], what: Callable[[Tick], bool]) -> None:
    """Until the load says so."""
    await until(lambda: bool(ticks) and what(ticks[-1]), "the load does not see it")


def verdict_of(report: Report, window: Window | None = None) -> Verdict:
    return judge(report, MigrationResult(migration="none", outcome="succeeded"), window)


async def test_a_clean_run_is_clean(redis: Redis) -> None:
    ticks: list[Tick] = []
    options = msgspec.structs.replace(SMALL, port=redis.port)
    async with await LoadProcess.start(options, ticks.append) as load:
        ready = await load.ready()
        await until(lambda: bool(ticks) and ticks[-1].probes > 90, "it does not go on")  # a second, as a rule
        report = await load.stop()
    verdict = verdict_of(report)
    assert (verdict.exit_status, verdict.reasons) == (KEPT_EVERYTHING, [])
    assert ready.connections == len(report.connections) == 12  # 8 counters, 2 subscribers, a publisher, a bulk stream
    assert {connection.role for connection in report.connections} == {"counter", "publisher", "subscriber", "bulk"}
    assert all(connection.replies > 10 for connection in report.connections)
    assert len(ticks) >= 5
    assert ticks[-1].open == 12
    assert len(report.probes) > 90
    assert all(probe.began <= probe.connected <= probe.served for probe in report.probes)  # type: ignore[operator]
    assert await redis("DBSIZE") == 0  # it clears up behind itself
    assert load.process.returncode == 0


async def test_it_is_paced(redis: Redis) -> None:
    # A busy machine misses turns, which are not made up for; but not for ever, and it never hurries.
    for _ in range(10):
        report = await run_load(redis.port, seconds=1.0, pace_seconds=0.05)
        expected = 8 * (report.ended - report.began) / 0.05
        counters = [c.replies for c in report.connections if c.role == "counter"]
        assert all(replies < 1.6 * expected for replies in counters)
        if all(replies > 0.4 * expected for replies in counters):
            return
    pytest.fail(f"{counters} replies, where {expected:.0f} were due")


def stands(pid: int) -> bool:
    """Whether every task of the process is stopped (proc(5))."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


async def test_a_stopped_server_is_a_stall_of_that_length(redis: Redis) -> None:
    moments: list[float] = []

    async def freeze(_: list[Tick]) -> None:
        os.kill(redis.process.pid, signal.SIGSTOP)
        await until(lambda: stands(redis.process.pid), "Redis does not stop")  # a signal only asks for it
        moments.append(time.monotonic())
        await asyncio.sleep(1.0)  # the length of the freeze
        moments.append(time.monotonic())
        os.kill(redis.process.pid, signal.SIGCONT)

    report = await run_load(redis.port, freeze, pace_seconds=0.01)
    window = Window(moments[0], moments[0], moments[1], moments[1])
    assert verdict_of(report, window).exit_status == KEPT_EVERYTHING
    assert min(stalls(report, window)) > 0.1  # a load that is short of processor time asks late
    # the kernel accepts newcomers for a stopped server; it serves them afterwards
    newcomers = probes_in_freeze(report, window)
    assert newcomers
    assert all(probe.served is not None and probe.served >= moments[1] for probe in newcomers)


async def test_a_killed_connection_is_lost_and_the_others_go_on(redis: Redis) -> None:
    async def kill(ticks: list[Tick]) -> None:
        (victim, *_) = await redis.client_ids("sub=2 .*cmd=subscribe")
        assert await redis("CLIENT", "KILL", "ID", victim) == 1
        await seen(ticks, lambda tick: tick.lost == 1)

    report = await run_load(redis.port, kill)
    lost = [connection for connection in report.connections if connection.loss]
    assert [connection.role for connection in lost] == ["subscriber"]
    assert lost[0].loss in ("closed", "reset")
    assert report.began < lost[0].lost_at < report.ended  # type: ignore[operator]
    assert (
        sum(connection.wrong for connection in report.connections) == 0
    )  # PUBLISH's smaller replies are no second fault
    assert verdict_of(report).result.connections.lost == 1
    assert verdict_of(report).exit_status == LOST_SOMETHING


async def test_a_planted_value_is_a_wrong_reply(redis: Redis) -> None:
    async def plant(ticks: list[Tick]) -> None:
        keys = await redis("KEYS", "*:counter3:count")
        assert isinstance(keys, list)
        await redis("SET", keys[0].decode(), "100000000")
        await seen(ticks, lambda tick: tick.wrong > 0)

    report = await run_load(redis.port, plant)
    wrong = {connection.name: connection.wrong for connection in report.connections if connection.wrong}
    assert list(wrong) == ["counter3"]
    assert 2 <= wrong["counter3"] <= 6  # one pipeline's counts and the last check, not every reply for ever
    assert any("100000001" in mistake.got for mistake in report.mistakes)
    assert verdict_of(report).exit_status == LOST_SOMETHING


async def test_a_server_that_dies_is_counted_everywhere(redis: Redis) -> None:
    async def end(ticks: list[Tick]) -> None:
        redis.process.kill()
        await redis.process.wait()
        await seen(ticks, lambda tick: tick.probes_failed > 0)

    report = await run_load(redis.port, end)
    assert all(connection.loss for connection in report.connections)
    assert {probe.loss for probe in report.probes} >= {None, "refused"}
    assert verdict_of(report).result.connections.kept == 0


async def run_tampered(redis: Redis, pattern: bytes, replacement: bytes) -> Report:
    tamperer = Tamperer(redis.port)

    async def tamper(_: list[Tick]) -> None:
        tamperer.replacement, tamperer.pattern = replacement, re.compile(pattern, re.DOTALL)
        await until(lambda: bool(tamperer.changed), "it never says that")

    async with tamperer.serving() as port:
        report = await run_load(port, tamper)
    assert tamperer.changed == 1
    return report


async def test_a_dropped_message_is_missing(redis: Redis) -> None:
    message = rb"\*3\r\n\$7\r\nmessage\r\n\$\d+\r\n[^\r]+\r\n\$\d+\r\n\d+\r\n"
    report = await run_tampered(redis, rf"(?<=\r\n){message.decode()}(?=\*)".encode(), b"")
    (subscriber,) = [connection for connection in report.connections if connection.missing]
    assert (subscriber.role, subscriber.missing, subscriber.loss) == ("subscriber", 1, None)
    assert subscriber.bytes_lost > 30
    assert verdict_of(report).result.replies_missing == 1
    assert verdict_of(report).exit_status == LOST_SOMETHING


async def test_an_altered_byte_of_bulk_is_seen(redis: Redis) -> None:
    report = await run_tampered(redis, rb"(?<=\$262144\r\n0000000)\d", b"X")
    (bulk,) = [connection for connection in report.connections if connection.wrong]
    assert (bulk.role, bulk.wrong, bulk.bytes_lost) == ("bulk", 1, 1)


async def test_a_lost_byte_is_seen_and_what_it_blocks_is_missing(redis: Redis) -> None:
    report = await run_tampered(redis, rb"(?<=\+PON)G", b"")
    bad = [connection for connection in report.connections if connection.wrong or connection.loss]
    bad_probes = [probe for probe in report.probes if probe.loss]
    assert len(bad) + len(bad_probes) == 1
    assert verdict_of(report).exit_status == LOST_SOMETHING


async def test_it_says_when_it_cannot_begin() -> None:
    async with await LoadProcess.start(msgspec.structs.replace(SMALL, port=free_port())) as load:
        with pytest.raises(LoadError, match=r"12 of 12 connections to .* did not come about: refused"):
            await load.ready()


async def test_an_orphan_exits(redis: Redis) -> None:
    load = await LoadProcess.start(msgspec.structs.replace(SMALL, port=redis.port))
    await load.ready()
    assert load.process.stdin is not None
    load.process.stdin.close()
    assert await asyncio.wait_for(load.process.wait(), 30) == 4
    await load.close()


async def test_it_ends_by_itself_after_its_limit(redis: Redis) -> None:
    load = await LoadProcess.start(msgspec.structs.replace(SMALL, port=redis.port, limit_seconds=1.0))
    await load.ready()
    assert await asyncio.wait_for(load.process.wait(), 30) == 3
    with pytest.raises(LoadError, match="status 3"):
        await load.stop()
    await load.close()


async def test_silences_are_kept_longest_first(redis: Redis) -> None:
    report = await run_load(redis.port)
    for connection in report.connections:
        seconds = [silent.seconds for silent in connection.silences]
        assert seconds == sorted(seconds, reverse=True)
        assert longest(connection.silences) == seconds[0]
