"""What a migration's two sides have in common: its record, its state, its lock, and what its steps took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar, cast

from checkpoint.api import Custody
from checkpoint.core.custody import Event, Machine, State
from checkpoint.core.journal import MigrationRecord
from checkpoint.moves.ahead import Ahead
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes.tree import Tree

T = TypeVar("T")


class Side:
    """One migration at one agent. Each step is locked against the others, timed, and on record."""

    def __init__(self, around: Surroundings, record: MigrationRecord, image_key: str) -> None:
        """`image_key` is "" for a migration that an agent before this one prepared."""
        self.record = record
        self._around = around
        self._image_key = image_key
        self._lock = asyncio.Lock()
        self._machine = Machine(record.state, max_hold_seconds=record.max_hold_seconds)
        self._machine.reason = record.reason
        self._seconds: dict[str, float] = {}
        self._answers: dict[Event, Any] = {}
        self._ahead = Ahead({})
        self._tree: Tree | None = None
        """The processes, while they stand still here."""

    @property
    def state(self) -> State:
        return self._machine.state

    def custody(self) -> Custody:
        one = self.record
        state, reason = self._machine.state, self._machine.reason
        return Custody(one.migration, one.workload, one.side, state.value, reason, dict(self._seconds))

    @property
    def _key(self) -> bytes:
        return bytes.fromhex(self._image_key)

    def _check(self, event: Event) -> None:
        """Raises AgentError where `event` is not possible now."""
        self._machine.check(event, self._around.kernel.now())

    def _apply(self, event: Event, *, reason: str = "", expired: bool = False) -> None:
        self._machine.apply(event, self._around.kernel.now(), reason=reason, expired=expired)
        self.record.state, self.record.reason = self._machine.state, self._machine.reason

    def _decide(self, event: Event) -> None:
        """Apply what has to be on record before it is done. Where it cannot be it has not happened, and may be asked
        for again. Raises as `_check`, and OSError."""
        before = copy(self._machine)
        self._apply(event)
        try:
            self._around.save()
        except OSError:
            self._machine = before
            self.record.state, self.record.reason = before.state, before.reason
            raise

    def _required_tree(self) -> Tree:
        assert self._tree is not None
        return self._tree

    async def _once(self, event: Event, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """A step that is done once, and its answer remembered."""
        async with self._lock:
            if event not in self._answers:
                self._ahead.heed(event)
                self._check(event)
                with self._timed(name):
                    answer = await work()
                self._apply(event)
                self._answers[event] = answer
            return cast(T, self._answers[event])

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = self._around.kernel.now()
        try:
            yield
        finally:
            self._seconds[name] = round(self._around.kernel.now() - began, 6)
