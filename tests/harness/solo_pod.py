"""A pod for the agent's own tests: five namespaces, a PID 1 that reaps, `lo`, and one address. Nothing of the lab's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

INIT = Path(__file__).with_name("solo_init.py")
OF_PID = Path(__file__).with_name("programs") / "of_pid.py"
# The real interpreter, not a shim of a version manager: a shim is a shell script, slow and full of descriptors.
PYTHON = sys.executable
_LIBC = ctypes.CDLL(None, use_errno=True)


class SoloPod:
    """One set of network, PID, mount, IPC and UTS namespaces, alive as long as the object is open.

    `directory` is the pod's state folder, at the same path inside and outside: the file system is the host's.
    """

    def __init__(self, directory: Path, address: str, pid_base: int) -> None:
        self.directory = directory
        self.address = address
        directory.mkdir(parents=True, exist_ok=True)
        self._unshare = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--propagation",
            "private",
             "--ipc", "--uts", PYTHON, "-I", "-S", str(INIT)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            self._build(address, pid_base)
        except BaseException:
            self.close()
            raise

    def _build(self, address: str, pid_base: int) -> None:
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != b"ready\n":
            raise RuntimeError("the pod's PID 1 did not start")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text()
        self.pid1 = int(children.split()[0])
        self.run(["ip", "link", "set", "lo", "up"])
        self.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
        # Somewhere for packets to go: a restored connection needs a route to its peer, if only into the void.
        self.run(["ip", "link", "add", "void0", "type", "veth", "peer", "name", "void1"])
        self.run(["ip", "link", "set", "void0", "up"])
        self.run(["ip", "route", "add", "default", "dev", "void0", "src", address])
        self.write_last_pid(pid_base)

    def enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self.pid1}", "--net", "--pid", "--mount", "--ipc", "--uts", *argv]

    def run(self, argv: Sequence[str], **kwargs: Any) -> str:
        """Run a command inside the pod to its end and give its output; raises CalledProcessError."""
        return subprocess.run(self.enter(argv), check=True, stdout=subprocess.PIPE, text=True, **kwargs).stdout

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.enter(argv), **kwargs)

    def write_last_pid(self, pid: int) -> None:
        """Move the pod's PID counter (proc_sys_kernel(5), ns_last_pid), as the creation of a real pod does."""
        self.run([PYTHON, "-I", "-S", "-c", f"open('/proc/sys/kernel/ns_last_pid', 'w').write('{pid}')"])

    def children(self, pid: int) -> list[int]:
        """The processes that its first thread has made."""
        return [int(one) for one in self.run(["cat", f"/proc/{pid}/task/{pid}/children"]).split()]

    def states(self, pid: int) -> set[str]:
        """Of its threads."""
        lines = self.run(["sh", "-c", f"cat /proc/{pid}/task/*/stat"]).splitlines()
        return {line.rsplit(")", 1)[1].split()[0] for line in lines}

    @contextlib.contextmanager
    def sleeper(self, pid: int, *fds: int) -> Iterator[None]:
        """A process of that PID, which has these descriptors and does nothing; it has to be there until the end.

        The pod's counter stays where it is: another pod's workloads may have the numbers behind that one.
        """
        argv = [PYTHON, "-I", "-S", str(OF_PID), str(pid)]
        with self.popen(argv, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield
            process.stdin.close()
            assert process.wait() == 0

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """A connection made in the pod's network namespace, used from outside: a socket stays where it was made."""
        made: list[socket.socket] = []
        thread = threading.Thread(target=self._connect, args=(address, made), name="connect")
        thread.start()
        thread.join()
        return made[0]

    def _connect(self, address: tuple[str, int], made: list[socket.socket]) -> None:
        fd = os.open(f"/proc/{self.pid1}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A thread may enter a network namespace of its own (setns(2)); this one ends right after.
            if _LIBC.setns(fd, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)
        made.append(socket.create_connection(address, timeout=10))

    def pids(self) -> list[int]:
        """Thread group ids alive in the pod, PID 1 left out."""
        listing = self.run(["ls", "/proc"]).split()
        return sorted(int(name) for name in listing if name.isdigit() and int(name) != 1)

    def close(self) -> None:
        """End the pod: its PID 1 dies, and the kernel kills all that is in it (pid_namespaces(7))."""
        self._unshare.kill()
        self._unshare.wait()
        if self._unshare.stdout is not None:
            self._unshare.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> SoloPod:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
