"""Keeps CRIU from a tree that still runs, and descriptors of the stopped processes from CRIU, in the agent's event
loop.

CRIU takes 8 ms to get ready before it looks at the tree: it has begun by the time that the tree is stopped, and waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Collection, Mapping

from checkpoint.criu import questions
from checkpoint.criu.questions import Question
from checkpoint.kernel import Kernel

_LOG = logging.getLogger(__name__)


class Hiding:
    """From one CRIU. It waits until it is said that the tree stands still (`begin`), and which descriptors it is to see
    (`show`), when it asks for them."""

    def __init__(self, kernel: Kernel, listener: int) -> None:
        """`listener` is `checkpoint.criu.shade`'s; ours from now on."""
        self._kernel, self._listener = kernel, listener
        self._shown: dict[int, list[int]] | None = None
        self._waiting: Question | None = None
        self._may_begin = False
        self._beginning: Question | None = None
        self.is_ready = asyncio.Event()
        """It waits for the tree to stand still."""
        asyncio.get_running_loop().add_reader(listener, self._asked)

    def begin(self) -> None:
        """The tree stands still."""
        self._may_begin = True
        if self._beginning is not None:
            question, self._beginning = self._beginning, None
            self._answer(question)

    def show(self, descriptors: Mapping[int, Collection[int]]) -> None:
        """Of these processes CRIU is to see these alone, and of all others everything."""
        self._shown = {pid: sorted(some) for pid, some in descriptors.items()}
        if self._waiting is not None:
            question, self._waiting = self._waiting, None
            self._answer(question)

    def close(self) -> None:
        """Once it has ended: whatever it asks from now on fails."""
        if self._listener >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            os.close(self._listener)
            self._listener = -1
            self._beginning = self._waiting = None  # whoever asked has no use for an answer

    def _asked(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        if all(happened & select.POLLIN for _, happened in poll.poll(0)):
            self._hear()
        else:  # nobody is left who could ask
            self.close()

    def _hear(self) -> None:
        try:
            question = questions.receive(self._listener)
        except OSError as error:
            self._give_up(error)
        else:
            if question is not None:
                self._answer(question)

    def _answer(self, question: Question) -> None:
        try:
            if question.begins and not self._may_begin:
                self._beginning = question
                self.is_ready.set()
            elif not question.lists_descriptors:
                questions.leave(self._listener, question)
            elif self._shown is None:
                self._waiting = question
            else:
                questions.list_shown(self._kernel, self._listener, question, self._shown.get(question.about))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Its dump fails, then."""
        _LOG.error("CRIU cannot be answered: %s", error)
        self.close()
