"""Drives a migration through the phase table: load, step, act.

The driver decides nothing: it does the work of the phase, turns how that ended into an event, asks the table, writes
the next phase into the journal, and goes on. A new controller does the same from where the journal ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from controller.actions import Move
from controller.core.accounts import complaint
from controller.core.errors import Answered, MemoryLost, MidstreamError, Refused, Stuck, Unreachable
from controller.core.phases import BEFORE_COMMIT, FINAL, WORK, Action, Event, Phase, step
from controller.core.result import MigrationResult, PhaseTime
from controller.journal import Journal
from controller.outcome import make_result

RETRY_SECONDS = 0.1
"""Between two tries of what must succeed in the end: long enough for a sidecar to be restarted, short beside a hold."""

PATIENCE_SECONDS = 30.0
"""How long one controller tries what must succeed in the end; then it leaves it to `midstream resume`."""

SETTLE_SECONDS = 5.0
"""How long the held bytes are waited for. A reader that is slower keeps its flow after that: nothing is cut."""

SETTLE_PAUSE_SECONDS, SETTLE_PAUSE_SECONDS_EACH = 0.01, 100e-6
"""From the repointing to the first look at the ledgers, and so much longer for each flow: both proxies are relaying
what they held, and a look keeps them from it. (1,000 connections were silent for 39 ms beyond the freeze, and are for
21.)"""

WAYS_SECONDS = 10.0
"""How long a further move waits for slow readers to read what went by the ways of earlier ones; then it goes on beside
them, unless there are too many (`controller.core.ways`)."""


VAIN = frozenset(
    {Action.DUMP, Action.ADOPT, Action.SEAL, Action.BUILD_LEGS, Action.RESTORE, Action.JOIN_PAIRS, Action.CHECK_LEGS}
)  # fmt: skip
"""What may take long, as where a proxy stands still, and is not waited for when another action of its group has failed,
or the rollback is asked for. The release and the discard break it off at the agents too."""


class Observer(Protocol):
    """Who wants to see a migration happen. Called between the actions, so it must be quick."""

    def phase_started(self, name: str, at: float) -> None:
        """`at` is CLOCK_MONOTONIC seconds."""

    def phase_ended(self, name: str, seconds: float) -> None: ...

    def held(self, flows: int, held_bytes: int) -> None: ...

    def waiting(self, why: str) -> None: ...

    def round(self, number: int, written_bytes: int, seconds: float) -> None:
        """Pre-copy: what one round has copied, and in what time."""

    def early(self, arrived_bytes: int, whole: bool) -> None:
        """How much of the memory has been sent while the workload runs where it was; `whole`: all that can be."""

    def memory(self, arrived_bytes: int, total_bytes: int, seconds: float) -> None:
        """Post-copy: how much has come `seconds` after the fetching began."""


class Driver:
    """One migration on its way, by one controller."""

    def __init__(self, move: Move, journal: Journal, observer: Observer, phase: Phase = Phase.PENDING) -> None:
        self.move, self.journal, self.observer, self.phase = move, journal, observer, phase
        self.problem: MidstreamError | None = None
        """Why the migration did not go through, or what its ledger says."""
        self._trouble: MidstreamError | None = None
        """Why the work of this phase failed just now; it may succeed when tried again."""
        self.times: list[PhaseTime] = []
        self._cancelled = False
        self._vain: list[asyncio.Task[None]] = []
        """What of the present group need not be waited for."""
        self._trying_since: float | None = None
        self._entered = time.monotonic()
        observer.phase_started(phase.value, self._entered)

    def cancel(self) -> None:
        """Asks for the rollback. It happens unless the commit comes first."""
        self._cancelled = True
        for task in self._vain:
            task.cancel()

    async def run(self, first: Event | None = None) -> MigrationResult:
        """Goes on until a final phase; `first` is an event that has already happened (a new controller's INTERRUPTED).

        Raises:
            Stuck: what must succeed did not within PATIENCE_SECONDS; the journal stays open for another try.
        """
        if first is not None:
            self._enter(step(self.phase, first))
        while self.phase not in FINAL:
            event = await self._work()
            following = step(self.phase, event)
            if following is self.phase:
                await self._before_another_try()
            else:
                self._enter(following)
        result = make_result(self.move, self.phase, self.times, self.problem)
        self._unwritten(self.phase, result)
        return result

    async def _work(self) -> Event:
        """Does the work of the phase; how it ended."""
        try:
            for group in WORK[self.phase]:
                if self._to_be_cancelled:
                    break
                await self._together(group)
        except MidstreamError as error:
            self._trouble = error
            return self._event_of(error)
        if self._to_be_cancelled:
            self._trouble = Refused("cancelled", "the rollback was asked for", "request", "it can be moved again")
            return Event.CANCELLED
        return self._done()

    @property
    def _to_be_cancelled(self) -> bool:
        return self._cancelled and self.phase in BEFORE_COMMIT

    def _done(self) -> Event:
        if self.phase is Phase.PREPARING and self.move.copies_before:
            return Event.ROUNDS
        if self.phase is Phase.PRE_COPYING and not self.move.copies_before:
            return Event.FALL_BACK
        return Event.DONE

    async def _together(self, group: tuple[Action, ...]) -> None:
        """All of a group, whatever happens to one of them; then the first error.

        What that or a wish for the rollback makes vain is not waited for: the workload stands still meanwhile.
        """
        tasks = {action: asyncio.create_task(self._perform(action), name=action.value) for action in group}
        self._vain = [tasks[action] for action in tasks.keys() & VAIN]
        try:
            done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
            if any(not task.cancelled() and task.exception() is not None for task in done):
                for task in self._vain:
                    task.cancel()
            await asyncio.wait(tasks.values())
        finally:
            self._vain = []
            for task in tasks.values():
                task.cancel()  # those that are done do not mind
        errors = [task.exception() for task in tasks.values() if not task.cancelled()]
        if first := next(filter(None, errors), None):
            raise first
        if self.move.adopted is not None:
            repointed = self.move.repointed
            self.observer.held(self.move.adopted.flows, repointed.held_bytes if repointed else 0)

    async def _perform(self, action: Action) -> None:
        await (_PATIENTLY[action](self) if action in _PATIENTLY else self.move.perform(action))

    async def _await_ways(self) -> None:
        """Until slow readers have few old ways before them. Raises Refused if there are too many after WAYS_SECONDS."""
        deadline = time.monotonic() + WAYS_SECONDS
        while True:
            await self.move.perform(Action.AWAIT_WAYS)
            pile = self.move.pile
            if pile.is_small or self._cancelled or time.monotonic() > deadline:
                break
            self.observer.waiting(f"waits: {pile}")
            await asyncio.sleep(RETRY_SECONDS)
        if pile.is_too_large:
            hint = "wait until they have read on (midstream flows lists them), or end these connections"
            raise Refused("ways-piled-up", str(pile), "peer", hint)

    async def _pre_copy(self) -> None:
        """Round after round, until the agent says that it is time, or that it is in vain."""
        while not self._cancelled:
            await self.move.perform(Action.PRE_COPY)
            last = self.move.rounds[-1]
            self.observer.round(last.number, last.written_bytes, last.seconds)
            if last.then != "another-round":
                return

    async def _reserve(self) -> None:
        """Until there is room for the images: the workload runs meanwhile."""
        while not self._cancelled:
            await self.move.perform(Action.RESERVE)
            found = self.move.reserved
            if found is None or found.state == "there":
                return
            await asyncio.sleep(RETRY_SECONDS / 2)

    async def _send_early(self) -> None:
        """Until all of it is there that can be: the workload runs meanwhile."""
        while not self._cancelled:
            await self.move.perform(Action.SEND_EARLY)
            found = self.move.memory
            if found is None:
                return
            self.observer.early(found.early_bytes, found.early == "there")
            if found.early == "there":
                return
            await asyncio.sleep(RETRY_SECONDS / 2)

    async def _settle(self) -> None:
        """Until every held byte has been delivered, or SETTLE_SECONDS have passed."""
        flows = self.move.adopted.flows if self.move.adopted else 0
        deadline, pause = time.monotonic() + SETTLE_SECONDS, SETTLE_PAUSE_SECONDS + flows * SETTLE_PAUSE_SECONDS_EACH
        while True:
            await asyncio.sleep(pause)
            await self.move.perform(Action.SETTLE)
            accounts, lost = self.move.accounts, self.move.flows_lost
            if lost or all(account.settled for account in accounts) or time.monotonic() > deadline:
                break
            pause = max(pause, min(2 * pause, RETRY_SECONDS))
        if lost:
            self._blame(lost)
        elif words := complaint(accounts):
            self._blame(MidstreamError("ledger-unequal", words))

    async def _await_memory(self) -> None:
        """Until everything is there, however long that takes: the workload runs meanwhile."""
        while True:
            await self.move.perform(Action.AWAIT_MEMORY)
            found = self.move.memory
            if found is None:
                return
            self.observer.memory(found.arrived_bytes, found.total_bytes, found.seconds)
            if found.state == "complete":
                return
            await asyncio.sleep(RETRY_SECONDS / 2)

    async def _discard(self, action: Action) -> None:
        """Undoes a step at the destination; a destination that is gone has nothing left to undo."""
        deadline = time.monotonic() + PATIENCE_SECONDS / 6
        while self.move.destination.alive:
            try:
                return await self.move.perform(action)
            except MidstreamError as error:
                if time.monotonic() > deadline:
                    self._blame(error)
                    return None
                await asyncio.sleep(RETRY_SECONDS)
        return None

    def _event_of(self, error: MidstreamError) -> Event:
        owner = self.move.destination if self.phase in (Phase.REPOINTING, Phase.DRAINING) else self.move.source
        if isinstance(error, MemoryLost):
            return Event.LOST
        if isinstance(error, Unreachable):
            # One that has ended since the commit was asked for may have given the workload up: it is asked once more.
            is_lost = not owner.alive and not (self.phase is Phase.COMMITTING and self.move.source_gave_up)
            return Event.LOST if is_lost else Event.IN_DOUBT
        # Only a refusal settles the commit; an agent that fails while it kills has not said that it did not.
        undecided = self.phase is Phase.COMMITTING and isinstance(error, Answered) and error.status >= 500
        return Event.IN_DOUBT if undecided else Event.ERROR

    async def _before_another_try(self) -> None:
        now = time.monotonic()
        self._trying_since = self._trying_since or now
        if now - self._trying_since > PATIENCE_SECONDS:
            raise self._stuck()
        await asyncio.sleep(RETRY_SECONDS)

    def _stuck(self) -> Stuck:
        """Why it is left to another controller. On record, too, for whoever asks `midstream status` then."""
        assert self._trouble is not None
        hint = f"go on with: midstream resume {self.move.intent.migration}"
        error = Stuck(self._trouble.code, f"stuck in {self.phase.value}: {self._trouble.message}", "pod", hint)
        with suppress(OSError):
            self.journal.write(self.phase, reason=str(error))
        return error

    def _blame(self, error: MidstreamError) -> None:
        """The first problem is the one that a person wants to hear of."""
        if self.problem is None:
            self.problem = error

    def _reason(self) -> str:
        return str(self.problem) if self.problem else ""

    def _unwritten(self, phase: Phase, result: MigrationResult | None = None) -> OSError | None:
        """Why it is not in the journal that `phase` was entered."""
        try:
            self.journal.write(phase, reason=self._reason(), result=result)
        except OSError as error:
            return error
        return None

    def _enter(self, phase: Phase) -> None:
        now = time.monotonic()
        if phase in (Phase.ROLLING_BACK, Phase.FAILED) and self._trouble is not None:
            self._blame(self._trouble)
        self._trouble = self._trying_since = None
        if (error := self._unwritten(phase)) is not None and phase in (BEFORE_COMMIT | {Phase.COMMITTING}):
            # What is not on record is not begun; what has to be done in any case is done without.
            self._trouble = MidstreamError.of_system(error)
            self._enter(step(self.phase, Event.ERROR))
            return
        self.observer.phase_ended(self.phase.value, now - self._entered)
        self.times.append(PhaseTime(self.phase.value, now - self._entered))
        self.observer.phase_started(phase.value, now)
        self.phase, self._entered = phase, now


_PATIENTLY: dict[Action, Callable[[Driver], Awaitable[None]]] = {
    Action.AWAIT_WAYS: Driver._await_ways,
    Action.RESERVE: Driver._reserve,
    Action.SEND_EARLY: Driver._send_early,
    Action.PRE_COPY: Driver._pre_copy,
    Action.SETTLE: Driver._settle,
    Action.AWAIT_MEMORY: Driver._await_memory,
    Action.DISCARD: lambda driver: driver._discard(Action.DISCARD),
    Action.CLOSE_INBOUND: lambda driver: driver._discard(Action.CLOSE_INBOUND),
}
