"""The closed set of the proxy's errors.

Each kind knows the HTTP status it is answered with, whose fault it is and what to do about it; a message says what
happened this time. Errors of the operating system are turned into one of these at the edge, once.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from proxy.api import Problem

Fault = Literal["request", "pod", "peer", "midstream"]


class Code(Enum):
    """(HTTP status, whose fault, what to do)."""

    BAD_REQUEST = (400, "request", "read proxy/api.py for what this call takes")
    FORBIDDEN = (403, "request", "call as root or as the user the proxy was started by")
    NOT_FOUND = (404, "request", "read proxy/api.py for the calls there are")
    UNKNOWN_MIGRATION = (404, "request", "PUT the migration first")
    METHOD_NOT_ALLOWED = (405, "request", "read proxy/api.py for the calls there are")
    TOO_LARGE = (413, "request", "send fewer legs a call")
    CONFLICT = (409, "request", "DELETE the migration first, or use another id")
    WRONG_STATE = (409, "request", "look at GET /v1/flows for what the flows are doing")
    STILL_RELAYED = (409, "request", "wait for the flows to end, or say ?force=1 to reset them")
    WORKLOAD_ENDED = (410, "request", "start the workload again, where it is wanted")
    NO_DESCRIPTORS = (429, "pod", "ask again: descriptors are lent; start the pod with a higher ulimit -n")
    LEDGER_VIOLATED = (409, "pod", "roll back: the socket is not what the image says, so bytes could be lost")
    SOCKET_UNUSABLE = (409, "pod", "roll back: the kernel refused what TCP_REPAIR needs on this socket")
    LEG_NOT_BUILT = (409, "pod", "roll back: look for another socket with the same addresses at the destination")
    ROUTING_FAILED = (500, "pod", "check CAP_NET_ADMIN, nf_tables and policy routing in the pod")
    LINK_FAILED = (502, "peer", "check that the destination's proxy runs, is reachable and has the migration's token")
    SHUTTING_DOWN = (503, "midstream", "the proxy is ending; roll back")
    INTERNAL = (500, "midstream", "a bug: the proxy's log has the traceback")

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def fault(self) -> Fault:
        return self.value[1]

    @property
    def hint(self) -> str:
        return self.value[2]


class ProxyError(Exception):
    """One of the closed set, with what happened this time."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def problem(self) -> Problem:
        return Problem(self.code.name.lower(), self.message, self.code.fault, self.code.hint)
