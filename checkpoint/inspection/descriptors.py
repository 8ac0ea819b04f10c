"""The descriptors of a workload that CRIU (4.2.1) cannot save, or would make something else of."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.processes import procfd, procfs, tree
from checkpoint.processes.procfd import OpenFile

_ANONYMOUS = "anon_inode:"
_SAVED = {
    "[eventpoll]",
    "[eventfd]",
    "[eventfd-count]",
    "[timerfd]",
    "[signalfd]",
    "[pidfd]",
    "inotify",
    "[fanotify]",
}
"""anon_inodes that CRIU can save (criu: files.c, dump_one_file)."""

_UNSAVED = {"/dev/net/tun": "a tun or tap device", "/secretmem (deleted)": "memfd_secret"}
"""By where they lead (criu: tun.c wants a network namespace of the tree's own)."""

_ALARM_CLOCKS = ("clockid: 8", "clockid: 9")  # CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM (linux/time.h)
_PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h
_MEM_MAJOR, _TTY_MAJORS = 1, frozenset({4, 5, 204, 229, *range(128, 144)})  # linux/major.h, devices.txt
_OF_A_THREAD = re.compile(r"/proc/(\d+)/task/(\d+)(/|$)")
_PRESSURE = re.compile(r"/proc/pressure/|/sys/fs/cgroup/.*\.pressure$")


def problems(files: Collection[OpenFile], processes: Collection[int]) -> Iterator[Problem]:
    """Of `files`, all that the tree of `processes` has open."""
    mounts: dict[int, set[int]] = {}
    own_terminals = {f"/dev/pts/{file.terminal}" for file in files if file.terminal >= 0}
    for file in files:
        if file.pid not in mounts:
            mounts[file.pid] = procfs.mount_ids(file.pid)  # none: it has ended meanwhile
        if file.target.startswith("/"):
            yield from _of_path(file, mounts[file.pid], own_terminals)
        elif what := _of_no_path(file, processes):
            yield _unsaved(file, what)


def _unsaved(file: OpenFile, what: str) -> Problem:
    message = f"process {file.pid} has a descriptor that cannot be saved: fd {file.fd} ({what})"
    return problem(Code.UNSUPPORTED_FILE, message)


def _of_path(file: OpenFile, inside: set[int], own_terminals: set[str]) -> Iterator[Problem]:
    if what := _UNSAVED.get(file.target) or _lost(file) or _device(file):
        yield _unsaved(file, what)
    elif inside and file.mount not in inside and not file.target.startswith("/memfd:"):
        message = f"the process has a descriptor opened outside the pod: {file.target} (fd {file.fd})"
        yield problem(Code.FOREIGN_DESCRIPTOR, message)
    elif _is_terminal(file) and file.target not in own_terminals:
        # /dev/tty is refused even where its master moves along (criu: tty.c, tty_verify_ctty).
        hint = "In a shell: set +m, which closes it." if file.target == "/dev/tty" and own_terminals else ""
        message = f"the process has a terminal open: {file.target} (fd {file.fd})"
        yield problem(Code.TERMINAL, message, hint=hint)


def _lost(file: OpenFile) -> str:
    """What is opened anew, by its path, and is not the same then."""
    of_a_thread = _OF_A_THREAD.match(file.target)
    if of_a_thread and of_a_thread[1] != of_a_thread[2]:
        return f"{file.target}, of a thread, which is not there yet when files are opened"
    if _PRESSURE.match(file.target) and file.flags & os.O_ACCMODE != os.O_RDONLY:
        return f"{file.target}, whose trigger would be lost"
    return ""


def _device(file: OpenFile) -> str:
    """Only what lies in /dev is asked what it is, and what was opened with O_PATH: a dead server of files answers
    nobody."""
    if not file.target.startswith("/dev/") and not file.flags & os.O_PATH:
        return ""
    try:
        seen = os.stat(f"/proc/{file.pid}/fd/{file.fd}")  # noqa: PTH116 - of the very file, without pathlib's time
    except OSError:
        return ""  # closed meanwhile
    if stat.S_ISSOCK(seen.st_mode):
        return f"{file.target}, a socket's name opened with O_PATH"
    is_strange = stat.S_ISCHR(seen.st_mode) and os.major(seen.st_rdev) not in _TTY_MAJORS | {_MEM_MAJOR}
    return f"{file.target}, a device" if is_strange or stat.S_ISBLK(seen.st_mode) else ""


def _is_terminal(file: OpenFile) -> bool:
    """The application's end of one; the other end is a master."""
    return file.terminal < 0 and file.target.startswith(("/dev/pts/", "/dev/tty", "/dev/console"))


def _of_no_path(file: OpenFile, processes: Collection[int]) -> str:
    """What cannot be saved of a pipe or an anon_inode; "": all of it can."""
    if file.target.startswith("pipe:["):
        return "a pipe in packet mode, O_DIRECT" if file.flags & os.O_DIRECT else ""
    if not file.target.startswith(_ANONYMOUS):
        return ""
    kind = file.target.removeprefix(_ANONYMOUS)
    if kind not in _SAVED:
        return kind
    look = _LOOKS.get(kind)
    return look(procfd.descriptor_lines(file.pid, file.fd), processes) if look else ""


def _eventfd(lines: list[str], _: Collection[int]) -> str:
    """Before Linux 6.5 it is not said."""
    is_semaphore = any(line.split() == ["eventfd-semaphore:", "1"] for line in lines)
    return "an eventfd that is a semaphore, EFD_SEMAPHORE: the copy's would be none" if is_semaphore else ""


def _timerfd(lines: list[str], _: Collection[int]) -> str:
    return "a timerfd of a clock that wakes the machine, CLOCK_…_ALARM" if set(_ALARM_CLOCKS) & set(lines) else ""


def _fanotify(lines: list[str], _: Collection[int]) -> str:
    """A mark has an inode, a mount, or neither: then it is a file system's."""
    is_lost = any(line.startswith("fanotify sdev:") for line in lines)
    return "a fanotify that watches a whole file system, FAN_MARK_FILESYSTEM: the copy's would not" if is_lost else ""


def _pidfd(lines: list[str], processes: Collection[int]) -> str:
    said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if int(said.get("flags", "0"), 8) & _PIDFD_THREAD:
        return "a pidfd of a thread, PIDFD_THREAD"
    pid = int(said.get("Pid", "-1"))
    if pid < 0 or pid in processes:  # it has ended, or moves along
        return ""
    seen = tree.stat(pid)
    if pid and (seen is None or seen.state in "ZX"):
        return ""
    return f"a pidfd of process {pid}, which is outside the workload" if pid else "a pidfd of a process outside the pod"


_LOOKS: dict[str, Callable[[list[str], Collection[int]], str]] = {
    "[eventfd]": _eventfd,
    "[timerfd]": _timerfd,
    "[fanotify]": _fanotify,
    "[pidfd]": _pidfd,
}
