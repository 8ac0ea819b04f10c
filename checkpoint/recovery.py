"""What an agent that was killed has left: each of its migrations is finished or taken back by the next one."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress

from checkpoint.core.custody import HOLDING, State
from checkpoint.core.errors import AgentError
from checkpoint.core.journal import MigrationRecord
from checkpoint.kernel import Kernel
from checkpoint.memory.ways import Giving, Taking
from checkpoint.moves.inbound import Inbound
from checkpoint.moves.naming import Naming
from checkpoint.moves.outbound import Outbound
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import tree
from checkpoint.processes.workloads import Workloads
from checkpoint.sockets.adoption import Adoption
from checkpoint.waiting import readable

_LOG = logging.getLogger(__name__)

_HELPER_SECONDS = 120.0
"""How long a new agent waits for the CRIU of the old one, as where a dump of tens of gigabytes cannot be broken off. A
killed CRIU leaves its own code in the tasks it was looking into."""

_ANEW = "the agent was started anew"


async def recover_source(around: Surroundings, workloads: Workloads, record: MigrationRecord) -> Outbound:
    """A migration on the way out, as far as it can go now."""
    _break_off(around, record)
    await _await_helper(around.kernel, record)
    giving = Giving.find(around.kernel, record.pager)
    if record.state in HOLDING | {State.PREPARED}:
        if giving is not None:
            await giving.close()
        if record.state in HOLDING:
            await _tell_proxy(around, record)
            _let_go(around, record)
        record.reason, record.state = _ANEW, State.RELEASED
    elif record.state in (State.COMMITTING, State.GIVING):
        # The commit was on record: the destination may believe in it. Forward is the only way.
        record.state = State.COMMITTED if giving is None else State.GIVING
        if giving is None:
            tree.kill(around.kernel, tree.hold_known(around.kernel, record.members))
        workloads.forget(record.workload)
    if record.state is State.RELEASED:
        Naming(around, record).take_back()
    _LOG.info("migration %s: now %s", record.migration, record.state.value)
    one = Outbound(around, record)
    if giving is not None and record.state is State.GIVING:
        one.go_on_giving(giving, tree.hold_known(around.kernel, record.members))
    return one


async def recover_destination(around: Surroundings, workloads: Workloads, record: MigrationRecord) -> Inbound:
    """A migration on the way in, as far as it can go now."""
    await _await_helper(around.kernel, record)
    one = Inbound(around, workloads, record)
    if record.state is State.RESTORED:
        one.take_up()
    elif record.state in (State.RESUMED, State.TAKING):
        if record.state is State.TAKING:
            one.go_on_taking()
        held = tree.hold_known(around.kernel, record.members)
        held.stopped_before = set(record.stopped_before)
        tree.resume(around.kernel, held)
        one.keep_files()
        held.close()
    elif record.state in (State.RESTORING, State.WAITING):
        if record.state is State.RESTORING:
            await _end_partial_copy(around, record)
        # The images' key died with the agent that had it.
        await _end_taker(around, record)
        await one.take_files_back()
        record.state, record.reason = State.DISCARDED, _ANEW
        return Inbound(around, workloads, record)
    return one


async def _tell_proxy(around: Surroundings, record: MigrationRecord) -> None:
    """The proxy holds on when an agent dies, and lets go when the next one asks, if it holds anything at all."""
    with suppress(AgentError):
        adoption = Adoption(around.adopt_path, record.migration, lambda: None)
        try:
            await adoption.release()
        finally:
            adoption.close()


def _let_go(around: Surroundings, record: MigrationRecord) -> None:
    held = tree.hold_known(around.kernel, record.members)
    if not held.members and record.root is not None and tree.is_alive(record.root.pid, record.root.start_time):
        # Killed between the record and the signals: whoever stands still in the tree, we have stopped.
        held = tree.hold_all(around.kernel, tree.descendants(record.root.pid))
    held.stopped_before = set(record.stopped_before)
    around.engine.release(held, {}, {})
    held.close()


async def _end_partial_copy(around: Surroundings, record: MigrationRecord) -> None:
    held = tree.hold_all(around.kernel, record.pids)
    around.engine.discard(held)
    await tree.until_gone(held, _HELPER_SECONDS)
    held.close()


async def _end_taker(around: Surroundings, record: MigrationRecord) -> None:
    work = around.store.folders(f"{record.migration}.in").work
    await Taking.find(around.kernel, record.pager, work).close()


def _break_off(around: Surroundings, record: MigrationRecord) -> None:
    """Nobody wants the images that a CRIU of the old agent is at."""
    one = record.helper
    if one is not None and tree.is_alive(one.pid, one.start_time):
        around.engine.break_off(one.pid)


async def _await_helper(kernel: Kernel, record: MigrationRecord) -> None:
    """Wait for the end of a CRIU that outlived its agent: until then the tree is in its hands."""
    one = record.helper
    record.helper = None
    if one is None or not tree.is_alive(one.pid, one.start_time):
        return
    held = tree.hold(kernel, one.pid)
    if held is None:
        return
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            await readable(held.pidfd)
    except TimeoutError:
        _LOG.error("CRIU (process %d) does not end: killing it", one.pid)
        tree.send(kernel, held, signal.SIGKILL)
    finally:
        tree.Tree([held]).close()
