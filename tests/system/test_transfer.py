"""Moves whose images go from agent to agent, over connections of their own, as CRIU writes them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

import checkpoint.api as agent_api
from controller.clients import AgentClient
from controller.core.transfer import Transfer
from controller.migrate import Driver
from controller.transfer import Depot
from tests.harness.clients import Echo
from tests.harness.cutter import Then, cutter
from tests.harness.journeys import assert_nothing_lost, start_puppet
from tests.harness.keys import key_file
from tests.harness.moving import ONE_LOOP, PORT, scene, until
from tests.harness.object_store import object_store, start_threads
from tests.harness.sidecars import AGENT, running

pytestmark = ONE_LOOP

IMAGE_BYTES = 256 << 20
SHARED_BYTES = 48 << 20
SOME_BYTES = 50_000
"""Part of an image, however well it is compressed: that depends on how fast the store is."""


@pytest.fixture(scope="module")
def obstores_own_threads() -> None:
    start_threads()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing():
    """Pods that keep their images on a tmpfs each, as machines would."""
    async with scene(image_bytes=IMAGE_BYTES) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def stage(mended):
    return mended


async def test_there_and_back_again(stage, tmp_path):
    await stage.run_server()
    streaming = [Echo(stage.client, stage.a.address, PORT) for _ in range(4)]
    for source, destination in ((stage.a, stage.b), (stage.b, stage.a)):
        result = await stage.move("server", source, destination)
        assert result.outcome == "succeeded", result.error
        assert result.transfer is not None
        assert (result.transfer.way, result.transfer.retries) == ("direct", 0)
        assert result.transfer.bytes >= result.transfer.wire_bytes > 100_000
    result = await stage.move("server", transfer=Transfer("shared"))
    assert (result.outcome, result.error.code) == ("rolled-back", "folder-not-shared"), result.error
    (tmp_path / "file").touch()
    depot = Depot(agent_api.Archive(str(tmp_path / "file/archive")), key_file(tmp_path / "key"))
    result = await stage.move("server", transfer=Transfer("store"), depot=depot)
    assert (result.outcome, result.error.code) == ("rolled-back", "archive-refused"), result.error
    for each in streaming:
        await asyncio.to_thread(each.finish)


async def test_room_for_images_is_taken_before_the_freeze_and_where_there_is_none_nothing_stops(stage):
    """Memory that is shared goes by them. Who fills the destination's tmpfs does so after the preflight."""
    images = Path(f"/proc/{stage.b.pid1}/root{stage.b.images}")
    filler, free = images / "filler", free_bytes(images)
    told = await start_puppet(stage)
    told.do(f"import mmap; kept = mmap.mmap(-1, {SHARED_BYTES}); kept.write(b'7' * {SHARED_BYTES})")

    def fill_it(driver: Driver) -> None:
        def phase_started(name: str, at: float) -> None:
            if name == "Preparing":
                with filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, free - SHARED_BYTES)

        driver.observer.phase_started = phase_started  # type: ignore[method-assign]

    result = await stage.move("puppet", transfer=Transfer("direct"), prepare=fill_it)
    assert (result.outcome, result.error.code) == ("rolled-back", "no-space"), result.error
    assert "no room for the images at the destination" in result.error.message
    assert (result.freeze_seconds, "Stopping" in [one.name for one in result.phases]) == (0, False)
    filler.unlink()
    assert free_bytes(images) == free, "all that was taken is given back"
    result = await stage.move("puppet", transfer=Transfer("direct"))
    assert_nothing_lost(result)
    assert result.transfer.reserved_bytes >= SHARED_BYTES
    assert result.transfer.reserve_seconds > 0
    assert told.do(f"kept[:] == b'7' * {SHARED_BYTES}")
    await until(lambda: free_bytes(images) == free, "the destination's tmpfs is not as it was")


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.usefixtures("obstores_own_threads")
async def test_by_way_of_a_real_object_store_also_one_that_goes_down_half_way(stage, tmp_path):
    """SeaweedFS at the bridge, sealed objects in it; nothing is left there, also of what had arrived in vain. It goes
    down while the source stores, and while the destination fetches; or is too slow for the hold; or an agent is
    killed."""
    key = key_file(tmp_path / "key")
    async with object_store_for(stage) as server:
        await stage.run_server()
        client = Echo(stage.client, stage.a.address, PORT)
        through = Transfer("store")
        result = await stage.move("server", transfer=through, depot=Depot(server.archive(), key), max_hold_seconds=60)
        assert (result.outcome, result.transfer and result.transfer.way) == ("succeeded", "store"), result.error
        assert result.transfer.wire_bytes > 2 * SOME_BYTES
        for fetching in (False, True):
            result = await interrupted(stage, server, key, fetching, lambda way: take_back(stage.b, way))
            assert result.outcome == "rolled-back", result.error
            # Who fetches finds nothing any more; or has fetched everything by then, and the source commits nothing.
            assert fetching or result.error.code == "transfer-broken", result.error
            assert ("Restoring" in [phase.name for phase in result.phases]) is fetching
        async with cutter(server.host, server.port, after_bytes=1 << 60, then=Then.DOWN, pause_seconds=0.2) as way:
            depot = Depot(server.archive(aws_endpoint_url=f"http://{server.host}:{way.port}"), key)
            result = await stage.move("server", stage.b, stage.a, transfer=through, depot=depot, max_hold_seconds=2)
        assert (result.outcome, result.error.code) == ("rolled-back", "lease-expired"), result.error
        await asyncio.to_thread(client.finish)
        assert not await asyncio.to_thread(server.objects)
        for fetching, victim in ((False, stage.b), (True, stage.a)):
            result = await interrupted(stage, server, key, fetching, lambda way, victim=victim: kill(victim, way))
            assert result.outcome == "rolled-back", result.error
            assert (await stage.workloads(stage.b))["server"].state == "running"
        client = Echo(stage.client, stage.b.address, PORT)
        assert (await stage.move("server", stage.b, stage.a)).outcome == "succeeded"
        await asyncio.to_thread(client.finish)


async def interrupted(stage, server, key, fetching: bool, interrupt):
    """A move from b to a, interrupted when its store has gone down, while one end stores or the other fetches."""
    down = cutter(server.host, server.port, after_bytes=SOME_BYTES, then=Then.DOWN, counts_answers=fetching)
    async with down as way:
        depot = Depot(server.archive(aws_endpoint_url=f"http://{server.host}:{way.port}"), key)
        moving = asyncio.create_task(
            stage.move("server", stage.b, stage.a, transfer=Transfer("store"), depot=depot, max_hold_seconds=60)
        )
        await until(lambda: way.cuts == 1, "nothing is stored")
        await interrupt(way)
        return await moving


async def kill(pod, way) -> None:
    """Its agent, and then the store is well again."""
    os.kill(running(pod, AGENT), signal.SIGKILL)
    way.mend()


@asynccontextmanager
async def object_store_for(stage):
    """One that the pods reach. It takes seconds to start."""
    with ExitStack() as stack:
        gateway = f"{stage.a.address.rpartition('.')[0]}.254"
        yield await asyncio.to_thread(stack.enter_context, object_store(gateway))


async def take_back(pod, way) -> None:
    """Have the source let its workload go on. What is stored is deleted when the store is there again."""
    async with AgentClient("source", pod.agent_socket) as agent, AgentClient("the same", pod.agent_socket) as other:
        (mine,) = [one.migration for one in await agent.migrations() if one.side == "source"]
        releasing = asyncio.create_task(agent.outbound(mine, "release", agent_api.Custody, timeout_seconds=30))
        while not releasing.done() and all(one.state != "released" for one in await other.migrations()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        way.mend()
        await releasing


async def test_a_wire_too_slow_for_the_hold_and_agents_killed_while_they_stream(stage):
    """Each time the workload goes on where it was, and no client notices more than that."""
    await stage.run_server()
    client = Echo(stage.client, stage.a.address, PORT)
    hopeless = await stage.move("server", transfer=Transfer("auto", bytes_per_second=20_000), max_hold_seconds=3)
    assert (hopeless.outcome, hopeless.error.code) == ("rolled-back", "hold-too-short"), hopeless.error
    assert hopeless.freeze_seconds == 0
    result = await stage.move("server", transfer=Transfer("direct", bytes_per_second=1e6), max_hold_seconds=0.4)
    assert (result.outcome, result.error.code) == ("rolled-back", "lease-expired"), result.error
    slow = Transfer("direct", bytes_per_second=200_000)
    for pod in (stage.b, stage.a):
        moving = asyncio.create_task(stage.move("server", transfer=slow, max_hold_seconds=30))
        await streaming(stage.a)
        victim = running(pod, AGENT)
        os.kill(victim, signal.SIGKILL)
        result = await moving
        assert result.outcome == "rolled-back", result.error
        await until(lambda victim=victim: not Path(f"/proc/{victim}").exists(), "the agent does not end")
        assert (await stage.workloads(stage.a))["server"].state == "running"
    assert (await stage.move("server")).outcome == "succeeded"
    await asyncio.to_thread(client.finish)


async def test_the_destinations_disk_fills_up_while_they_stream(stage):
    await stage.run_server()
    client = Echo(stage.client, stage.a.address, PORT)
    slow = Transfer("direct", bytes_per_second=500_000)
    moving = asyncio.create_task(stage.move("server", transfer=slow, max_hold_seconds=60))
    await streaming(stage.a)
    filler = f"{stage.b.images}/filler"
    filling = ["nsenter", "-a", "-t", str(stage.b.pid1), "sh", "-c", f"cat /dev/zero > {filler}"]
    assert "No space left" in subprocess.run(filling, capture_output=True, text=True).stderr
    result = await moving
    assert (result.outcome, result.error.code) == ("rolled-back", "no-space"), result.error
    subprocess.run([*filling[:4], "rm", filler], check=True)
    assert (await stage.move("server")).outcome == "succeeded"
    await asyncio.to_thread(client.finish)


async def streaming(pod) -> None:
    """Until the last of the images is being sent."""
    async with AgentClient("source", pod.agent_socket) as agent:
        deadline = asyncio.get_running_loop().time() + 30
        while not any(one.state == "adopted" for one in await agent.migrations()):
            assert asyncio.get_running_loop().time() < deadline, "no images are sent"
            await asyncio.sleep(0.01)
