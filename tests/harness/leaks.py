"""What a test made and left behind.

Links, mounts, tables, rules and images are this run's alone, on a machine of its own (`tests.harness.machine`). Of
what it shares with others its descendants count (this process adopts orphans), its descriptors, what bears the name of
one of its homes, which `fresh_home` gives, and a control group that nobody is in.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import secrets
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute

from controller.lab import cgroup, init
from controller.lab.home import IMAGES
from tests.harness.sidecars import AGENT, PROXY

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
HOMES = f"/run/mst-{os.getpid()}-"
PODS_OWN = {init.__file__, PROXY, AGENT}
SETTLE_SECONDS = 30.0
"""The kernel takes namespaces and what is in them away behind the back of whoever ended the last process."""

Snapshot = frozenset[str]


def fresh_home() -> Path:
    """A MIDSTREAM_HOME of this run's own. Not below pytest's temporary folder, which the proxy's user may not enter."""
    return Path(f"{HOMES}{secrets.token_hex(3)}")


def adopt_orphans() -> None:
    """From now on whatever a test starts stays a descendant of this process, however often it forks (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def take(*, machine: bool) -> Snapshot:
    """What there is now, a line each; with `machine` also what outlives processes."""
    found = {*_descriptors(), *_processes()}
    if machine:
        for kind in (_mounts, _links, _tables, _rules, _folders):
            found |= {*kind()}
    return frozenset(found)


def left_since(before: Snapshot, *, machine: bool) -> list[str]:
    """What is there now and was not before; waits a while for it to go away."""
    if take(machine=machine) <= before:
        return []
    gc.collect()  # a socket in a reference cycle is not a leak, only late
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := take(machine=machine) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return sorted(left)


def _descriptors() -> Iterator[str]:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one this listing itself had
            yield f"descriptor {path.name} -> {os.readlink(path)}"  # noqa: PTH115 - thousands of times, and much faster


def _processes() -> Iterator[str]:
    """Those of a pod may have been started anew: they are counted, and have no process id here."""
    of_pods: Counter[str] = Counter()
    for pid in _descendants(os.getpid()):
        if _reaped(pid):
            continue
        command = _command(pid)
        for program in PODS_OWN & set(command.split()):
            of_pods[program] += 1
            yield f"process of a pod: {program}, {of_pods[program]}"
            break
        else:
            yield f"process {pid}: {command[:120]}"


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield from _descendants(child)
        yield child


def _children(pid: int) -> list[int]:
    """Those of all its threads; none when it, or the thread that had them, ends while we look."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _reaped(pid: int) -> bool:
    """Takes away a zombie that was left to us when its parent died; says whether the process is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # a grandchild: its own parent's to reap
        return not Path(f"/proc/{pid}").exists()


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "?"


def _mounts() -> Iterator[str]:
    return (f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _links() -> Iterator[str]:
    return (f"link {name}" for _, name in socket.if_nameindex())


def _tables() -> Iterator[str]:
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return (f"nft {line}" for line in listed.stdout.splitlines())


def _rules() -> list[str]:
    with IPRoute() as ip:
        return [f"ip rule {rule.get('FRA_PRIORITY', 0)}: {rule['attrs']}" for rule in ip.get_rules()]


def _folders() -> Iterator[str]:
    """Homes, image folders, and control groups without a process: another run's has some, or soon, or goes."""
    yield from (f"home {path}" for path in Path("/run").glob(f"{Path(HOMES).name}*"))
    yield from (f"images {path}" for path in IMAGES.iterdir())
    controller = cgroup.find(Path("/proc/self/mounts").read_text())
    for group in controller.root.glob("midstream-[0-9]*") if controller else ():
        with contextlib.suppress(OSError):  # it goes just now
            if not (group / "cgroup.procs").read_text():
                yield f"group {group}"
