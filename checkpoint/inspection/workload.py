"""Look at a workload before it is touched: how much there is to move, and what is known to make it fail."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from operator import itemgetter

from checkpoint.api import Inspection, Problem, Workload
from checkpoint.core import flows
from checkpoint.core.errors import AgentError, Code, problem
from checkpoint.core.pages import PAGE_BYTES
from checkpoint.core.readdress import LISTEN
from checkpoint.inspection import descriptors, locks, mappings, strays
from checkpoint.inspection import processes as of_processes
from checkpoint.kernel import Kernel
from checkpoint.processes import capacity, procfd, procfs, tree
from checkpoint.sockets import procnet, unkept
from checkpoint.sockets.unkept import Fate

_LISTED_BYTES = 16
"""A struct iovec."""


def inspect(workload: Workload, kernel: Kernel | None = None) -> Inspection:
    """Read /proc; raises AgentError WORKLOAD_GONE."""
    processes = tree.descendants(workload.pid)
    if not processes:
        raise AgentError(Code.WORKLOAD_GONE, f"the workload {workload.name} (process {workload.pid}) has ended")
    kernel = kernel or Kernel()
    files = [file for pid in processes for file in procfd.open_files(pid)]
    areas = [area for pid in processes for area in procfs.file_areas(pid)]
    huge_bytes = mappings.huge_pages(areas, files)
    inodes = {int(file.target[8:-1]) for file in files if file.target.startswith("socket:[")}
    lines = [line for line in procnet.tcp_lines(workload.pid) if line.ino in inodes]
    datagrams = [line for line in procnet.udp_lines(workload.pid) if line.ino in inodes]
    sockets = list(unkept.look(kernel, files, replaces=not tree.is_filtered(workload.pid)))
    fates = {fate: [one.problem for one in sockets if one.fate is fate] for fate in Fate}
    sizes = [procfs.memory_bytes(pid) for pid in processes]
    return Inspection(
        workload=workload,
        pids=[tid for pid in processes for tid in tree.threads(pid)],
        processes=len(processes),
        no_post_copy=_why_not_left_behind(processes),
        memory_bytes=sum(whole for whole, _ in sizes),
        shared_bytes=sum(shared for _, shared in sizes),
        connections=sum(1 for line in lines if line.state != LISTEN),
        listening_ports=sorted(
            {line.local[1] for line in lines if line.state == LISTEN} | {one.port for one in sockets if one.port}
        ),
        problems=[
            *of_processes.problems(kernel, processes),
            *strays.of_session(processes),
            *descriptors.problems(files, processes),
            *mappings.problems(areas, files),
            *mappings.huge_page_problems(huge_bytes),
            *locks.lost(files),
            *_connection_problems(lines),
            *fates[Fate.BARRED],
        ],
        capabilities=functools.reduce(operator.or_, map(procfs.capabilities, processes)),
        warnings=[
            *strays.with_shared(processes, files),
            *of_processes.warnings(processes),
            *unkept.shared_ports(datagrams),
            *fates[Fate.REPLACED],
        ],
        huge_bytes=huge_bytes,
        highest_descriptor=max((file.fd for file in files), default=-1),
        losses=[*fates[Fate.RESET], *_group_losses(workload.pid)],
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
    for group in procnet.joined_groups(pid):
        message = f"a socket of the pod has joined the multicast group {group}: it would not be a member any more"
        yield problem(Code.UNSUPPORTED_SOCKET, message, hint=f"Let the workload leave it, or {unkept.ALLOW}")


def _connection_problems(lines: list[procnet.SocketLine]) -> Iterator[Problem]:
    for line in lines:
        if line.state != LISTEN and line.peer[1] and line.state not in flows.MOVABLE:
            state = flows.STATE_NAMES.get(line.state, str(line.state))
            ends = f"{line.local[0]}:{line.local[1]} to {line.peer[0]}:{line.peer[1]}"
            yield problem(Code.CONNECTION_STATE, f"the connection {ends} is in state {state}")
