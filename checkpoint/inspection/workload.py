"""Look at a workload before it is touched: how much there is to move, and what is known to make it fail."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter

from checkpoint.api import Inspection, Problem, Workload
from checkpoint.core import flows
from checkpoint.core.errors import AgentError, Code, problem
from checkpoint.core.pages import PAGE_BYTES
from checkpoint.core.readdress import LISTEN
from checkpoint.inspection import locks, strays
from checkpoint.kernel import Kernel
from checkpoint.processes import capacity, procfs, tree
from checkpoint.sockets import unkept

_FINE_ANONYMOUS = (
    "[eventpoll]",
    "[eventfd]",
    "[eventfd-count]",
    "[timerfd]",
    "[signalfd]",
    "[pidfd]",
    "inotify",
    "[fanotify]",
)
"""anon_inodes that CRIU can save (criu: files.c, dump_one_file)."""

_UNSAVED = {"/dev/net/tun": "a tun or tap device", "/secretmem (deleted)": "memfd_secret"}
"""By where they lead (criu: tun.c wants a network namespace of the tree's own)."""

_SCHED_DEADLINE = 6  # linux/sched.h

_LISTED_BYTES = 16
"""A struct iovec."""


def inspect(workload: Workload, kernel: Kernel | None = None) -> Inspection:
    """Read /proc; raises AgentError WORKLOAD_GONE."""
    processes = tree.descendants(workload.pid)
    if not processes:
        raise AgentError(Code.WORKLOAD_GONE, f"the workload {workload.name} (process {workload.pid}) has ended")
    files = [file for pid in processes for file in procfs.open_files(pid)]
    inodes = {int(file.target[8:-1]) for file in files if file.target.startswith("socket:[")}
    lines = [line for line in procfs.tcp_lines(workload.pid) if line.ino in inodes]
    unkept_sockets = list(unkept.look(kernel or Kernel(), files))
    sizes = [procfs.memory_bytes(pid) for pid in processes]
    return Inspection(
        workload=workload,
        pids=[tid for pid in processes for tid in tree.threads(pid)],
        processes=len(processes),
        no_post_copy=_why_not_left_behind(processes),
        memory_bytes=sum(whole for whole, _ in sizes),
        shared_bytes=sum(shared for _, shared in sizes),
        connections=sum(1 for line in lines if line.state != LISTEN),
        listening_ports=sorted({line.local[1] for line in lines if line.state == LISTEN}),
        problems=[
            *_process_problems(processes),
            *strays.of_session(processes),
            *_file_problems(files),
            *locks.lost(files),
            *_connection_problems(lines),
            *(one.problem for one in unkept_sockets if not one.movable),
        ],
        capabilities=functools.reduce(operator.or_, map(procfs.capabilities, processes)),
        warnings=list(strays.with_shared(processes, files)),
        losses=[*(one.problem for one in unkept_sockets if one.movable), *_group_losses(workload.pid)],
    )


def _why_not_left_behind(processes: list[int]) -> str:
    """CRIU makes room to list every private page that there could be, for each process, where it leaves memory behind
    (criu: mem.c, __parasite_dump_pages_seized; page-pipe.c, create_page_pipe)."""
    pid, reserved = max(((pid, procfs.address_space_bytes(pid)) for pid in processes), key=itemgetter(1))
    needed = reserved // PAGE_BYTES * _LISTED_BYTES
    if needed <= capacity.grantable_bytes():
        return ""
    return (f"post-copy is not possible: process {pid} has reserved {reserved / 2**40:.1f} TiB of addresses, and CRIU "
            f"would need {needed / 2**30:.1f} GiB to list them")  # fmt: skip


def _group_losses(pid: int) -> Iterator[Problem]:
    """Which socket has joined a group cannot be asked; the pod is the workload's."""
    for group in procfs.joined_groups(pid):
        message = f"a socket of the pod has joined the multicast group {group}: it would not be a member any more"
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint=f"Let the workload leave it, or {unkept.ALLOW}")


def _process_problems(processes: list[int]) -> Iterator[Problem]:
    ours = procfs.namespaces("self")
    owners = {owner for pid in processes for owner in procfs.owners(pid)}
    if len(owners) > 1 and not procfs.may_read_limits():
        message = "the workload's processes belong to different users, whose limits the agent may not read"
        yield problem(Code.NO_CAPABILITY, message, hint="Give the agent CAP_SYS_RESOURCE, or run the tree as one user.")
    root = procfs.namespaces(processes[0])
    for pid in processes:
        yield from _thread_problems(pid)
        tracer = int(procfs.status(pid).get("TracerPid", "0"))
        if tracer:
            yield problem(Code.TRACED, f"process {pid} is being traced by process {tracer}")
        if tree.has_lost_leader(pid):
            message = f"the first thread of process {pid} has ended, and others run on"
            yield problem(Code.UNSUPPORTED_PROCESS, message)
        theirs = procfs.namespaces(pid)
        # An IPC namespace of the tree's own is carried along; one move gives it to a tree with System V objects.
        for kind in theirs:
            if theirs[kind] != ours.get(kind) and (kind != "ipc" or theirs[kind] != root.get("ipc")):
                yield problem(Code.FOREIGN_NAMESPACE, f"process {pid} lives in a {kind} namespace of its own")


def _thread_problems(pid: int) -> Iterator[Problem]:
    folder = procfs.link(f"/proc/{pid}/cwd")
    if not folder:  # its first thread has ended
        return
    for tid in tree.threads(pid):
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK == _SCHED_DEADLINE:
                message = f"thread {tid} is scheduled by SCHED_DEADLINE, which cannot be restored"
                yield problem(Code.UNSUPPORTED_FILE, message, hint="Let it take another policy.")
        if (own := procfs.link(f"/proc/{pid}/task/{tid}/cwd")) and own != folder:
            message = (
                f"thread {tid} has a folder of its own ({own}; unshare(2), CLONE_FS), which would be its process's"
            )
            yield problem(Code.UNSUPPORTED_FILE, message, hint="Let processes do that, not threads.")


def _file_problems(files: list[procfs.OpenFile]) -> Iterator[Problem]:
    mounts: dict[int, set[int]] = {}
    own_terminals = {f"/dev/pts/{file.terminal}" for file in files if file.terminal >= 0}
    for file in files:
        if file.pid not in mounts:
            mounts[file.pid] = procfs.mount_ids(file.pid)  # none: it has ended meanwhile
        inside = mounts[file.pid]
        if file.target.startswith("/"):
            if file.target in _UNSAVED:
                yield _unsaved(file, _UNSAVED[file.target])
            elif inside and file.mount not in inside and not file.target.startswith("/memfd:"):
                message = f"the process has a descriptor opened outside the pod: {file.target} (fd {file.fd})"
                yield problem(Code.FOREIGN_DESCRIPTOR, message)
            elif _is_terminal(file) and file.target not in own_terminals:
                # /dev/tty is refused even where its master moves along (criu: tty.c, tty_verify_ctty).
                hint = "In a shell: set +m, which closes it." if file.target == "/dev/tty" and own_terminals else ""
                message = f"the process has a terminal open: {file.target} (fd {file.fd})"
                yield problem(Code.TERMINAL, message, hint=hint)
        elif file.target.startswith("anon_inode:"):
            kind = file.target.removeprefix("anon_inode:")
            if kind not in _FINE_ANONYMOUS:
                yield _unsaved(file, kind)
        elif file.target.startswith("pipe:[") and file.flags & os.O_DIRECT:
            yield _unsaved(file, "a pipe in packet mode, O_DIRECT")


def _unsaved(file: procfs.OpenFile, kind: str) -> Problem:
    message = f"the process has a descriptor that cannot be saved: fd {file.fd} ({kind})"
    return problem(Code.UNSUPPORTED_FILE, message)


def _is_terminal(file: procfs.OpenFile) -> bool:
    """The application's end of one; the other end is a master."""
    return file.terminal < 0 and file.target.startswith(("/dev/pts/", "/dev/tty", "/dev/console"))


def _connection_problems(lines: list[procfs.TcpLine]) -> Iterator[Problem]:
    for line in lines:
        if line.state != LISTEN and line.peer[1] and line.state not in flows.MOVABLE:
            state = flows.STATE_NAMES.get(line.state, str(line.state))
            ends = f"{line.local[0]}:{line.local[1]} to {line.peer[0]}:{line.peer[1]}"
            yield problem(Code.CONNECTION_STATE, f"the connection {ends} is in state {state}")
