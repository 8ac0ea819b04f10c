"""A pod's first process: makes the namespaces, starts the sidecars, restarts them, reaps, and ends the pod.

Standard library only, and run by `python -I -S`, so that it starts in some 30 ms and has nothing of the checkout's.
What a kubelet and a pause container do in Kubernetes, this does in a standalone pod.

    python -I -S init.py FD LOCK

LOCK is a descriptor of the lock that the creator holds, open until the pod has started or there is none: so who gets
it after a creator that died is alone. FD is a SOCK_SEQPACKET socket to the creator; each message is a JSON object:

| who says it | message | meaning |
|---|---|---|
| creator | {"hostname", "log", "cgroup", "root", "images"} | make the namespaces; join the cgroup first, if one is |
| | | named; `root`, if it is not null, says how to make a root of the pod's own (`ownroot`): {"folder", "shared", |
| | | "code"}; `images`: {"folder", "bytes"}, where a tmpfs of the pod's own goes, and how large, or null |
| outer process | {"pid1"} | the pod's PID 1, as the host numbers it |
| PID 1 | {"pid_max"} | the namespaces are as they should be |
| creator | {"sidecars", "environment", "last_pid"} | the pod is recorded: start them |
| PID 1 | {"started"} | done; PID 1 is on its own from here |

At any point {"error"} says what failed. End of file before "started" means the creator died: PID 1 exits, and the
kernel takes the namespaces and all that is in them away. So a pod that was created half-way is gone by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 29, 1 << 30
NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A sidecar that ran this long and died starts over with the first pause."""

GRACE_SECONDS = 2.0
"""From SIGTERM to SIGKILL for everything in the pod."""

MAX_MESSAGE_BYTES = 1 << 16

DEVPTS = b"newinstance,mode=0620,ptmxmode=0666,gid=5"  # gid 5 is tty, everywhere

SYSCTLS: dict[str, str] = {
    # The proxy and the workloads run without CAP_NET_BIND_SERVICE.
    "net/ipv4/ip_unprivileged_port_start": "0",
    # Addresses are given, and unique by construction: don't listen for routers, don't wait for duplicates.
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}

Message = dict[str, Any]


class Sidecar:
    """One sidecar, and when to start it next. Knows no clock: `now` is given."""

    def __init__(self, name: str, argv: list[str], log: str) -> None:
        self.name, self.argv, self.log = name, argv, log
        self.pid = 0
        self.due_at = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._started_at = 0.0

    def started(self, pid: int, now: float) -> None:
        self.pid, self._started_at = pid, now

    def died(self, now: float) -> float:
        """Records the death, or that it could not be started; gives the pause, in seconds, doubled up to ten."""
        if self.pid and now - self._started_at >= STEADY_SECONDS:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        pause = self._pause_seconds
        self.pid, self.due_at = 0, now + pause
        self._pause_seconds = min(pause * 2, LONGEST_PAUSE_SECONDS)
        return pause


def next_wait_seconds(sidecars: list[Sidecar], now: float) -> float | None:
    """How long until the next sidecar is due; None when all run."""
    due = [sidecar.due_at for sidecar in sidecars if not sidecar.pid]
    return max(min(due) - now, 0.0) if due else None


class First:
    """PID 1, once the pod is set up."""

    SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})

    def __init__(self, sidecars: list[Sidecar], environment: Mapping[str, str]) -> None:
        self._sidecars, self._environment = sidecars, environment

    def run(self) -> None:
        """Reaps and restarts until it is told to end; then ends everything in the pod."""
        while True:
            wait = next_wait_seconds(self._sidecars, time.monotonic())
            got = signal.sigwaitinfo(self.SIGNALS) if wait is None else signal.sigtimedwait(self.SIGNALS, wait)
            if got is not None and got.si_signo != signal.SIGCHLD:
                break
            for pid, status in reaped():
                self._note_death(pid, status)
            self.start_due()
        self._end_all()

    def start_due(self) -> None:
        now = time.monotonic()
        for sidecar in self._sidecars:
            if not sidecar.pid and sidecar.due_at <= now:
                self._start(sidecar, now)

    def _start(self, sidecar: Sidecar, now: float) -> None:
        try:
            sidecar.started(spawn(sidecar.argv, self._environment, sidecar.log), now)
        except OSError as error:
            say(f"{sidecar.name} cannot be started, next try in {sidecar.died(now):.1f} s: {error}")

    def _note_death(self, pid: int, status: int) -> None:
        for sidecar in self._sidecars:
            if sidecar.pid == pid:
                code = os.waitstatus_to_exitcode(status)
                say(f"{sidecar.name} (PID {pid}) ended with {code}, restart in {sidecar.died(time.monotonic()):.1f} s")

    def _end_all(self) -> None:
        """SIGTERM to all but oneself, SIGKILL to what is left after the grace, and not one zombie at the end."""
        deadline = time.monotonic() + GRACE_SECONDS
        kill_all(signal.SIGTERM)
        while has_children() and (left := deadline - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            list(reaped())
        kill_all(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def spawn(argv: list[str], environment: Mapping[str, str], log: str) -> int:
    """Starts a program with nothing of ours but this pod's own /dev/null and log file. Gives its PID."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(argv[0], argv, environment, file_actions=files, setsid=True, setsigmask=())


def reaped() -> list[tuple[int, int]]:
    """Every child that has ended since the last call, with its wait status."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(one)
    return ended


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill_all(signal_number: int) -> None:
    """To every process of this PID namespace but its first (kill(2), pid -1)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal_number)


def say(line: str) -> None:
    """One line into init.log, which is standard error by now."""
    os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n".encode())


def libc_call(name: str, *arguments: object) -> None:
    """Calls a C library function that gives 0 or sets errno. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount_images(folder: str, size_bytes: int) -> None:
    """A tmpfs with huge pages: written in a third of the time, read in half of it. Raises OSError."""
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    options = f"mode=0700,size={size_bytes}"
    try:
        libc_call("mount", b"tmpfs", folder.encode(), b"tmpfs", flags, f"{options},huge=within_size".encode())
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without them
            raise
        libc_call("mount", b"tmpfs", folder.encode(), b"tmpfs", flags, options.encode())


def set_up(hostname: str, log: str, root: Message | None, images: Message | None) -> int:
    """Makes the new namespaces into a pod's; gives its pid_max. Raises OSError."""
    libc_call("mount", None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    if root is not None:
        sys.path.append(root["code"])
        from controller.lab import ownroot

        ownroot.enter(root["folder"], root["shared"])
    if images is not None:
        mount_images(str(images["folder"]), images["bytes"])
    libc_call("mount", b"proc", b"/proc", b"proc", ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC), None)
    # Terminals of its own: the copy of one needs the same number where it arrives (/dev/ptmx goes by what /dev/pts is).
    libc_call("mount", b"devpts", b"/dev/pts", b"devpts", ctypes.c_ulong(MS_NOSUID | MS_NOEXEC), DEVPTS)
    socket.sethostname(hostname)
    os.chdir("/")
    os.umask(0o022)
    for name, value in SYSCTLS.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            write(f"/proc/sys/{name}", value)
    adopt_stdio(log)
    with open("/proc/sys/kernel/pid_max") as file:
        return int(file.read())


def adopt_stdio(log: str) -> None:
    """Opens 0, 1 and 2 anew inside the pod: CRIU cannot dump a descriptor of a mount outside it."""
    for number, (path, flags) in enumerate((("/dev/null", os.O_RDONLY), (log, os.O_WRONLY), (log, os.O_WRONLY))):
        fd = os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(fd, number)
        os.close(fd)


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def send(control: socket.socket, message: Message) -> None:
    with contextlib.suppress(OSError):  # the creator died: the next receive says so
        control.send(json.dumps(message).encode())


def receive(control: socket.socket) -> Message:
    """The next message. Raises EOFError when the creator is gone."""
    data = control.recv(MAX_MESSAGE_BYTES)
    if not data:
        raise EOFError("the creator is gone")
    message: Message = json.loads(data)
    return message


def be_first(control: socket.socket, lock: int, wanted: Message) -> None:
    """What PID 1 does, from its first instruction to its last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, First.SIGNALS)
    send(control, {"pid_max": set_up(wanted["hostname"], wanted["log"], wanted.get("root"), wanted.get("images"))})
    order = receive(control)
    sidecars = [Sidecar(**fields) for fields in order["sidecars"]]
    first = First(sidecars, order["environment"])
    first.start_due()
    # After the sidecars, so that they have low numbers: what is moved about is numbered in the pod's own block.
    write("/proc/sys/kernel/ns_last_pid", str(order["last_pid"]))
    os.close(lock)
    send(control, {"started": True})
    control.close()
    first.run()


def main(fd: int, lock: int) -> int:
    control = socket.socket(fileno=fd)
    for each in (fd, lock):
        os.set_inheritable(each, False)
    try:
        order = receive(control)
        if order["cgroup"]:
            write(f"{order['cgroup']}/cgroup.procs", "0")
        libc_call("unshare", NAMESPACES)
        if child := os.fork():
            send(control, {"pid1": child})
            return 0
        be_first(control, lock, order)
    except EOFError:
        return 1
    except OSError as error:
        send(control, {"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
