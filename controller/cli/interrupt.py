"""What an interrupt from the keyboard does to a command.

Until a command begins it ends it at once and in silence, as it ends other programs: there is nothing to take back, and
a traceback from amid an import would help nobody. From then on it is a KeyboardInterrupt. Where somebody wants it
ignored, as for a command in the background, it is.
"""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def ends_at_once() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_raised() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(command: Coroutine[Any, Any, T]) -> T:
    """Begins a command; returns what it returns. An interrupt cancels it, and is then raised."""
    import asyncio  # here: a command that comes without a coroutine need not wait for it

    is_raised()
    return asyncio.run(command)
