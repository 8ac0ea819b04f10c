"""When a workload that has moved ends, nobody listens for it any more where it has been; and no sooner."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess

import pytest

from controller.lab.readiness import wait_ready
from tests.harness.chained import move_all
from tests.harness.journeys import start_puppet
from tests.harness.moving import ONE_LOOP, PORT, REDIS_PORT, SERVER, ask, until, within
from tests.harness.sidecars import AGENT, PROXY, running, sidecar

pytestmark = ONE_LOOP


@pytest.mark.parametrize("way", ["ab", "abc", "aba"])
async def test_its_successor_can_be_started_where_it_was_and_move_where_it_was(stage, way):
    """Else our own proxies would have its port there, and whoever came would be accepted and then reset."""
    pods = [getattr(stage, name) for name in way]
    await stage.run_redis()
    await move_all(stage, "redis", *pods)
    shut_down(stage, pods[-1])
    await nobody_listens(stage.a, stage.b, stage.c)
    with pytest.raises(ConnectionRefusedError):
        stage.connect(stage.client, stage.a.address, REDIS_PORT)
    await stage.run_redis()
    await move_all(stage, "redis", stage.a, stage.b)
    assert ask(stage.connect(stage.client, stage.a.address, REDIS_PORT), "PING") == "+PONG"


async def test_its_datagrams_port_is_free_again(stage):
    told = await start_puppet(stage)
    told.do("udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('', 7350))")
    await move_all(stage, "puppet", stage.a, stage.b)
    assert ":7350" in within(stage.a, "ss", "-ulnH")
    kill(stage.b, (await stage.workloads(stage.b))["puppet"].pid)
    await until(lambda: ":7350" not in within(stage.a, "ss", "-ulnH"), "port 7350 of pod a is not free")


async def test_a_port_that_it_closes_for_a_while_leads_to_it_afterwards(stage):
    """As a server's that is started anew by another process of the workload. Who comes meanwhile is turned away."""
    told = await start_puppet(stage)
    told.do("server = socket.create_server(('', 7350))")
    await move_all(stage, "puppet", stage.a, stage.b)
    told.do("server.close()")
    with pytest.raises(ConnectionResetError):  # before or after the kernel has said that it is there
        await asyncio.to_thread(stage.connect(stage.client, stage.a.address, 7350).recv, 1)
    told.do("server = socket.create_server(('', 7350))")
    stage.connect(stage.client, stage.a.address, 7350).sendall(b"here")
    assert await asyncio.to_thread(told.do, "server.accept()[0].recv(4).decode()") == "here"


async def test_processes_that_outlive_the_first_one_are_the_workload_too(stage):
    server = shlex.join(["/usr/bin/python3", "-S", str(SERVER), str(PORT), "", ""])
    shell = (await stage.run("server", "/bin/sh", "-c", f"{server} & wait")).pid
    await stage.answers(PORT)
    await move_all(stage, "server", stage.a, stage.b)
    child = int(inside(stage.b, "cat", f"/proc/{shell}/task/{shell}/children"))
    kill(stage.b, shell)
    await has_ended(stage, stage.b, "server")
    await asyncio.sleep(1.5)  # by then the agent would have said so
    with stage.connect(stage.client, stage.a.address, PORT) as client:
        client.sendall(b"Ehello")
        assert await asyncio.to_thread(client.recv, 5) == b"hello"
    kill(stage.b, child)
    await nobody_listens(stage.a, port=PORT)


async def test_a_proxy_that_was_started_anew_meanwhile_passes_it_on_none_the_less(mended):
    await mended.run_redis()
    await move_all(mended, "redis", mended.a, mended.b)
    await started_anew(mended.b, PROXY)
    shut_down(mended, mended.b)
    await nobody_listens(mended.a)


async def test_a_proxy_that_was_started_anew_is_no_end(mended):
    """It turns away who comes to the old address, which the next move makes good again."""
    await mended.run_redis()
    await move_all(mended, "redis", mended.a, mended.b)
    await started_anew(mended.b, PROXY)
    await wait_ready(mended.b)
    await move_all(mended, "redis", mended.b, mended.c)
    for pod in (mended.a, mended.b):
        assert ask(mended.connect(mended.client, pod.address, REDIS_PORT), "PING") == "+PONG"


async def test_an_agent_that_was_started_anew_meanwhile_says_it_none_the_less(mended):
    await mended.run_redis()
    await move_all(mended, "redis", mended.a, mended.b)
    os.kill(running(mended.b, AGENT), signal.SIGSTOP)
    shut_down(mended, mended.b)
    await until(lambda: not listening(mended.b, REDIS_PORT), "Redis has not ended")
    await started_anew(mended.b, AGENT)
    await nobody_listens(mended.a)


def shut_down(stage, pod):
    with stage.connect(stage.client, pod.address, REDIS_PORT) as client:
        client.sendall(b"SHUTDOWN NOSAVE\r\n")
        assert client.recv(1) == b""


async def started_anew(pod, module):
    old = running(pod, module)
    os.kill(old, signal.SIGKILL)
    await until(lambda: sidecar(pod, module) not in (None, old), f"{module} of {pod.name} was not started again")


async def has_ended(stage, pod, name):
    for _ in range(3000):
        if (await stage.workloads(pod))[name].state == "exited":
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} has not ended")


def kill(pod, pid):
    inside(pod, "kill", "-KILL", str(pid))


def inside(pod, *argv):
    """Runs a program that sees the pod's processes under their own numbers."""
    argv = ("nsenter", f"--target={pod.pid1}", "--pid", "--mount", *argv)
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


async def nobody_listens(*pods, port=REDIS_PORT):
    for pod in pods:
        await until(lambda pod=pod: not listening(pod, port), f"port {port} of pod {pod.name} is not free")


def listening(pod, port):
    return bool(within(pod, "ss", "-tlnH", f"sport = :{port}"))
