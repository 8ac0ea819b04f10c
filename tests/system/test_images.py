"""Checkpoints of running workloads into an archive, and copies out of it: real CRIU, real Redis, the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import BinaryIO

import pytest

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.errors import Answered, MidstreamError, Unreachable
from tests.harness.clients import Echo
from tests.harness.keys import key_file
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, ask, until
from tests.harness.sidecars import AGENT, running, sidecar

pytestmark = ONE_LOOP


@pytest.fixture
def key(tmp_path):
    return key_file(tmp_path / "key")


async def test_a_checkpoint_and_its_copies(stage, key, tmp_path):
    await stage.run_redis()
    await stage.run_server()
    streaming = Echo(stage.client, stage.a.address, PORT)
    held = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    assert ask(held, "SET k original") == "+OK"
    place, where = str(tmp_path / "archive"), ("--key-file", key.file, "-o", "json")
    stored = await said(stage, "checkpoint", "redis", "--to", place, *where, "--ttl", "7d")
    assert (stored["workload"], stored["connections"], stored["processes"]) == ("redis", 1, 1)
    assert 0 < stored["freeze_seconds"] < 10
    assert ask(held, "SET k later") == "+OK"
    kept = [tmp_path / "archive", *(tmp_path / "archive").rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in kept} == {"0o600", "0o700"}
    options = ("--to", "b", "--name", "redis-copy", "--copies", "2", "-a", place, *where)
    copies = await said(stage, "restore", stored["image"], *options)
    assert [(one["pod"], one["closed_connections"]) for one in copies] == [("b", 1), ("b-2", 1)]
    async with AgentClient("a", stage.a.agent_socket) as a, AgentClient("b", stage.b.agent_socket) as b:
        await a.checkpoint("one", store(place, key, workload="server", addresses=[stage.a.address]), 60)
        cloned = await b.clone("c", start("one", place, key, "server-copy", [stage.b.address]), 60)
        assert cloned.closed_connections == 1
    for pod in (stage.b, stage.lab.pod("b-2")):
        theirs = stage.connect(stage.client, pod.address, REDIS_PORT)
        theirs.sendall(b"GET k\r\n")
        assert theirs.recv(100) == b"$8\r\noriginal\r\n"
        assert ask(theirs, f"SET k of-{pod.name}") == "+OK"
    copied = Echo(stage.client, stage.b.address, PORT)
    held.sendall(b"GET k\r\n")
    assert held.recv(100) == b"$5\r\nlater\r\n"
    await asyncio.to_thread(copied.finish)
    await asyncio.to_thread(streaming.finish)
    assert {name: one.state for name, one in (await stage.workloads(stage.b)).items()} == {
        "redis-copy": "running", "server-copy": "running",
    }  # fmt: skip
    assert left_in(stage.a, stage.b) == []
    told = json.dumps([stored, copies]).encode()
    for secret in (Path(key.file).read_bytes(), Path(key.file).read_bytes().hex().encode()):
        assert not [path for path in (*written_by(stage.a), *written_by(stage.b)) if secret in path.read_bytes()]
        assert secret not in told
    await stage.lab.delete("b-2")


def written_by(pod) -> list[Path]:
    """The sidecars' logs, and what they have on record."""
    found = [path for path in Path(pod.directory).rglob("*") if path.is_file()]
    assert any(path.name == "agent.log" for path in found)
    return found


async def test_a_pod_that_was_made_for_a_copy_goes_where_there_is_none(stage, key, tmp_path):
    (tmp_path / "archive").mkdir()
    options = ("--to", "b", "--name", "copy", "--copies", "2", "-a", str(tmp_path / "archive"), "--key-file", key.file)
    status, _, err = await stage.midstream("restore", "none", *options)
    assert (status, "there is no image none" in err) == (1, True), err
    assert "b-2: deleted again, for its copy was not started" in err
    assert sorted(pod.name for pod in stage.lab.pods()) == ["a", "b", "client"]
    status, _, err = await stage.midstream("restore", "none", "--to", "b", "--name", "a copy", *options[4:])
    assert (status, "not a name: 'a copy' " in err) == (1, True), err


def left_in(*pods) -> list[str]:
    """What of any image is left on the pods' tmpfs."""
    return [str(path) for pod in pods for path in Path(pod.images).iterdir() if not path.name.startswith("criu.kdat")]


async def said(stage, *arguments: str):
    """What a command of `midstream` prints, which succeeds."""
    status, out, err = await stage.midstream(*arguments)
    assert status == 0, err
    return json.loads(out)


def store(archive: str, key, *, deadline=60.0, workload="redis", addresses=(), options=None):
    where = agent_api.Archive(archive, options or {})
    return agent_api.StoreCheckpoint(workload, where, key, list(addresses), 0.0, 10.0, deadline)


def start(image: str, archive: str, key, name="copy", addresses=(), options=None):
    return agent_api.StartClone(image, name, agent_api.Archive(archive, options or {}), key, list(addresses), 0.0, 60.0)


def twice(folder: Path) -> Path:
    """A command that prints what is written into `first`, and the next time what is written into `second`."""
    for name in ("first", "second"):
        os.mkfifo(folder / name, 0o600)
    command = folder / "asks"
    command.write_text(f"#!/bin/sh\ncd {folder}\nif mkdir once 2>/dev/null; then exec cat first; fi\nexec cat second\n")
    command.chmod(0o700)
    return command


async def asker(pipe: Path) -> BinaryIO:
    """The other end of a pipe, once somebody reads it."""
    opened: list[BinaryIO] = []

    def somebody_reads() -> bool:
        with contextlib.suppress(OSError):  # ENXIO
            opened.append(open(pipe, "wb", buffering=0, opener=lambda path, _: os.open(path, WRITING)))  # noqa: SIM115
        return bool(opened)

    await until(somebody_reads, f"nobody reads {pipe}")
    return opened[0]


WRITING = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC


async def refused(code: str, call) -> None:
    with pytest.raises(Answered) as caught:
        await call
    assert caught.value.code == code, caught.value


async def test_what_goes_wrong_leaves_the_workload_running_and_nothing_half(stage, key, tmp_path):
    await stage.run_redis()
    held = stage.connect(stage.client, stage.a.address, REDIS_PORT)
    place = str(tmp_path / "archive")
    async with AgentClient("a", stage.a.agent_socket) as a, AgentClient("b", stage.b.agent_socket) as b:
        await a.checkpoint("one", store(place, key), 60)
        await refused("image-exists", a.checkpoint("one", store(place, key), 60))
        await refused("no-workload", b.checkpoint("two", store(place, key), 60))
        unreachable = {"aws_endpoint_url": "http://127.0.0.1:9", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
        await refused("archive-unreachable", a.checkpoint("two", store("s3://images", key, options=unreachable), 60))
        await refused("deadline", a.checkpoint("two", store(place, key, deadline=0.001), 60))
        await refused("key-unreadable", a.checkpoint("two", store(place, agent_api.KeySource("/none")), 60))
        await refused("image-missing", b.clone("c", start("two", place, key), 60))
        await refused("wrong-key", b.clone("c", start("one", place, key_file(tmp_path / "other")), 60))
        await refused("pid-taken", a.clone("c", start("one", place, key), 60))
        # Two into one pod at once: one comes, the other is refused and harms it not.
        both = await asyncio.gather(
            *(b.clone(name, start("one", place, key, name), 60) for name in ("c", "d")), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in both) == ["Answered", "Cloned"], both
        assert [one.state for one in (await stage.workloads(stage.b)).values()] == ["running"]
        small = tmp_path / "archive" / "migrations" / "one" / "data" / "small"
        os.truncate(small, small.stat().st_size - 1)
        await refused("image-damaged", b.clone("e", start("one", place, key, "e"), 60))
        assert ask(held, "PING") == "+PONG"
        assert await a.migrations() == []
        assert await b.migrations() == []
    assert left_in(stage.a, stage.b) == []
    # A write that is called off may have made a folder already: there is nothing in it.
    archive = tmp_path / "archive" / "migrations"
    assert {path.relative_to(archive).parts[0] for path in archive.rglob("*") if path.is_file()} == {"one"}


async def test_an_agent_that_is_killed_while_it_sends_or_fetches(own_stage, key, tmp_path):
    """Who stores waits for the key, who fetches for an archive that never answers. The next agent finds what was begun
    and takes it away. Before that, nothing is begun until the archive and the key have been tried out.

    The program that fetches tries for seconds to give its lease back: it ends with the pod.
    """
    await own_stage.run_redis()
    place, asking = str(tmp_path / "archive"), twice(tmp_path)
    held = own_stage.connect(own_stage.client, own_stage.a.address, REDIS_PORT)
    with socket.create_server(("", 0)) as silent:
        address = f"http://{own_stage.a.address.rsplit('.', 1)[0]}.254:{silent.getsockname()[1]}"
        options = {"aws_endpoint_url": address, "aws_access_key_id": "a", "aws_secret_access_key": "b"}
        storing = store(place, agent_api.KeySource(command=str(asking)))
        cloning = start("one", "s3://images", key, options=options)
        async with AgentClient("a", own_stage.a.agent_socket) as a, AgentClient("b", own_stage.b.agent_socket) as b:
            calls = [
                asyncio.create_task(a.checkpoint("one", storing, 60), name="store"),
                asyncio.create_task(b.clone("c", cloning, 60), name="clone"),
            ]
            silent.settimeout(30)
            taken, _ = await asyncio.to_thread(silent.accept)
            with await asker(tmp_path / "first") as tried:
                assert await a.migrations() == []
                tried.write(Path(key.file).read_bytes())
            waiting = await asker(tmp_path / "second")
            assert [one.state for one in await a.migrations()] == ["released"]
            agents = [running(pod, AGENT) for pod in (own_stage.a, own_stage.b)]
            for agent in agents:
                os.kill(agent, signal.SIGKILL)
            for call in calls:
                with pytest.raises(Unreachable):
                    await call
            taken.close()
            waiting.close()
    for pod in (own_stage.a, own_stage.b):
        await until(
            lambda pod=pod: sidecar(pod, AGENT) not in (None, *agents) and pod.agent_socket.exists(), "no new agent"
        )
        await until_answers(pod)
        async with AgentClient(pod.name, pod.agent_socket) as agent:
            assert await agent.migrations() == []
    assert ask(held, "PING") == "+PONG"
    assert (await own_stage.workloads(own_stage.a))["redis"].state == "running"
    assert await own_stage.workloads(own_stage.b) == {}
    assert left_in(own_stage.a, own_stage.b) == []


async def until_answers(pod) -> None:
    async with asyncio.timeout(60), AgentClient(pod.name, pod.agent_socket) as agent:
        while True:
            try:
                await agent.health()
            except MidstreamError:
                await asyncio.sleep(0.02)
            else:
                return
