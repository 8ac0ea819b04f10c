"""What a copy gets that CRIU has not given it, and what is said of the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess

import msgspec
import pytest

from checkpoint.core import pairs
from checkpoint.core.errors import AgentError
from checkpoint.core.manifest import KEY_BYTES
from checkpoint.core.sockopts import SocketOptions
from checkpoint.engine import RestoreReport
from checkpoint.images import added
from checkpoint.images.folder import Images
from checkpoint.images.store import Store, listing
from checkpoint.kernel import Kernel
from checkpoint.moves.restoring import Restoring
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import attributes
from checkpoint.processes.attributes import TaskAttributes
from checkpoint.processes.tree import Tree, hold_all, kill
from checkpoint.sockets import sockopts
from tests.harness.standing import standing_still

KEY = bytes(KEY_BYTES)


def carried(folder) -> list[str]:
    """With this process as the copy."""
    around = Surroundings(Kernel(), None, None, None, "", lambda: None, None, lambda name: None)
    restoring = Restoring(around, "m", folder, None, None)
    copy = hold_all(Kernel(), [os.getpid()])
    restoring._carry_over(copy, Images(folder, None))
    copy.close()
    return restoring.not_carried


def test_what_cannot_be_set_is_remembered(tmp_path):
    wanted = [TaskAttributes(os.getpid(), {"CPU affinity": "4000"})]
    (tmp_path / attributes.FILE).write_bytes(msgspec.json.encode(wanted))
    (tmp_path / sockopts.FILE).write_bytes(b"[]")
    assert carried(tmp_path) == [f"CPU affinity 4000 of thread {os.getpid()}: Invalid argument"]


async def test_a_copy_that_cannot_be_completed_is_ended(tmp_path):
    """As where one of its processes has been killed already, by whoever was short of memory."""
    killed, other = [await asyncio.create_subprocess_exec("sleep", "60") for _ in range(2)]

    class Engine:
        async def prepare(self, *, inherited: dict[str, int]) -> None: ...

        async def restore(self, helper, folders, *, lazily: bool, inherited: list[str]) -> RestoreReport:
            copy = hold_all(Kernel(), [killed.pid, other.pid])
            killed.kill()
            await killed.wait()
            return RestoreReport(killed.pid, copy, {})

        def discard(self, tree: Tree) -> None:
            kill(Kernel(), tree)

    folder, work = tmp_path / "images", tmp_path / "work"
    folder.mkdir()
    (folder / sockopts.FILE).write_bytes(msgspec.json.encode([SocketOptions(killed.pid, 0, [])]))
    store = Store(tmp_path / "store")
    around = Surroundings(
        Kernel(), Engine(), None, store, "", lambda: None, lambda work, _: asyncio.create_task(work), lambda name: None,
        tmp_path,
    )  # fmt: skip
    restoring = Restoring(around, "m", work, None, lambda name: contextlib.nullcontext())
    try:
        sealed, _ = await store.seal(folder, KEY, listing(folder), {})
        with pytest.raises(ProcessLookupError):
            await restoring.restore(folder, sealed, KEY, lazily=False)
        assert await asyncio.wait_for(other.wait(), 30) == -signal.SIGKILL
    finally:
        await restoring.close()
        store.close()
        if other.returncode is None:
            other.kill()
            await other.wait()


async def test_a_copy_that_cannot_be_given_its_connections_is_ended(tmp_path):
    """Here it has no door to get them through."""
    copy = subprocess.Popen(["sleep", "60"])  # not asyncio's: that waits for it, and so takes what a tracer waits for

    class Engine:
        async def prepare(self, *, inherited: dict[str, int]) -> None:
            assert list(inherited) == [added.DOOR]

        async def restore(self, helper, folders, *, lazily: bool, inherited: list[str]) -> RestoreReport:
            assert inherited == [added.DOOR]
            return RestoreReport(copy.pid, hold_all(Kernel(), [copy.pid]), {})

        def discard(self, tree: Tree) -> None:
            kill(Kernel(), tree)

    left = pairs.Left([(copy.pid, 900)], [pairs.Connection(11, [(copy.pid, 40, True)])])
    (tmp_path / pairs.FILE).write_bytes(msgspec.json.encode(left))
    around = Surroundings(
        Kernel(), Engine(), None, None, "", lambda: None, lambda work, name: asyncio.ensure_future(work), print
    )
    restoring = Restoring(around, "m", tmp_path, None, lambda name: contextlib.nullcontext())
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as end:
        restoring._pairing._ends[11] = end.dup()
        try:
            with standing_still(copy.pid), pytest.raises(AgentError, match="cannot be given its connections"):
                await restoring._make(tmp_path, lazily=False)
            assert copy.wait(30) == -signal.SIGKILL
        finally:
            await restoring.close()
            copy.kill()
            copy.wait()


def test_images_of_a_time_that_knew_of_none(tmp_path):
    assert carried(tmp_path) == []
