"""Post-copy: Redis runs at the destination while its memory still comes, and what happens when somebody dies then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from controller.clients import AgentClient
from controller.core.errors import MidstreamError
from controller.core.transfer import Transfer
from tests.harness.helpers import copies, end, helpers
from tests.harness.journeys import PROGRAMS, PYTHON, Lines, assert_nothing_lost, start_puppet
from tests.harness.killing import journal_in
from tests.harness.moving import ONE_LOOP, PORT, scene, spoilt, until
from tests.harness.sidecars import AGENT, running
from tests.harness.values import Data

pytestmark = ONE_LOOP

RUNNING = {"b:S", "b:R", "b:D"}
"""What `copies` says of one at b that is not stopped."""


async def filled(stage, mebibytes: int = 24) -> Data:
    """A Redis in a, and what it knows."""
    await stage.run_redis()
    return await asyncio.to_thread(Data, stage, mebibytes)


@asynccontextmanager
async def giving_stands_still(stage, name="redis", program="redis-server"):
    """A move that has committed, runs at b, and gets no page: the giver is stopped. Gives the move and the giver."""
    async with spoilt(stage.move(name, memory="post-copy"), stage.b.agent_socket, "/resume") as (moving, interposer):
        (giver,) = helpers(stage.a, "giver")
        os.kill(giver, signal.SIGSTOP)
        try:
            interposer.release.set()
            await until(lambda: set(copies(stage.b, program=program)) & RUNNING, "the copy does not run")
            yield moving, giver
        finally:
            if helpers(stage.a, "giver"):
                os.kill(giver, signal.SIGCONT)
            if not moving.done():
                await asyncio.wait({moving}, timeout=60)
            moving.cancel()


async def test_everything_arrives_and_the_source_ends_with_the_last_page(stage):
    data = await filled(stage)
    result = await stage.move("redis", memory="post-copy")
    assert result.outcome == "succeeded", result.error
    await asyncio.to_thread(data.check)
    await until(lambda: len(copies(stage.a, stage.b)) == 1, "two copies are left")
    assert copies(stage.a) == []
    assert not helpers(stage.a, "giver")
    assert not helpers(stage.b, "taker")
    back = await stage.move("redis", stage.b, stage.a, memory="post-copy")
    assert back.outcome == "succeeded", back.error
    await asyncio.to_thread(data.check)


ADVICE = {"DONTFORK": "dc", "DONTDUMP": "dd", "HUGEPAGE": "hg", "NOHUGEPAGE": "nh"}
"""Of madvise(2), and what VmFlags says then (proc_pid_smaps(5))."""


async def test_what_its_areas_are_for_is_known_of_much_memory_too(stage):
    """CRIU reads of each what /proc/<pid>/maps does not say: here from what was seen of it before the freeze."""
    told = await start_puppet(stage)
    told.do("import ctypes, mmap; kept = bytearray(b'7' * (300 << 20)); advised, private = {}, mmap.MAP_PRIVATE")
    told.do("anonymous = private | mmap.MAP_ANONYMOUS")
    for name in ADVICE:
        told.do(f"advised[{name!r}] = mmap.mmap(-1, 1 << 20, anonymous, 7)")  # each with an unlike one on either side
        told.do(f"advised[{name!r}].madvise(mmap.MADV_{name})")
    told.do("at = {name: ctypes.addressof(ctypes.c_char.from_buffer(one)) for name, one in advised.items()}")
    before = flags(told)
    assert {name: code for name, code in ADVICE.items() if code in before[name]} == ADVICE
    told.do("after_that = mmap.mmap(-1, 1 << 20, anonymous, 3)")
    result = await stage.move("puppet", memory="post-copy")
    assert_nothing_lost(result)
    assert told.do("kept == b'7' * (300 << 20)")
    assert flags(told) == before


def flags(told) -> dict[str, list[str]]:
    """Of each area that was advised, but for what userfaultfd(2) adds."""
    found: dict[str, list[str]] = {}
    starts = {f"{start:x}": name for name, start in told.do("at").items()}
    name = ""
    for line in told.do("open('/proc/self/smaps').read()").splitlines():
        if not line[0].isupper():
            name = starts.get(line.split("-")[0], "")
        elif name and line.startswith("VmFlags:"):
            found[name] = [flag for flag in line.split()[1:] if flag != "um"]
    return found


@pytest.mark.parametrize("way", ["shared", "direct"])
async def test_a_process_that_has_reserved_more_addresses_than_criu_can_list(stage, way):
    """As MariaDB does: by post-copy and straight it would fail each time: it goes by the images."""
    told = await start_puppet(stage)
    told.do("import mmap; kept = bytearray(b'7' * (160 << 20))")
    told.do("far = mmap.mmap(-1, 16 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, 0)")  # MAP_NORESERVE
    result = await stage.move("puppet", memory="auto", transfer=Transfer(way))
    assert_nothing_lost(result)
    assert result.memory.way == "stop-and-copy"
    assert told.do("kept == b'7' * (160 << 20)")


@pytest.mark.parametrize("mebibytes", [0, 260])
async def test_memory_of_every_kind_is_the_same_and_a_child_forked_meanwhile_has_it_too(stage, mebibytes):
    """Also where it is so much that CRIU is shown the large areas in part."""
    await stage.run("memories", *PYTHON, str(PROGRAMS / "memories.py"), str(PORT), str(mebibytes))
    await stage.answers(PORT)
    lines = Lines(stage.connect(stage.client, stage.a.address, PORT, 30))
    before = json.loads(await asyncio.to_thread(lines.ask, "sum"))
    assert before[0]["dense"] != before[1]["dense"], "the child has pages of its own"
    async with giving_stands_still(stage, "memories", "python3") as (moving, giver):
        lines.say("fork")
        os.kill(giver, signal.SIGCONT)
        assert json.loads(await asyncio.to_thread(lines.hear)) == before[:1]
        result = await asyncio.wait_for(moving, 60)
    assert result.outcome == "succeeded", result.error
    assert json.loads(await asyncio.to_thread(lines.ask, "sum")) == before


@pytest_asyncio.fixture(loop_scope="session")
async def cramped():
    """Pods that keep their images on a tmpfs each, and not on a large one."""
    async with scene(image_bytes=24 << 20) as made:
        yield made


async def test_between_agents_it_goes_straight_before_the_commit_and_whoever_dies_meanwhile_rolls_back(cramped):
    """Through no image: there would be no room for it."""
    data = await filled(cramped, 40)
    result = await cramped.move("redis", transfer=Transfer("shared"))
    assert result.error.message.startswith("pod b has too little room for images: "), result.error
    slowly = Transfer("direct", bytes_per_second=4e6)
    for pod, victim in ((cramped.b, "taker"), (cramped.b, AGENT), (cramped.a, AGENT)):
        moving = asyncio.create_task(cramped.move("redis", transfer=slowly, max_hold_seconds=20))
        await until(lambda: copies(cramped.b) == ["b:T"], "nothing is restored")
        await end(pod, victim)
        result = await moving
        assert result.outcome == "rolled-back", result.error
        await until(lambda: len(copies(cramped.a, cramped.b)) == 1, "two copies are left")
        await until(lambda: not helpers(cramped.a, "giver") + helpers(cramped.b, "taker"), "a helper is left")
        await asyncio.to_thread(data.check)
    result = await cramped.move("redis", transfer=Transfer("direct"))
    assert result.outcome == "succeeded", result.error
    assert result.memory is not None
    assert result.transfer is not None
    assert result.memory.fetched_bytes > 40 << 20 > 8 * result.transfer.bytes
    await asyncio.to_thread(data.check)
    assert copies(cramped.a, cramped.b) in (["b:S"], ["b:R"])
    assert not helpers(cramped.a, "giver") + helpers(cramped.b, "taker")


async def test_before_the_commit_a_dead_giver_rolls_back(stage):
    data = await filled(stage)
    move = stage.move("redis", memory="post-copy")
    async with spoilt(move, stage.b.agent_socket, "/restore") as (moving, interposer):
        (giver,) = helpers(stage.a, "giver")
        os.kill(giver, signal.SIGKILL)
        interposer.release.set()
        result = await moving
    assert result.outcome == "rolled-back", result.error
    assert [one[0] for one in copies(stage.a, stage.b)] == ["a"]
    assert not helpers(stage.b, "taker")
    await asyncio.to_thread(data.check)


@pytest.mark.parametrize("pod", ["a", "b"])
async def test_between_the_commit_and_the_last_page_the_source_stands_still_and_an_agent_may_die(mended, pod):
    data = await filled(mended)
    async with giving_stands_still(mended) as (moving, giver):
        assert copies(mended.a) == ["a:T"]
        victim = running(getattr(mended, pod), AGENT)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{victim}").exists(), "the agent does not end")
        os.kill(giver, signal.SIGCONT)
        result = await asyncio.wait_for(moving, 60)
    assert result.outcome == "succeeded", result.error
    await asyncio.to_thread(data.check)
    await until(lambda: not copies(mended.a), "the source does not end")


async def test_nor_does_a_child_that_was_forked_meanwhile_read_zeros(mended, tmp_path):
    """It is in no list of who was restored, and its parent's end was not its own."""
    await mended.run("late", *PYTHON, str(PROGRAMS / "late_child.py"), str(tmp_path))
    log, seen = Path(mended.a.directory) / "late.log", tmp_path / "seen"
    await until(lambda: "up" in log.read_text(), "it does not start")
    slowly = Transfer("direct", bytes_per_second=6 << 20)
    moving = asyncio.create_task(mended.move("late", memory="post-copy", transfer=slowly))
    try:
        await until(lambda: set(copies(mended.b, program="python3")) & RUNNING, "the copy does not run")
        (tmp_path / "go").touch()
        await until(lambda: seen.exists() and seen.read_text(), "there is no child")
        assert not moving.done()
        assert len(copies(mended.b, program="python3")) == 2
        await end(mended.a, "giver")
        result = await asyncio.wait_for(moving, 60)
    finally:
        moving.cancel()
    assert result.error.code == "memory-lost"
    await until(lambda: copies(mended.b, program="python3") == [], "somebody lives on without its memory")
    assert seen.read_text() == "nothing"


async def test_a_controller_that_takes_over_hears_of_it_too(mended, tmp_path):
    """Which way the memory went was the first one's choice."""
    await mended.run("late", *PYTHON, str(PROGRAMS / "late_child.py"), str(tmp_path))
    log = Path(mended.a.directory) / "late.log"
    await until(lambda: "up" in log.read_text(), "it does not start")
    slowly = ("--memory", "post-copy", "--transfer", "direct", "--transfer-rate", "6MiB")
    controller = await mended.start_midstream("migrate", "late", "--to", "b", *slowly)
    migration = await journal_in(mended, "Draining")
    controller.kill()
    await controller.communicate()
    await end(mended.a, "giver")
    await until(lambda: copies(mended.b, program="python3") == [], "it lives on without its memory")
    status, out, _ = await mended.midstream("resume", migration, "-o", "json")
    result = json.loads(out)
    assert (status, result["outcome"], result["error"]["code"]) == (4, "failed", "memory-lost")


@pytest.mark.parametrize("module", ["giver", "taker"])
async def test_memory_that_cannot_come_any_more_is_a_failure_in_words_and_no_copy_runs(mended, module):
    await filled(mended)
    async with giving_stands_still(mended) as (moving, giver):
        (victim,) = helpers(mended.a, "giver") if module == "giver" else helpers(mended.b, "taker")
        os.kill(victim, signal.SIGKILL)
        if module == "taker":
            os.kill(giver, signal.SIGCONT)
        result = await asyncio.wait_for(moving, 60)
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.code == "memory-lost"
    assert "had not all of its memory yet when the" in result.error.message
    await until(lambda: not copies(mended.b), "the copy without its memory does not end")
    async with AgentClient("agent", mended.b.agent_socket) as agent:
        with pytest.raises(MidstreamError):
            await agent.outbound(result.migration, "stop", dict)
    if module == "taker":  # else it would wait for another for 20 s, and keep the source so long
        await end(mended.a, "giver")
