"""Pods, workloads and moves for the system tests: the real lab, the real sidecars, the real driver."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

import checkpoint.api as agent_api
from controller import rates
from controller.actions import Move
from controller.clients import AgentClient, ProxyClient
from controller.commands.moves import MigrateRequest, new_intent
from controller.commands.status import migrations_folder
from controller.commands.workloads import base_environment
from controller.core.errors import Answered
from controller.core.result import MigrationResult
from controller.core.transfer import Transfer
from controller.journal import Journal
from controller.lab.lab import Lab
from controller.lab.pod import Pod, neighbours
from controller.lab.readiness import wait_ready
from controller.migrate import Driver
from controller.transfer import Depot
from proxy.api import Released
from tests.harness.clients import connect
from tests.harness.interposer import Interposer, Spoil, between
from tests.harness.leaks import fresh_home

ONE_LOOP = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("one_loop")]
"""The mark of files whose tests share a scene, with other files or among themselves."""
SERVER = Path(__file__).with_name("server.py")
PORT = 7000
REDIS_PORT = 6379


class Silent:
    """An observer that only remembers."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.waits: list[str] = []

    def phase_started(self, name: str, at: float) -> None:
        self.phases.append(name)

    def phase_ended(self, name: str, seconds: float) -> None: ...

    def held(self, flows: int, held_bytes: int) -> None: ...

    def waiting(self, why: str) -> None:
        self.waits.append(why)

    def round(self, number: int, written_bytes: int, seconds: float) -> None: ...

    def early(self, arrived_bytes: int, whole: bool) -> None: ...

    def memory(self, arrived_bytes: int, total_bytes: int, seconds: float) -> None: ...


class Scene:
    """Pods a, b and client in a lab of their own."""

    def __init__(self, lab: Lab, a: Pod, b: Pod, client: Pod, **options: Any) -> None:
        """`options` of a and b: `Lab.create`."""
        self.lab, self.a, self.b, self.client = lab, a, b, client
        self._options = options
        self._sockets: list[socket.socket] = []
        self.own_ports = count(20_000)
        """For connections from a port that the kernel gives to nobody, and that no other test has had."""

    def connect(self, pod: Pod, host: str, port: int, timeout_seconds: float = 30, own_port: int = 0) -> socket.socket:
        """A connection from `pod`, closed with the scene at the latest."""
        self._sockets.append(connect(pod, host, port, timeout_seconds, own_port))
        return self._sockets[-1]

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def clear(self) -> None:
        """Makes living pods as good as new: ends every workload and every connection, and has the moves forgotten.

        Fails unless nothing is left in them then: no workload, no flow, no image.
        """
        self.close()
        logs = list(migrations_folder(self.lab.home).glob("*.jsonl"))
        pods = neighbours(self.a)
        for pod in pods:
            await end_workloads(pod)
        for pod in pods:
            await forget_moves(pod, [log.stem for log in logs])
        for log in logs:
            log.unlink()
        known = self.lab.home / rates.NAME
        if known.exists():  # the moves are forgotten; what the machine can do was probed once, and is still true
            fresh = msgspec.structs.replace(rates.load(self.lab.home), samples=[])
            known.write_bytes(msgspec.json.encode(fresh))
        await nothing_is_left(pods)

    async def mend(self) -> None:
        """The same after a test that has ended pods, or sidecars, in whose place their pods start others."""
        self.a, self.b = [await self._mended(pod) for pod in (self.a, self.b)]
        await self.clear()

    async def _mended(self, pod: Pod) -> Pod:
        if not pod.alive:
            return await self.lab.create(pod.name, **self._options)
        await wait_ready(pod)
        return pod

    async def run(self, name: str, *argv: str, pod: Pod | None = None) -> agent_api.Workload:
        pod = pod or self.a
        async with AgentClient(f"agent of {pod.name}", pod.agent_socket) as agent:
            return await agent.run(agent_api.RunWorkload(name, list(argv), base_environment(), "/"))

    async def run_server(self, gate: str = "") -> agent_api.Workload:
        """The test server on PORT, answering."""
        started = await self.run("server", "/usr/bin/python3", "-S", str(SERVER), str(PORT), "", gate)
        await self.answers(PORT)
        return started

    async def run_redis(self, *options: str, pod: Pod | None = None) -> agent_api.Workload:
        argv = [
            "redis-server",
            "--port",
            str(REDIS_PORT),
            "--bind",
            "*",
            "-::*",
            "--protected-mode",
            "no",
            "--save",
            "",
        ]
        started = await self.run("redis", *argv, *options, pod=pod)
        await self.answers(REDIS_PORT, pod)
        with connect(self.client, (pod or self.a).address, REDIS_PORT) as sock:
            assert ask(sock, "PING") == "+PONG"  # it has listened before it gave itself the name that it goes by
        return started

    async def answers(self, port: int, pod: Pod | None = None) -> None:
        """Until something listens on `port`; fails after 30 s."""
        address = (pod or self.a).address
        await until(lambda: listens(self.client, address, port), f"nothing listens on {address}:{port}")

    def intent(
        self, workload: str, source: Pod, destination: Pod, max_hold_seconds: float, max_held_bytes: int, **more: Any
    ):
        request = MigrateRequest(workload, source.name, destination.name, max_hold_seconds, max_held_bytes, **more)
        return new_intent(request, source.name)

    async def move(
        self,
        workload: str,
        source: Pod | None = None,
        destination: Pod | None = None,
        *,
        max_hold_seconds: float = 10,
        max_held_bytes: int = 64 << 20,
        allow_loss: bool = False,
        memory: agent_api.MemoryWay = "stop-and-copy",
        transfer: Transfer = Transfer(),  # noqa: B008 - frozen
        depot: Depot | None = None,
        prepare: Callable[[Driver], None] = lambda driver: None,
    ) -> MigrationResult:
        """Moves a workload from a to b, or as told."""
        source, destination = source or self.a, destination or self.b
        more: dict[str, Any] = {"allow_loss": allow_loss, "memory": memory, "transfer": transfer}
        intent = self.intent(workload, source, destination, max_hold_seconds, max_held_bytes, **more)
        log = Journal.begin(migrations_folder(self.lab.home), intent)
        try:
            async with Move(intent, source, destination, depot=depot) as move:
                driver = Driver(move, log, Silent())
                prepare(driver)
                return await driver.run()
        finally:
            log.close()

    async def workloads(self, pod: Pod) -> dict[str, agent_api.Workload]:
        async with AgentClient(f"agent of {pod.name}", pod.agent_socket) as agent:
            return {each.name: each for each in await agent.workloads()}

    async def flows(self, pod: Pod):
        async with ProxyClient(f"proxy of {pod.name}", pod.proxy_socket) as proxy:
            return await proxy.flows()

    async def midstream(self, *arguments: str) -> tuple[int, str, str]:
        """The command line, as a person runs it: exit status, standard output, standard error."""
        process = await self.start_midstream(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def start_midstream(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "controller.cli", "--home", str(self.lab.home), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


def within(pod, *argv: str, text: str = "") -> str:
    """Runs a program in the pod's network."""
    argv = ("nsenter", f"--net=/proc/{pod.pid1}/ns/net", *argv)
    return subprocess.run(argv, input=text, check=True, stdout=subprocess.PIPE, text=True).stdout


@asynccontextmanager
async def spoilt(
    move: Coroutine[Any, Any, MigrationResult],
    sidecar: Path,
    ending: str,
    how: Spoil = Spoil.HANG,
    method: str = "POST",
) -> AsyncIterator[tuple[asyncio.Task[MigrationResult], Interposer]]:
    """A move that has come to the call to `sidecar` whose path ends like that, and who spoils it."""
    async with between(sidecar) as interposer:
        interposer.spoil(method, ending, how)
        moving = asyncio.create_task(move, name="move")
        await asyncio.wait_for(interposer.reached.wait(), 60)
        yield moving, interposer


@asynccontextmanager
async def scene(source_criu: Path | None = None, **options: Any) -> AsyncIterator[Scene]:
    """A lab with the pods a, b and client; nothing of it is left afterwards.

    `options` of a and b: `Lab.create`. `source_criu`: a's, where it is another.
    """
    lab = Lab(fresh_home())
    try:
        made = Scene(lab, *await _pods(lab, source_criu, options), **options)
        try:
            yield made
        finally:
            made.close()
    finally:
        await lab.delete_all()
        shutil.rmtree(lab.home, ignore_errors=True)


async def _pods(lab: Lab, source_criu: Path | None, options: dict[str, Any]) -> list[Pod]:
    """All three at a time, but for an `a` with a CRIU of its own."""
    if source_criu is None:
        return await asyncio.gather(
            lab.create("a", **options), lab.create("b", **options), lab.create("client", sidecars=False)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDSTREAM_CRIU", str(source_criu))
        a = await lab.create("a", **options)
    return [a, *await asyncio.gather(lab.create("b", **options), lab.create("client", sidecars=False))]


async def end_workloads(pod: Pod) -> None:
    async with AgentClient(f"agent of {pod.name}", pod.agent_socket) as agent:
        for each in await agent.workloads():
            await agent.kill(each.name)


async def forget_moves(pod: Pod, migrations: list[str]) -> None:
    """A proxy listens at the addresses that a workload has left until it is told to forget the move, and an agent keeps
    what there was of a workload that is lost."""
    async with ProxyClient(f"proxy of {pod.name}", pod.proxy_socket) as proxy:
        for migration in migrations:
            for side in ("outbound", "inbound"):
                with suppress(Answered):  # it has no part in that one
                    await proxy.call("DELETE", f"/v1/{side}/{migration}?force=1", Released)
    async with AgentClient(f"agent of {pod.name}", pod.agent_socket) as agent:
        for one in await agent.migrations():
            await agent.forget("outbound" if one.side == "source" else "inbound", one.migration)


async def nothing_is_left(pods: list[Pod], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := [line for pod in pods for line in await left_in(pod)]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.01)


async def left_in(pod: Pod) -> list[str]:
    """The workloads, flows and image folders of a pod."""
    async with AgentClient("agent", pod.agent_socket) as agent, ProxyClient("proxy", pod.proxy_socket) as proxy:
        found = [f"{pod.name}: {each}" for each in (*await agent.workloads(), *await proxy.flows())]
    return found + [f"{path}" for path in Path(pod.images).iterdir() if path.is_dir()]


async def until(holds: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
    """Waits until `holds()`; fails with the words `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.01)


def listens(pod: Pod, host: str, port: int) -> bool:
    try:
        connect(pod, host, port, 1).close()
    except OSError:
        return False
    return True


def ask(sock: socket.socket, command: str) -> str:
    """One inline command to a Redis; its one-line reply."""
    sock.sendall(command.encode() + b"\r\n")
    reply = b""
    while not reply.endswith(b"\r\n"):
        data = sock.recv(4096)
        assert data, f"closed after {reply!r}"
        reply += data
    return reply.decode().strip()
