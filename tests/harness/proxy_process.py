"""A proxy as a process, and who talks to it: over its control socket, and as the agent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.lab.certificates import Authority
from controller.lab.pod import Pod
from controller.lab.programs import ENVIRONMENT
from tests.harness.proxy_nets import Namespace
from tests.harness.talker import PATIENCE_SECONDS


def eventually(true: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.01)
    return value


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("proxy", timeout=PATIENCE_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.sock.connect(self._path)


class ProxyProcess:
    """A proxy in a namespace, started as root; it drops its privileges by itself."""

    def __init__(
        self, namespace: Namespace, directory: Path, *more: str, argv: tuple[str, ...] = ("-m", "proxy.main")
    ) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = namespace.popen(
                sys.executable,
                *argv,
                "--directory",
                str(directory),
                *more,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
                env=os.environ | ENVIRONMENT,
            )

    def wait_ready(self) -> None:
        try:
            eventually(lambda: self.process.poll() is not None or b" ready" in self.log.read_bytes(), "proxy ready")
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def call(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        connection = UnixConnection(self.directory / "control.sock")
        with contextlib.closing(connection):
            connection.request(method, path, raw if raw is not None else json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            data = answer.read()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, json.loads(data) if "json" in kind else data.decode()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, path, body)
        assert status == 200, answer
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.log.read_text()

    def complaints(self) -> list[str]:
        """Log lines that must not be there."""
        return [line for line in self.log.read_text().splitlines() if "ERROR" in line or "Traceback" in line]


class Agent:
    """The agent's end of the adoption socket."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.sock.connect(str(proxy.directory / "adopt.sock"))

    def ask(self, message: Any, descriptors: list[int] | None = None, raw: bytes | None = None) -> Any:
        data = raw if raw is not None else json.dumps(message).encode()
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(descriptors)}i", *descriptors))]
            if descriptors
            else []
        )
        self.sock.sendmsg([data], rights)
        return json.loads(self.sock.recv(1 << 20))

    def close(self) -> None:
        self.sock.close()


def certified(home: Path, name: str, address: str, address6: str = "") -> Path:
    """A folder with a pod's key and certificates, of the authority that this home has."""
    pod = Pod(name, 1, address, address6, str(home / f"{name}-pod"), "", "")
    assert pod.tls_folder
    pod.tls_folder.parent.mkdir(parents=True)
    Authority(home / "ca").equip(pod)
    return pod.tls_folder
