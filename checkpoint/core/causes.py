"""What CRIU's log says, in a person's words. Pure: the text of a log in, a Problem out.

A line of CRIU's reads "(00.003) 20002: Error (criu/files-reg.c:1790): Can't lookup mount=…". The first error is the
cause and what follows are its consequences: so it was in every log that was provoked for `tests/unit/…/test_causes.py`,
where the last line that means anything is one like "Unable to open fd=3 id=0xb". So the first line that a rule knows
decides; where none does, the first error is quoted. A process that was killed is quoted only where nothing else is
said: CRIU kills them itself when one of them has failed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem

_LINE = re.compile(r"(?P<all>.*?(?P<level>Error|Warn) +\((?P<where>[\w/.-]+:\d+)\): (?P<what>.*))")

NOTHING = "nothing that would explain it"

MOST_LINES = 10
MOST_CHARACTERS = 300
"""Of what is quoted of one log, and of one line of it: a path has 4,096 at most, and says enough before."""

_HARMLESS = re.compile(r"Can't setup RLIMIT_NOFILE|Stale \S+ file")
"""Without CAP_SYS_RESOURCE CRIU cannot raise its own limit of open files, says so, and goes on (criu: util.c)."""


_CONSEQUENCE = re.compile(
    r"(Dumping|Restoring) FAILED|exited, status=|(Dump|Collect) [\w ]+ \(pid|Can't dump (misc|files)"
)
"""What CRIU says on its way out: true, and of no help."""

_KILLED = re.compile(r"killed by signal")

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""A file's name may have anything in it; who reads the log has a terminal. A tab and the end of a line stay."""


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    code: Code
    words: str
    """The message; named groups of the pattern are filled in."""


def _rule(pattern: str, code: Code, words: str) -> _Rule:
    return _Rule(re.compile(pattern), code, words)


_RULES = (
    # files-reg.c, hugetlb.c: it is CRIU's own guess that a file is of hugetlbfs
    _rule(r"Can't lookup mount=\S+ for fd=\S+ path=(/anon_hugepage|/memfd:|/SYSV).*|Can't get shmem into page-pipe.*",
          Code.NO_MEMORY, "the workload has huge pages (hugetlbfs), and CRIU gets none to know them by"),
    # files-reg.c: the descriptor's mount is not in the pod's mount namespace
    _rule(r"Can't lookup mount=-?\d+ for fd=-\d+ path=(?P<path>.*)", Code.FOREIGN_DESCRIPTOR,
          "the process uses a folder or program from outside the pod: {path}"),
    _rule(r"Can't lookup mount=-?\d+ for fd=(?P<fd>\d+) path=(?P<path>.*)", Code.FOREIGN_DESCRIPTOR,
          "the process has a descriptor opened outside the pod: {path} (fd {fd})"),
    _rule(r"Open files on overmounted mounts are not supported yet; mount=\S+ fd=(?P<fd>-?\d+) path=(?P<path>.*)",
          Code.FOREIGN_DESCRIPTOR, "the process has a file open that a later mount hides: {path} (fd {fd})"),
    _rule(r"Can't dump ghost file (?P<path>.*) of (?P<size>\d+) size", Code.GHOST_TOO_LARGE,
          "the process has a deleted file open that is too large to carry along: {path} ({size} bytes)"),
    _rule(r"Can't create link remap for (?P<path>\S+?)\. Use", Code.DELETED_FILE,
          "the process has a file open under a name that is gone, while another name of it remains: {path}"),
    _rule(r"Unaccessible path opened (?P<a>\S+), need (?P<b>\S+)|Can't stat parent dir.*", Code.DELETED_FILE,
          "the process has a file open whose path now leads elsewhere"),
    # sk-tcp.c, sk-inet.c, sockets.c, sk-unix.c
    _rule(r".*MPTCP.*|.*multipathtcp.*|.*IPPROTO_MPTCP.*|.*[Uu]nsupported proto(col)? 262.*", Code.UNSUPPORTED_SOCKET,
          "the process has a Multipath TCP socket, which cannot be saved"),
    _rule(r"Can't dump corked dgram socket", Code.UNSUPPORTED_SOCKET, "the process has a corked UDP socket"),
    _rule(r"Can't dump half of stream unix connection\. name: (?P<name>.*); peer name: (?P<peer>.*)",
          Code.UNSUPPORTED_SOCKET, "the process has a unix connection to another one outside the workload"),
    _rule(r"Can't dump name-less external socket|External socket is used|socket \d+ without peer|Dangling connection",
          Code.UNSUPPORTED_SOCKET, "the process has a unix socket whose other end is outside the workload"),
    _rule(r"Unknown pair family \d+ proto \d+|BUG! Unknown socket collected", Code.UNSUPPORTED_SOCKET,
          "the process has a socket of a kind that cannot be saved"),
    _rule(r"Unsupported proto(col)? (?P<proto>\d+) for socket (?P<ino>\S+)", Code.UNSUPPORTED_SOCKET,
          "the process has a socket of protocol {proto}, which cannot be saved"),
    _rule(r"Can't dump (?P<type>\d+) inet socket", Code.UNSUPPORTED_SOCKET,
          "the process has an internet socket of type {type}, which cannot be saved"),
    _rule(r"Sockets \(family (?P<family>\d+) proto (?P<proto>\d+)\) are not collected", Code.UNSUPPORTED_SOCKET,
          "the process has a socket of family {family}, protocol {proto}, which cannot be saved"),
    _rule(r"Can't get socket filter len: Permission denied", Code.UNSUPPORTED_SOCKET,
          "the process has a socket with an eBPF program as its filter (SO_ATTACH_BPF), which cannot be saved"),
    _rule(r"netlink: The netlink socket \S+ is bound to groups but not to portid", Code.UNSUPPORTED_SOCKET,
          "the process has a netlink socket that is a member of groups and bound to no number, which cannot be saved"),
    # sk-queue.c, sk-unix.c
    _rule(r"skqueue: Control messages in queue", Code.CONNECTION_STATE,
          "the process has not read yet what waits with its sender's credentials (SO_PASSCRED) in a unix socket"),
    _rule(r"Non-empty write queue on an in-flight socket|Found a closed in-flight socket", Code.CONNECTION_STATE,
          "a connection to a unix socket, with bytes in it or ended already, waits to be accepted"),
    # soccr.c: it asks how much is queued and then copies that much; a peer may send in between
    _rule(r"recv failed \((?P<got>-?\d+), want (?P<want>\d+)\)", Code.QUEUE_MOVED,
          "bytes came from a peer in the very moment in which its connection was saved"),
    _rule(r"In-flight connection \(l\)", Code.CONNECTION_STATE, "a connection waits to be accepted"),
    _rule(r"Unknown inet socket \S+ state (?P<state>\d+)", Code.CONNECTION_STATE,
          "a connection is in TCP state {state}"),
    # files.c, files-ext.c: everything that is no file, pipe, socket, epoll, …
    _rule(r"Can't dump file (?P<fd>\d+) of that type \[(?P<type>\d+)\] \((?P<what>.*)\)", Code.UNSUPPORTED_FILE,
          "the process has a descriptor that cannot be saved: fd {fd} ({what})"),
    _rule(r"Can't handle non-regular mapping on (?P<pid>\d+)'s map", Code.UNSUPPORTED_FILE,
          "process {pid} has mapped a device into its memory"),
    _rule(r"Unknown shit \d+ \((?P<what>.*)\)", Code.UNSUPPORTED_FILE,
          "the process has mapped into its memory what cannot be saved: {what}"),
    _rule(r"Unknown clock type (?P<clock>\d+)", Code.UNSUPPORTED_FILE,
          "the process has a timer of clock {clock}, which cannot be saved"),
    _rule(r"send_fds failed \(-22\)", Code.UNSUPPORTED_FILE,
          "the process has a descriptor that cannot be handed on, an io_uring most likely"),
    _rule(r"Task (?P<pid>\d+) with SysVIPC shmem map", Code.UNSUPPORTED_FILE,
          "process {pid} has attached System V shared memory since the move was prepared"),
    _rule(r"Can't get rlimit", Code.NO_CAPABILITY,
          "CRIU may not read the limits of another user's process without CAP_SYS_RESOURCE"),
    # pidfd.c, sk-netlink.c
    _rule(r"PIDFD_THREAD flag is currently not supported", Code.UNSUPPORTED_FILE,
          "the process has a pidfd of a thread (PIDFD_THREAD), which cannot be saved"),
    _rule(r"pidfd pid (?P<pid>\d+) is not a part of process tree", Code.UNSUPPORTED_FILE,
          "the process has a pidfd of process {pid}, which is outside the workload"),
    _rule(r"netlink: The socket has data to read", Code.CONNECTION_STATE,
          "the process has not read yet what a netlink socket has for it"),
    # tty.c, cr-dump.c, pstree.c
    _rule(r"Found dangling tty .*\((?P<name>.*)\) on peer fd (?P<fd>\d+)", Code.TERMINAL,
          "the process has a terminal open that belongs to a session outside the workload: {name}"),
    _rule(r"A session leader of (?P<pid>\d+)\(\d+\) is outside of its pid namespace", Code.TERMINAL,
          "process {pid} belongs to a session that was begun outside the pod"),
    _rule(r"The root process \d+ is not a session leader", Code.TERMINAL,
          "the workload is part of another program's session"),
    # compel's infect.c
    _rule(r"Unable to interrupt task: (?P<pid>\d+) \(Operation not permitted\)", Code.TRACED,
          "process {pid} is being traced by another process"),
    _rule(r"Unable to interrupt task: (?P<pid>\d+) \(No such process\)", Code.WORKLOAD_GONE,
          "process {pid} has ended"),
    _rule(r"Can't make \w+ id for (?P<pid>\d+)", Code.UNSUPPORTED_PROCESS,
          "process {pid} has its memory, folders or signal handlers in common with another, which cannot be saved"),
    _rule(r"Can't dump nested (?P<kind>\w+) namespace for (?P<pid>\d+)", Code.FOREIGN_NAMESPACE,
          "process {pid} lives in a {kind} namespace of its own"),
    # cr-restore.c, files-reg.c, sk-inet.c, file-lock.c
    _rule(r"Unable to create a thread: -17", Code.PID_TAKEN, "the id of one of its threads is taken in this pod"),
    _rule(r"Can't fork for (?P<pid>\d+): File exists", Code.PID_TAKEN, "the PID {pid} is taken in this pod"),
    _rule(r"Pid (?P<pid>\d+) do not match expected (?P<other>\d+)", Code.PID_TAKEN,
          "the PID {other} is taken in this pod"),
    _rule(r"Can't open file (?P<path>.*) on restore: No such file or directory", Code.FILE_MISSING,
          "the workload's file /{path} is not there"),
    _rule(r"Can't open file (?P<path>.*) on restore: (?P<why>.*)", Code.FILE_MISSING,
          "the workload's file /{path} cannot be opened: {why}"),
    _rule(r"File (?P<path>.*) has bad (?P<what>size|mode|build-ID)(?P<rest>.*)", Code.FILE_CHANGED,
          "the workload's file /{path} is another one here: its {what} differs"),
    _rule(r"(Can't bind inet socket|Can't bind inet socket back).*: Address already in use", Code.ADDRESS_IN_USE,
          "an address and port of the workload is already in use in this pod"),
    _rule(r"(Can't bind inet socket|Can't bind inet socket back).*: Cannot assign requested address",
          Code.ADDRESS_MISSING, "the workload is bound to an address that this pod does not have"),
    _rule(r"Can't connect inet socket back: (?P<why>.*)", Code.ADDRESS_MISSING,
          "a connection of the workload cannot be made again here: {why}"),
    _rule(r"Unable to restore capabilities", Code.NO_CAPABILITY,
          "the workload has a capability that the agent here has not and cannot give to it"),
    _rule(r"Can not set (?P<kind>flock|posix lock|ofd lock)", Code.LOCK_HELD,
          "a file lock of the workload ({kind}) is held by another process here"),
    # config.c, check_options
    _rule(r"Tracking memory is not available", Code.MEMORY_WAY,
          "the kernel does not tell which pages a process has written (CONFIG_MEM_SOFT_DIRTY is off)"),
    # the machine
    _rule(r".*: No space left on device", Code.NO_SPACE, "there is no space left for the images"),
    _rule(r".*: Cannot allocate memory|.*Out of memory.*", Code.NO_MEMORY, "there is not enough memory"),
    _rule(r".*CAP_\w+.*|.*capabilit.*", Code.NO_CAPABILITY, "CRIU lacks a capability"),
    _rule(r"Error kerndat.*|.*kerndat_\w+ failed.*|.*is not supported by kernel.*", Code.KERNEL,
          "the kernel lacks something that CRIU needs"),
)  # fmt: skip


def explain(log: str, *, restoring: bool) -> Problem:
    """Name the cause of a failed dump or restore from CRIU's log."""
    lines = _telling(log)
    for line in lines:
        for rule in _RULES:
            if found := rule.pattern.search(line["what"]):
                return _told(rule.code, rule.words.format(**found.groupdict()), line["what"])
    step = "restore" if restoring else "dump"
    return problem(Code.CRIU_FAILED, f"the {step} failed. CRIU said: {_cause(lines)[:MOST_CHARACTERS]}")


def quote(log: str) -> list[str]:
    """The first warnings and errors of a log, but what is harmless: MOST_LINES of MOST_CHARACTERS at most."""
    return [line["all"].strip()[:MOST_CHARACTERS] for line in _telling(log)[:MOST_LINES]]


def _telling(log: str) -> list[re.Match[str]]:
    return [found for found in _LINE.finditer(log.translate(_CONTROL)) if not _HARMLESS.search(found["what"])]


def _cause(lines: list[re.Match[str]]) -> str:
    errors = [line["what"].strip() for line in lines if line["level"] == "Error"]
    meant = [error for error in errors if not _CONSEQUENCE.search(error)]
    return next((error for error in meant if not _KILLED.search(error)), next(iter(meant), NOTHING))


def _told(code: Code, words: str, line: str) -> Problem:
    """The machine's own troubles keep CRIU's words in the hint: there the detail decides."""
    found = problem(code, words)
    if code not in (Code.NO_SPACE, Code.NO_MEMORY, Code.NO_CAPABILITY, Code.KERNEL):
        return found
    return msgspec.structs.replace(found, hint=f"{found.hint} CRIU said: {line[:MOST_CHARACTERS]}")
