"""The source's side where CRIU itself does not decide: a dump to be tried again, on an engine that is scripted."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from checkpoint.api import Files
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.moves.dumping import DUMP_TRIES
from checkpoint.processes import procfs
from checkpoint.processes.stopping import until_stopped
from checkpoint.processes.tree import Tree, hold, hold_all, is_stopped, send
from checkpoint.sockets.duplicates import sockets_of
from tests.harness.told_child import ToldChild
from tests.unit.checkpoint.moves.conftest import Helper, Scripted, queue_moved


@pytest.fixture
def told_child() -> Iterator[ToldChild]:
    made = ToldChild()
    yield made
    made.close()


async def test_a_dump_that_a_peers_bytes_spoilt_is_made_again(migrate):
    engine = Scripted(queue_moved(), None)
    migration = await migrate(engine)
    assert (await migration.dump()).processes == 1
    assert engine.prepared == 2
    assert migration.state is State.DUMPED


async def test_what_criu_could_not_save_it_is_not_shown_then_either(migrate, told_child):
    """It is looked at anew for each dump."""
    told_child.tell("one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)")

    class Asking(Helper):
        async def questions(self) -> int:
            ours, theirs = socket.socketpair()
            nobody.append(theirs)
            return ours.detach()

    class Showing(Scripted):
        async def prepare(self, root=None, **_):
            await super().prepare()
            return Asking()

        async def stop(self, root):
            os.kill(told_child.pid, signal.SIGSTOP)
            await until_stopped(Kernel(), [told_child.pid])
            tree.members += hold_all(Kernel(), [told_child.pid]).members
            return tree

        async def dump(self, helper, root, folders, **more):
            hiding = migration._dumping._hiding
            async with asyncio.timeout(20):
                while hiding._shown is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            shown.append(hiding._shown)
            return await super().dump(helper, root, folders, **more)

    nobody: list[socket.socket] = []
    shown: list[dict[int, list[int]]] = []
    tree = Tree()
    migration = await migrate(Showing(queue_moved(), None), root=told_child.pid)
    try:
        await migration.dump()
    finally:
        tree.close()
        for one in nobody:
            one.close()
    everything = set(map(int, procfs.names(f"/proc/{told_child.pid}/fd")))
    assert [{pid: set(fds) for pid, fds in one.items()} for one in shown] == [
        {told_child.pid: everything - {told_child.fd["one"]}}
    ] * 2


async def test_and_only_when_everything_stands_still_again(migrate):
    """CRIU lets go of the tasks when it fails: the next one is to find them in state T, as the first did."""

    class Waking(Scripted):
        async def stop(self, root):
            kernel = Kernel()
            tree.members.append(hold(kernel, child.pid))
            send(kernel, tree.members[0], signal.SIGSTOP)
            await until_stopped(kernel, [child.pid])
            return tree

        async def dump(self, helper, root, folders, **more):
            assert is_stopped(child.pid)
            if len(self.endings) == 2:
                child.send_signal(signal.SIGCONT)
                asyncio.get_running_loop().call_later(0.1, child.send_signal, signal.SIGSTOP)
            return await super().dump(helper, root, folders, **more)

    tree, child = Tree(), await asyncio.create_subprocess_exec("sleep", "60")
    try:
        migration = await migrate(Waking(queue_moved(), None))
        assert (await migration.dump()).processes == 1
    finally:
        tree.close()
        child.kill()
        await child.wait()


async def test_but_not_for_ever(migrate):
    engine = Scripted(*(queue_moved() for _ in range(DUMP_TRIES)))
    migration = await migrate(engine)
    with pytest.raises(AgentError) as error:
        await migration.dump()
    assert error.value.code is Code.QUEUE_MOVED
    assert migration.state is State.STOPPED


async def test_and_not_for_another_cause(migrate):
    engine = Scripted(AgentError(Code.NO_SPACE, "full"), None)
    migration = await migrate(engine)
    with pytest.raises(AgentError, match="full"):
        await migration.dump()
    assert len(engine.endings) == 1


async def test_what_is_done_beside_a_dump_that_fails_is_waited_for(migrate, tmp_path):
    """The sockets are still looked at when the dump fails, and the packing too: nothing of them is kept."""

    class Slow(Kernel):
        def pidfd_getfd(self, pidfd: int, fd: int) -> int:
            time.sleep(0.1)
            return super().pidfd_getfd(pidfd, fd)

    class Holding(Scripted):
        async def stop(self, root):
            return hold_all(Kernel(), [child.pid])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = await asyncio.create_subprocess_exec("sleep", "60", pass_fds=[listener.fileno()])
        inode = os.fstat(listener.fileno()).st_ino
    try:
        folder = tmp_path / "data"
        folder.mkdir()
        engine = Holding(AgentError(Code.NO_SPACE, "full"))
        migration = await migrate(engine, kernel=Slow(), files=Files((str(folder),)))
        folder.rmdir()
        with pytest.raises(AgentError, match="full"):
            await migration.dump()
        await migration.release()
        await asyncio.sleep(0.5)  # more than the look takes, if it is under way
        assert inode not in {ino for _, ino in sockets_of(os.getpid())}
    finally:
        child.kill()
        await child.wait()


async def test_a_preparation_that_fails_leaves_nothing(migrate, tmp_path):
    class Unprepared(Scripted):
        async def prepare(self, root: int | None = None, **_: object) -> None:
            assert list((tmp_path / "images").iterdir())
            raise AgentError(Code.CRIU_MISSING, "no CRIU")

    with pytest.raises(AgentError, match="no CRIU"):
        await migrate(Unprepared())
    assert not list((tmp_path / "images").iterdir())


async def test_what_is_forgotten_while_it_is_prepared_leaves_nothing(migrate, tmp_path):
    """As where its controller was killed: the next one takes it back, and what was asked for is still being done."""

    class Slow(Scripted, Helper):
        async def prepare(self, root: int | None = None, *, asking: bool = False, lazily: bool = False) -> Helper:
            forgetting.append(asyncio.create_task(source.forget()))
            await asyncio.sleep(0.05)
            return self

        async def close(self) -> None:
            closed.append(self)

    engine, closed, forgetting = Slow(), [], []
    source = await migrate(engine, prepare=False)
    await source.prepare()
    assert (await forgetting[0]).state == "released"
    assert closed == [engine]
    assert not list((tmp_path / "images").iterdir())


class Endless(Scripted):
    """Its dumps end when they are broken off, and not before."""

    begun: Callable[[], None] = staticmethod(lambda: None)

    async def dump(self, helper, root, folders, **_):
        self.begun()
        await self.broken_off.wait()
        raise AgentError(Code.CRIU_FAILED, "File too large")


async def test_the_lease_breaks_off_a_dump(migrate):
    engine = Endless()
    migration = await migrate(engine)
    engine.begun = lambda: migration._lease.arm(0.0)  # long ago: it runs out in the middle of the dump
    with pytest.raises(AgentError) as error:
        await migration.dump()
    assert (error.value.code, error.value.problem.message) == (
        Code.LEASE_EXPIRED,
        "the dump was broken off: the lease ran out",
    )
    assert str(error.value.__cause__) == "File too large"


async def test_so_does_a_release_also_between_two_tries(migrate):
    class Moved(Endless):
        async def dump(self, helper, root, folders, **more):
            if len(self.endings) == 1:
                self.endings.pop()
                released.append(asyncio.create_task(migration.release("enough")))
                await asyncio.sleep(0)
                raise queue_moved()
            return await super().dump(helper, root, folders, **more)

    released: list[asyncio.Task[object]] = []
    migration = await migrate(Moved(None))
    with pytest.raises(AgentError, match="the dump was broken off: enough"):
        await migration.dump()
    await released[0]
    assert (migration.state, migration.record.reason) == (State.RELEASED, "enough")


async def test_a_name_is_lent_when_it_is_on_record_and_never_where_it_cannot_be(migrate, tmp_path):
    """An agent that is killed in between knows of it; one whose disk is full has lent nothing."""
    name, names = tmp_path / "one (deleted)", []
    with (tmp_path / "one").open("w"):
        (tmp_path / "other").hardlink_to(tmp_path / "one")
        (tmp_path / "one").unlink()
        migration = await migrate(Scripted(), stop=False, save=lambda: names.append(name.exists()))
        assert (migration.record.lent, names, name.exists()) == ([str(name)], [False], True)
        await migration.forget()
        assert not name.exists()

        def full():
            raise OSError(errno.ENOSPC, "full")

        with pytest.raises(OSError, match="full"):
            await migrate(Scripted(), stop=False, save=full)
        assert not name.exists()
