"""Waiting for sidecars, with real unix sockets."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from controller.lab.errors import PodGone, PodNotReady
from controller.lab.pod import Pod
from controller.lab.process import Process
from controller.lab.readiness import healthy, log_tails, wait_ready


@pytest.fixture
def pod(tmp_path):
    me = Process.of(os.getpid())
    (tmp_path / "proxy").mkdir()
    return Pod("a", 1, "", "", str(tmp_path), "", "", pid1=me.pid, start_ticks=me.start_ticks, complete=True)


async def serve(path, answer):
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(handle, path)


@pytest.mark.parametrize(
    ("answer", "expected"), [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"HTTP/1.1 503 Busy\r\n\r\n", False), (b"", False)]
)
async def test_healthy_is_who_answers_200(tmp_path, answer, expected):
    async with await serve(tmp_path / "socket", answer):
        assert await healthy(tmp_path / "socket") is expected


async def test_who_is_not_there_is_not_healthy(tmp_path):
    assert not await healthy(tmp_path / "socket")


async def test_a_pod_is_ready_when_both_serve(pod):
    waiting = asyncio.create_task(wait_ready(pod))
    async with await serve(pod.agent_socket, b"HTTP/1.1 200 OK\r\n\r\n"):
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with await serve(pod.proxy_socket, b"HTTP/1.1 200 OK\r\n\r\n"):
            await waiting


async def test_who_is_not_ready_in_time_is_reported_with_the_ends_of_the_logs(pod):
    pod.log("agent").write_text(f"{'one' * 1000}\ntwo\nModuleNotFoundError: no\n\n")
    pod.log("proxy").write_text("ready\n")
    pod.log("init").write_text("\n")
    with pytest.raises(PodNotReady, match=r"ready after 0\.05 s") as caught:
        await wait_ready(pod, seconds=0.05)
    assert caught.value.message.endswith("ready after 0.05 s: proxy.log: ready; agent.log: ModuleNotFoundError: no")
    assert "\n" not in caught.value.message


async def test_a_pod_that_dies_meanwhile_is_not_waited_for(pod):
    with pytest.raises(PodGone):
        await wait_ready(msgspec.structs.replace(pod, start_ticks=1))


def test_no_logs_no_tails(pod):
    assert log_tails(pod) == ""
