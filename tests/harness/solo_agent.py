"""An agent in a solo pod: the real process, started and killed, and called over its socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from controller.lab.programs import ENVIRONMENT
from tests.harness.solo_pod import SoloPod

REPOSITORY = Path(__file__).parents[2]
CRIU = REPOSITORY / ".criu" / "criu"
START_SECONDS = 60.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class SoloAgent:
    """`call` gives the status and the decoded answer."""

    def __init__(self, pod: SoloPod, images: Path) -> None:
        self.pod = pod
        self.adopt_path = pod.directory / "proxy" / "adopt.sock"
        self._images = images
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def socket_path(self) -> Path:
        return self.pod.directory / "agent.sock"

    def start(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        with (self.pod.directory / "agent.log").open("ab") as log:
            self._process = self.pod.popen(
                [sys.executable, "-m", "checkpoint.main", "--directory", str(self.pod.directory), "--adopt",
                 str(self.adopt_path), "--criu", str(CRIU), "--images", str(self._images)],
                cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=log, env=os.environ | ENVIRONMENT,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self.socket_path.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the agent did not start: {self.log()[-2000:]}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The agent's own PID on the host: nsenter forks it into the pod."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0])

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def log(self) -> str:
        return (self.pod.directory / "agent.log").read_text()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = _Connection(self.socket_path)
        try:
            connection.request(method, path, body=raw)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Like `call`, but anything but 200 is a failure of the test."""
        status, answer = self.call(method, path, body)
        assert status == 200, (method, path, status, answer)
        return answer

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
        """Status, code and message of a refusal."""
        status, answer = self.call(method, path, body)
        assert status != 200, answer
        return status, answer["error"]["code"], answer["error"]["message"]

    def __enter__(self) -> SoloAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
