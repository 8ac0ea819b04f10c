"""The errors a person gets to see.

MidstreamError
├── Refused        the request cannot be carried out; nothing was touched
├── Unreachable    a sidecar did not answer: the outcome of the call is not known
├── Answered       a sidecar answered with a problem of its own
├── Stuck          what has to succeed in the end has not yet: the migration stays open
└── MemoryLost     the workload ran at the destination already, and the rest of its memory cannot come any more

Each says what is wrong (`message`), whose fault it is (`fault`) and what to do next (`hint`).
"""

from __future__ import annotations

import errno

from checkpoint.api import CriuLog

EXIT_REFUSED = 1
EXIT_ROLLED_BACK = 3
EXIT_FAILED = 4


class MidstreamError(Exception):
    """Anything that ends a command with one clear line.

    `code` is for programs and stable; `fault` is one of request, workload, pod, peer, machine, midstream.
    """

    def __init__(self, code: str, message: str, fault: str = "midstream", hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.fault, self.hint = code, message, fault, hint
        self.criu_log: CriuLog | None = None
        """Where CRIU has failed: what its log said."""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @classmethod
    def of_system(cls, error: OSError) -> MidstreamError:
        """What the system says of a file or folder: for whatever nobody below has put into better words."""
        where = f"{error.filename}: " if error.filename else ""
        if isinstance(error, PermissionError):
            return Refused("not-permitted", f"{where}{error.strerror}", "request", "run it as root")
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space there" if full else "look at what is there, and try again"
        return cls("system", f"{where}{error.strerror or error}", "machine", hint)


class Refused(MidstreamError):
    """The request is wrong or cannot be carried out as things stand; nothing was touched."""


class Unreachable(MidstreamError):
    """No answer: the call may or may not have been carried out."""


class Answered(MidstreamError):
    """A sidecar carried out nothing and said why. `status` is the HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, fault: str, hint: str = "", criu_log: CriuLog | None = None
    ) -> None:
        super().__init__(code, message, fault, hint)
        self.status, self.criu_log = status, criu_log


class Stuck(MidstreamError):
    """Another controller may go on, whenever that can be: until then nobody knows how it ends."""

    exit_status = EXIT_FAILED


class MemoryLost(MidstreamError):
    """Post-copy's risk has come true: after the commit and before the last page the source was lost."""

    def __init__(self, reason: str) -> None:
        message = f"the workload is lost: the destination had not all of its memory yet when {_lower(reason)}"
        hint = "start it anew; a move with --memory stop-and-copy does not need the source after the commit"
        super().__init__("memory-lost", message, "pod", hint)


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
