"""Process trees, stopped: real ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.processes import stopping
from checkpoint.processes import tree as trees

KERNEL = Kernel()


async def test_a_tree_is_stopped_whole_and_goes_on(family):
    tree = await stopping.stop(KERNEL, family)
    assert len(tree.pids) == 3
    assert tree.pids[0] == family
    assert all(trees.is_stopped(pid) for pid in tree.pids)
    trees.resume(KERNEL, tree)
    assert not any(trees.is_stopped(pid) for pid in tree.pids)
    tree.close()
    assert tree.members == []


async def test_who_was_stopped_before_stays_stopped(family):
    child = trees.descendants(family)[1]
    os.kill(child, signal.SIGSTOP)
    await stopping.until_stopped(KERNEL, [child])
    tree = await stopping.stop(KERNEL, family)
    assert tree.stopped_before == {child}
    trees.resume(KERNEL, tree)
    assert [trees.is_stopped(pid) for pid in tree.pids] == [pid == child for pid in tree.pids]
    tree.close()


PARENT = "import os, time\nif os.fork() == 0: time.sleep(1000)\nprint('up', flush=True)\nos.wait()\ntime.sleep(1000)\n"


class Late(Kernel):
    """The child of the PARENT ends, and is waited for, before its parent stops."""

    parent: tuple[int, signal.Signals] | None = None

    def pidfd_signal(self, pidfd, number):
        if self.parent is None:
            self.parent = pidfd, number
            return
        super().pidfd_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 30)
        super().pidfd_signal(*self.parent)


@pytest.mark.parametrize("kernel", [KERNEL, Late()], ids=["stopped", "ended"])
async def test_who_ended_while_the_tree_was_stopped_is_no_member(kernel):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", PARENT], stdout=subprocess.PIPE) as process:
        assert process.stdout.read(3) == b"up\n"
        parent, child = trees.descendants(process.pid)
        try:
            tree = await stopping.stop(kernel, parent)
            assert tree.pids == ([parent, child] if kernel is KERNEL else [parent])
            tree.close()
        finally:
            for pid in trees.descendants(parent):
                os.kill(pid, signal.SIGKILL)


async def test_a_tree_that_has_ended_cannot_be_stopped():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(AgentError) as caught:
        await stopping.stop(KERNEL, process.pid)
    assert caught.value.code is Code.WORKLOAD_GONE
    assert trees.hold(KERNEL, process.pid) is None
    assert not trees.is_alive(process.pid, 0)
    assert trees.threads(process.pid) == []
    assert not trees.is_stopped(process.pid)


async def test_what_does_not_stop_is_named_and_goes_on(family, monkeypatch):
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "is_stopped", lambda pid: False)
    with pytest.raises(AgentError, match=str(family)) as caught:
        await stopping.stop(KERNEL, family)
    assert caught.value.code is Code.NOT_STOPPED
    monkeypatch.undo()
    assert not trees.is_stopped(family)
