"""The driver and pre-copy: recorded rounds through the real phase machine.

The sidecars are stood in for, since this kernel does not track what a process writes: what they answered is recorded.
`tests/system/test_precopy.py` moves a workload with rounds of the real CRIU's.
"""

from __future__ import annotations

import asyncio
import errno

import msgspec
import pytest

from checkpoint.api import RECORD, Memory, MemoryFeatures, PreDumped, Reserved
from checkpoint.core.custody import State
from checkpoint.core.journal import Journal as Record
from checkpoint.core.journal import MigrationRecord
from checkpoint.statefile import StateFile
from controller import migrate
from controller.actions import Move
from controller.core.choose import choose
from controller.core.errors import EXIT_FAILED, Stuck, Unreachable
from controller.core.phases import Action, Event, Phase
from controller.core.plan import Plan
from controller.core.predict import Rates, Size
from controller.journal import Intent, Journal, read
from controller.lab.pod import Pod
from controller.migrate import VAIN as VAINLY
from controller.migrate import Driver
from tests.harness.moving import Silent

GIB, MIB = 1 << 30, 1 << 20
FREEZE, AGAIN, VAIN = "freeze", "another-round", "fall-back"
CALM = [PreDumped(1, GIB, 3.4, AGAIN, "", 3.5), PreDumped(2, 70 * MIB, 0.24, FREEZE, "short enough", 0.6)]
BUSY = [PreDumped(1, GIB, 3.4, AGAIN, "", 3.5), PreDumped(2, GIB, 3.3, VAIN, "it writes too fast", 3.4)]


class Recorded(Move):
    """Every call succeeds; a round's answer is the next of those recorded."""

    def __init__(self, intent: Intent, rounds: list[PreDumped], features: MemoryFeatures) -> None:
        pods = [Pod(name, 1, "", "", "/nowhere", "", "") for name in (intent.source, intent.destination)]
        super().__init__(intent, *pods)
        self.said: list[Action] = []
        self._recorded, self._features = list(rounds), features
        self.silent: Action | None = None
        self.early: list[Memory] = []
        """What the destination says of memory that is sent before the freeze, one answer after the other."""
        self.room: list[Reserved] = []
        """And of the room for the images."""

    async def perform(self, action: Action) -> None:
        self.said.append(action)
        if action is self.silent:
            raise Unreachable("timeout", "nobody answers")
        if action is Action.CHECK_PLAN:
            memory, _ = choose(self.intent.memory, Size(4 * GIB), Rates(1e9), self._features)
            self.plan = Plan("redis", "a", "b", 1, [], 1, 1, 4 * GIB, 0, [], {}, 0, [], memory=memory)
        elif action is Action.PRE_COPY:
            self.rounds.append(self._recorded.pop(0))
        elif action is Action.RESERVE and self.room:
            self.reserved = self.room.pop(0)
        elif action is Action.SEND_EARLY and self.early:
            self.memory = self.early.pop(0)
        elif action is Action.AWAIT_MEMORY and self.memory is not None:
            self.memory = msgspec.structs.replace(self.memory, state="complete")
        elif action is Action.START_OVER:
            await self._start_over()

    async def _forget(self) -> None:
        self.said.append(Action.FORGET)


@pytest.fixture
def drive(tmp_path):
    """Makes a driver of a move with `--memory pre-copy`."""
    journals = []

    def make(rounds: list[PreDumped], features: MemoryFeatures) -> Driver:
        intent = Intent("redis-1", "redis", "a", "b", 10, 1 << 20, memory="pre-copy")
        journals.append(Journal.begin(tmp_path, intent))
        return Driver(Recorded(intent, rounds, features), journals[-1], Silent())

    yield make
    for journal in journals:
        journal.close()


async def test_after_the_rounds_that_were_needed_the_workload_is_stopped(drive):
    driver = drive(CALM, MemoryFeatures(0, 40 * GIB))
    result = await driver.run()
    names = [phase.name for phase in result.phases]
    assert names[2:5] == ["Preparing", "PreCopying", "Stopping"]
    assert driver.move.said.count(Action.PRE_COPY) == 2
    assert (result.outcome, result.memory.way, result.memory.fell_back) == ("succeeded", "pre-copy", "")
    assert [one.bytes for one in result.memory.rounds] == [GIB, 70 * MIB]
    seen, planned = result.memory, driver.move.plan.memory
    assert (seen.predicted_freeze_seconds, seen.predicted_total_seconds) == (
        planned.freeze_seconds,
        planned.total_seconds,
    )
    assert seen.total_seconds == pytest.approx(sum(phase.seconds for phase in result.phases[2:]))


@pytest.mark.parametrize(
    ("features", "way"),
    [(MemoryFeatures(40 * GIB, 40 * GIB), "post-copy"), (MemoryFeatures(0, 40 * GIB), "stop-and-copy")],
)
async def test_rounds_in_vain_are_forgotten_and_another_way_is_prepared(drive, features, way):
    driver = drive(BUSY, features)
    result = await driver.run()
    names = [phase.name for phase in result.phases]
    assert names[2:6] == ["Preparing", "PreCopying", "Preparing", "Stopping"]
    said = driver.move.said
    again = said.index(Action.FORGET)
    assert said.count(Action.PREPARE_SOURCE) == said[again:].count(Action.PREPARE_SOURCE) + 1 == 2
    assert (result.outcome, result.memory.way) == ("succeeded", way)
    assert result.memory.fell_back == "pre-copy was given up: it writes too fast"
    assert len(result.memory.rounds) == 2


async def test_where_the_kernel_does_not_track_there_are_none(drive):
    driver = drive([], MemoryFeatures(40 * GIB))
    result = await driver.run()
    assert Phase.PRE_COPYING not in [phase.name for phase in result.phases]
    assert (result.memory.way, result.memory.rounds) == ("post-copy", [])
    assert "CONFIG_MEM_SOFT_DIRTY" in result.memory.fell_back


async def test_one_that_is_left_to_another_controller_says_why_for_as_long_as_it_is_open(drive, monkeypatch):
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0.01)
    driver = drive(CALM, MemoryFeatures(0, 40 * GIB))
    monkeypatch.setattr(Pod, "alive", True)
    driver.move.silent = Action.RESUME
    with pytest.raises(Stuck) as caught:
        await driver.run()
    why = f"stuck in {driver.phase.value}: nobody answers (go on with: midstream resume redis-1)"
    assert (str(caught.value), caught.value.exit_status) == (why, EXIT_FAILED)
    record = read(driver.journal.path)
    assert (record.reason, record.phase, record.final) == (why, driver.phase, False)
    driver.move.silent = None
    await Driver(driver.move, driver.journal, Silent(), driver.phase).run()
    assert read(driver.journal.path).reason == ""


@pytest.mark.parametrize(("state", "outcome"), [(State.COMMITTING, "succeeded"), (State.SEALED, "rolled-back")])
async def test_a_source_that_ends_after_it_was_looked_at_is_lost_only_if_it_had_not_given_up(
    drive, monkeypatch, tmp_path, state, outcome
):
    """When the commit was asked for it was there still, and in doubt."""
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "PATIENCE_SECONDS", 0.1)
    driver = drive(CALM, MemoryFeatures(0, 40 * GIB))
    driver.move.source = msgspec.structs.replace(driver.move.source, directory=str(tmp_path))
    file = StateFile(tmp_path / RECORD)
    file.save(Record([], [MigrationRecord("redis-1", "redis", "source", state)]))
    file.close()
    monkeypatch.setattr(Pod, "alive", False)
    driver.move.silent = Action.COMMIT
    running = asyncio.create_task(driver.run())
    while driver.move.said.count(Action.COMMIT) < 2 and not running.done():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    driver.move.silent = None
    assert (await running).outcome == outcome


async def test_between_two_rounds_it_can_be_cancelled(drive):
    driver = drive(CALM, MemoryFeatures(0, 40 * GIB))
    driver.observer.round = lambda *_: driver.cancel()
    result = await driver.run()
    assert (result.outcome, driver.move.said.count(Action.PRE_COPY)) == ("rolled-back", 1)
    assert Action.STOP not in driver.move.said


async def test_the_workload_is_not_stopped_before_all_is_there_that_is_sent_before(drive):
    driver = drive([], MemoryFeatures())
    driver.move.early = [Memory("waiting", early="coming"), Memory("waiting", early="there", early_bytes=GIB)]
    result = await driver.run()
    assert driver.move.said.count(Action.SEND_EARLY) == 2
    assert driver.move.said.index(Action.STOP) > driver.move.said.index(Action.SEND_EARLY) + 1
    assert (result.outcome, result.memory.early_bytes) == ("succeeded", GIB)


async def test_the_freeze_waits_for_the_room_of_the_images(drive):
    driver = drive([], MemoryFeatures())
    driver.move.room = [Reserved("coming", MIB, 0.1), Reserved("there", GIB, 2.0)]
    await driver.run()
    assert driver.move.said.count(Action.RESERVE) == 2
    assert driver.move.said.index(Action.STOP) > driver.move.said.index(Action.RESERVE) + 1


async def test_while_room_is_taken_it_can_be_cancelled(drive):
    driver = drive([], MemoryFeatures())
    driver.move.room = [Reserved("coming", MIB, 0.1)] * 100
    perform = driver.move.perform

    async def cancelling(action):
        await perform(action)
        if action is Action.RESERVE:
            driver.cancel()

    driver.move.perform = cancelling
    result = await driver.run()
    assert (result.outcome, driver.move.said.count(Action.RESERVE)) == ("rolled-back", 1)
    assert Action.STOP not in driver.move.said


async def test_while_memory_is_sent_before_the_freeze_it_can_be_cancelled(drive):
    driver = drive([], MemoryFeatures())
    driver.move.early = [Memory("waiting", early="coming")] * 100
    driver.observer.early = lambda *_: driver.cancel()
    result = await driver.run()
    assert (result.outcome, driver.move.said.count(Action.SEND_EARLY)) == ("rolled-back", 1)
    assert Action.STOP not in driver.move.said


@pytest.mark.parametrize("action", [action for action in Action if action in VAINLY])
async def test_what_takes_long_is_not_waited_for_when_the_rollback_is_asked_for(drive, action):
    driver = drive([], MemoryFeatures())
    perform = driver.move.perform

    async def endless(said: Action) -> None:
        await perform(said)
        if said is action:
            driver.cancel()
            await asyncio.Event().wait()

    driver.move.perform = endless
    result = await asyncio.wait_for(driver.run(), 30)
    assert (result.outcome, result.error.code) == ("rolled-back", "cancelled")
    assert Action.RELEASE in driver.move.said
    assert Action.COMMIT not in driver.move.said


async def test_a_new_controller_that_finds_it_there_takes_it_back(drive):
    driver = drive([], MemoryFeatures())
    driver.phase = Phase.PRE_COPYING
    result = await asyncio.wait_for(driver.run(Event.INTERRUPTED), 30)
    assert (result.outcome, driver.move.said[:1]) == ("rolled-back", [Action.RELEASE])


@pytest.mark.parametrize(
    ("full_from", "outcome"),
    [(Phase.STOPPING, "rolled-back"), (Phase.COMMITTING, "rolled-back"), (Phase.REPOINTING, "succeeded")],
)
async def test_a_journal_that_cannot_be_written_takes_it_back_as_long_as_it_has_not_committed(
    drive, full_from, outcome
):
    driver = drive(CALM, MemoryFeatures(0, 40 * GIB))
    write, full = driver.journal.write, False

    def until_full(phase, **said):
        nonlocal full
        full = full or phase is full_from
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", "redis-1.jsonl")
        write(phase, **said)

    driver.journal.write = until_full
    result = await driver.run()
    assert result.outcome == outcome
    rolled_back = outcome == "rolled-back"
    assert (Action.RELEASE in driver.move.said, Action.COMMIT in driver.move.said) == (rolled_back, not rolled_back)
    if rolled_back:
        said = (result.error.code, result.error.message, result.error.fault, result.error.hint)
        assert said == ("system", "redis-1.jsonl: No space left on device", "machine", "free some space there")
