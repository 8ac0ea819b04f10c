"""Everything that can go wrong in the agent: one closed set, each with its HTTP status, whose fault it is, and a hint.

    AgentError
    └── problem: checkpoint.api.Problem   (code, message, fault, hint)

A foreign exception (OSError, a line of CRIU's log, protobuf's DecodeError) is translated once, where it enters.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from checkpoint.api import CriuLog, Fault, Problem


class Code(StrEnum):
    BAD_REQUEST = "bad-request"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD = "method-not-allowed"
    TOO_LARGE = "too-large"
    WRONG_STATE = "wrong-state"
    ALREADY_MIGRATING = "already-migrating"
    WORKLOAD_EXISTS = "workload-exists"
    NO_WORKLOAD = "no-workload"
    NO_MIGRATION = "no-migration"
    LEASE_EXPIRED = "lease-expired"
    EXEC_FAILED = "exec-failed"
    WORKLOAD_GONE = "workload-gone"
    NOT_STOPPED = "not-stopped"
    FOREIGN_DESCRIPTOR = "foreign-descriptor"
    FOREIGN_NAMESPACE = "foreign-namespace"
    TRACED = "traced"
    LEFT_BY_PARENT = "left-by-parent"
    TERMINAL = "terminal"
    PID_TAKEN = "pid-taken"
    DELETED_FILE = "deleted-file"
    GHOST_TOO_LARGE = "ghost-too-large"
    FILE_MISSING = "file-missing"
    FILE_CHANGED = "file-changed"
    LOCK_HELD = "lock-held"
    STRAY_PROCESS = "stray-process"
    NOT_CARRIED = "not-carried"
    UNSUPPORTED_SOCKET = "unsupported-socket"
    UNSUPPORTED_FILE = "unsupported-file"
    UNSUPPORTED_PROCESS = "unsupported-process"
    CONNECTION_STATE = "connection-state"
    ADDRESS_IN_USE = "address-in-use"
    ADDRESS_MISSING = "address-missing"
    NO_SPACE = "no-space"
    NO_MEMORY = "no-memory"
    NO_CAPABILITY = "no-capability"
    KERNEL = "kernel"
    CRIU_FAILED = "criu-failed"
    QUEUE_MOVED = "queue-moved"
    FILES = "files"
    FILE_CONFLICT = "file-conflict"
    NO_ROOT = "no-own-root"
    NO_FOLDER = "no-folder"
    CRIU_MISSING = "criu-missing"
    IMAGE_DAMAGED = "image-damaged"
    MEMORY_HELPER = "memory-helper"
    MEMORY_LOST = "memory-lost"
    MEMORY_WAY = "memory-way"
    IMAGE_VERSION = "image-version"
    IMAGE_MISSING = "image-missing"
    IMAGE_EXISTS = "image-exists"
    IMAGE_IN_USE = "image-in-use"
    OTHER_MACHINE = "other-machine"
    KEY_UNREADABLE = "key-unreadable"
    WRONG_KEY = "wrong-key"
    ARCHIVE_UNREACHABLE = "archive-unreachable"
    ARCHIVE_REFUSED = "archive-refused"
    DEADLINE = "deadline"
    TRANSFER_BROKEN = "transfer-broken"
    PROXY_UNREACHABLE = "proxy-unreachable"
    PROXY_REFUSED = "proxy-refused"
    INTERNAL = "internal"


class _Row(NamedTuple):
    status: int
    fault: Fault
    hint: str


_ROWS: dict[Code, _Row] = {
    Code.BAD_REQUEST: _Row(400, "request", "checkpoint/api/ says what each call takes."),
    Code.FORBIDDEN: _Row(403, "request", "Call as root, or as the user that started the agent."),
    Code.NOT_FOUND: _Row(404, "request", "checkpoint/api/ lists the calls."),
    Code.METHOD: _Row(405, "request", "checkpoint/api/ lists the calls."),
    Code.TOO_LARGE: _Row(413, "request", "Send less."),
    Code.WRONG_STATE: _Row(409, "request", "midstream status shows where each migration stands."),
    Code.ALREADY_MIGRATING: _Row(409, "request", "Wait for the other migration to end, or release it."),
    Code.WORKLOAD_EXISTS: _Row(409, "request", "Choose another name, or end that workload first."),
    Code.NO_WORKLOAD: _Row(404, "request", "midstream pod list shows the workloads."),
    Code.NO_MIGRATION: _Row(404, "request", "midstream status shows those there are."),
    Code.LEASE_EXPIRED: _Row(409, "midstream", "The workload runs on where it was; move it again with a longer hold."),
    Code.EXEC_FAILED: _Row(422, "request", "Check the command, the folder and the environment as the pod sees them."),
    Code.WORKLOAD_GONE: _Row(
        410,
        "workload",
        "See its log: it ended, or put itself into the background, where it is nobody's: keep it in front.",
    ),
    Code.NOT_STOPPED: _Row(
        500, "workload", "A task that does not stop is stuck in the kernel: see its wchan in /proc."
    ),
    Code.FOREIGN_DESCRIPTOR: _Row(
        422, "workload", "Start the workload through the agent: it opens stdio inside the pod."
    ),
    Code.FOREIGN_NAMESPACE: _Row(
        422, "workload", "Only a tree that lives wholly in the pod's own namespaces can move."
    ),
    Code.TRACED: _Row(422, "workload", "Detach the debugger or tracer, then move it."),
    Code.LEFT_BY_PARENT: _Row(
        422, "workload", "Let whoever starts it wait for it, or let it begin a session of its own and go on elsewhere."
    ),
    Code.TERMINAL: _Row(422, "workload", "Start the workload through the agent, without a terminal."),
    Code.PID_TAKEN: _Row(409, "pod", "A process of the destination has that PID: end it, or choose another pod."),
    Code.DELETED_FILE: _Row(
        422, "workload", "The workload keeps a file open that has been deleted or replaced on disk."
    ),
    Code.GHOST_TOO_LARGE: _Row(
        422, "workload", "Raise --max-ghost-size, or let the workload close that deleted file or shorten it."
    ),
    Code.FILE_MISSING: _Row(422, "pod", "The destination must see the same files at the same paths."),
    Code.FILE_CHANGED: _Row(422, "pod", "The file must be the same, byte for byte, where the workload arrives."),
    Code.FILES: _Row(500, "pod", "The workload runs on where it was; agent.log in the pod's folder says more."),
    Code.FILE_CONFLICT: _Row(
        409, "pod", "Save or remove what the destination has there, or say --replace-newer-files."
    ),
    Code.NO_ROOT: _Row(422, "pod", "Move it to a pod that has a root of its own: midstream pod create --own-root."),
    Code.NO_FOLDER: _Row(422, "request", "Name a folder that both pods have, by its path without links on the way."),
    Code.LOCK_HELD: _Row(
        409, "pod", "Give each pod files of its own: midstream pod create --own-root; or let go of the lock."
    ),
    Code.STRAY_PROCESS: _Row(409, "workload", "Let the workload run it as a child that stays one."),
    Code.NOT_CARRIED: _Row(409, "machine", "CRIU does not save it; where it matters, start the workload anew instead."),
    Code.UNSUPPORTED_SOCKET: _Row(422, "workload", "CRIU cannot save that kind of socket; let the workload close it."),
    Code.UNSUPPORTED_FILE: _Row(
        422, "workload", "CRIU cannot save that kind of descriptor; let the workload close it."
    ),
    Code.UNSUPPORTED_PROCESS: _Row(422, "workload", "CRIU cannot save such a process: let it end."),
    Code.CONNECTION_STATE: _Row(409, "workload", "Such a state lasts a moment: try again."),
    Code.ADDRESS_IN_USE: _Row(409, "pod", "Something in the destination pod already uses that address and port."),
    Code.ADDRESS_MISSING: _Row(
        422, "pod", "Every address the workload is bound to needs its counterpart in `readdress`."
    ),
    Code.NO_SPACE: _Row(507, "machine", "Free space where images are kept: /dev/shm, or the pod's --image-space."),
    Code.NO_MEMORY: _Row(507, "machine", "Free memory on the machine, or raise the pod's limit."),
    Code.NO_CAPABILITY: _Row(
        500, "machine", "The agent needs CAP_SYS_ADMIN, or CAP_CHECKPOINT_RESTORE and its company."
    ),
    Code.KERNEL: _Row(500, "machine", "This kernel lacks something CRIU needs: run `criu check` in the pod."),
    Code.MEMORY_HELPER: _Row(502, "midstream", "The workload goes on where it was; the agent's log says more."),
    Code.MEMORY_LOST: _Row(
        410, "pod", "Nothing is left to go on with: start the workload anew, and move it with --memory stop-and-copy."
    ),
    Code.MEMORY_WAY: _Row(422, "machine", "Choose --memory auto: it takes the best way that works here."),
    Code.QUEUE_MOVED: _Row(503, "midstream", "Try again: it takes a peer that sends within the same microseconds."),
    Code.CRIU_FAILED: _Row(500, "machine", "Try again; where it fails again, report it with what CRIU wrote."),
    Code.CRIU_MISSING: _Row(500, "machine", "Install CRIU 4.2.1 or later and say where it is with --criu."),
    Code.IMAGE_DAMAGED: _Row(422, "machine", "The images changed after they were sealed: nothing of them was kept."),
    Code.IMAGE_VERSION: _Row(422, "request", "Read it with the version of midstream that wrote it."),
    Code.IMAGE_MISSING: _Row(
        404, "request", "midstream images list shows what is there; a checkpoint may not be done."
    ),
    Code.IMAGE_EXISTS: _Row(409, "request", "Every image has a name of its own."),
    Code.IMAGE_IN_USE: _Row(409, "request", "Wait until it has been written or read, or say --force."),
    Code.OTHER_MACHINE: _Row(422, "machine", "Restore it on a machine like the one it was made on."),
    Code.KEY_UNREADABLE: _Row(422, "request", "midstream images key FILE makes a key file."),
    Code.WRONG_KEY: _Row(
        422, "request", "Give the key that the image was made with; midstream images list has its id."
    ),
    Code.ARCHIVE_UNREACHABLE: _Row(502, "machine", "Is the archive up, and can the pod reach it?"),
    Code.ARCHIVE_REFUSED: _Row(502, "request", "Check the archive's address, credentials and bucket."),
    Code.DEADLINE: _Row(504, "machine", "Give it more time with --deadline; nothing half is left to be restored."),
    Code.TRANSFER_BROKEN: _Row(502, "pod", "The workload goes on where it was; see agent.log of both pods."),
    Code.PROXY_UNREACHABLE: _Row(502, "pod", "See proxy.log in the pod's folder."),
    Code.PROXY_REFUSED: _Row(502, "pod", "See proxy.log in the pod's folder."),
    Code.INTERNAL: _Row(500, "midstream", "See agent.log in the pod's folder, and report it."),
}


class AgentError(Exception):
    """What the agent answers instead of a result; `status` is the HTTP status of its kind."""

    def __init__(self, code: Code, message: str, *, hint: str = "", fault: Fault | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = _ROWS[code].status
        self.problem = problem(code, message, hint=hint, fault=fault)
        self.criu_log: CriuLog | None = None
        self.log_tail = b""
        """The end of CRIU's log, for whoever keeps it."""

    def blame_log(self, log: CriuLog) -> None:
        """Say beside what to do where CRIU's log is."""
        self.criu_log = log
        self.problem = msgspec.structs.replace(
            self.problem, hint=f"{self.problem.hint.rstrip('.')}. CRIU's log: {log.path}"
        )


def problem(code: Code, message: str, *, hint: str = "", fault: Fault | None = None) -> Problem:
    """Build the Problem of a code; fault and hint are the code's own unless given."""
    row = _ROWS[code]
    return Problem(code=code.value, message=message, fault=fault or row.fault, hint=hint or row.hint)


def from_problem(found: Problem) -> AgentError:
    """Turn a Problem that a core made (`core.causes`) into the error that carries it."""
    return AgentError(Code(found.code), found.message, hint=found.hint, fault=found.fault)
