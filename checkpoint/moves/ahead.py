"""Going ahead: inside the freeze the source's steps follow each other, and wait for nobody to ask for the next.

Each is asked for all the same, and answered then. One that fails is the last, and whoever asks for it hears why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from checkpoint.core.custody import Event


class Ahead:
    """One migration's steps after the stop, in their order."""

    def __init__(self, steps: Mapping[Event, Callable[[], Awaitable[object]]]) -> None:
        self._steps = steps
        self._refused: tuple[Event, Exception] | None = None

    async def go(self) -> None:
        for event, step in self._steps.items():
            try:
                await step()
            except Exception as error:  # whoever asks for the step has it
                self._refused = event, error
                return

    def heed(self, event: Event) -> None:
        """Raises, once, what that step has failed with."""
        if self._refused is not None and self._refused[0] is event:
            _, error = self._refused
            self._refused = None
            raise error
