"""Clients that know every byte they must get: threads with a socket in a pod's network."""

from __future__ import annotations

import socket
import threading
import time

from controller.lab.namespaces import in_network
from controller.lab.pod import Pod

PATTERN = bytes(range(251)) * 8000
ECHO_PAUSE_SECONDS = 0.008
"""Between two pieces: some are always on their way, and the processor is left to what is tried."""


def pattern_at(offset: int, length: int) -> bytes:
    start = offset % 251
    longer = PATTERN if start + length <= len(PATTERN) else PATTERN * (length // len(PATTERN) + 2)
    return longer[start : start + length]


def connect(pod: Pod, host: str, port: int, timeout_seconds: float = 30, own_port: int = 0) -> socket.socket:
    """A connection from `pod`; usable from anywhere. `own_port` 0: the kernel chooses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def dial() -> socket.socket:
        sock = socket.socket(family)
        sock.settimeout(timeout_seconds)
        try:
            if own_port:
                sock.bind(("", own_port))
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    return in_network(pod, dial)


class Echo:
    """Sends the pattern, reads it back, checks every byte and remembers the longest silence."""

    def __init__(self, pod: Pod, host: str, port: int, chunk_bytes: int = 20000) -> None:
        self.sock = connect(pod, host, port)
        self.sent = self.got = 0
        self.longest_silence_seconds = 0.0
        self.trouble = ""
        self._chunk_bytes = chunk_bytes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, name=run.__name__) for run in (self._send, self._receive)]
        self.sock.sendall(b"E")
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while not self._stop.is_set():
                if self.sent - self.got > 2 << 20:  # a server that stands still is not flooded for ever
                    self._stop.wait(0.001)
                    continue
                self.sent += self.sock.send(pattern_at(self.sent, self._chunk_bytes))
                self._stop.wait(ECHO_PAUSE_SECONDS)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.trouble = self.trouble or f"send: {error!r} after {self.sent}"

    def _receive(self) -> None:
        last = time.monotonic()
        try:
            while data := self.sock.recv(262144):
                now = time.monotonic()
                self.longest_silence_seconds, last = max(self.longest_silence_seconds, now - last), now
                if data != pattern_at(self.got, len(data)):
                    self.trouble = self.trouble or f"wrong bytes at {self.got}"
                self.got += len(data)
        except OSError as error:
            self.trouble = self.trouble or f"receive: {error!r} after {self.got}"

    def finish(self) -> None:
        """Stops sending, waits for the rest, and fails unless every byte came back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self.sock.close()
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive, f"stuck: sent {self.sent}, got {self.got}"
        assert not self.trouble, self.trouble
        assert self.got == self.sent
        assert self.sent > 0


class Stream:
    """Reads the endless pattern, slowly or only from `read_on` on if asked to, and checks every byte."""

    def __init__(self, pod: Pod, host: str, port: int, pause_seconds: float = 0.0, reads: bool = True) -> None:
        self.sock = connect(pod, host, port)
        self.got, self.trouble, self._pause_seconds = 0, "", pause_seconds
        self._stop, self._reads = threading.Event(), threading.Event()
        if reads:
            self.read_on()
        self._thread = threading.Thread(target=self._receive, name="stream")
        self.sock.sendall(b"S")
        self._thread.start()

    def read_on(self) -> None:
        self._reads.set()

    def _receive(self) -> None:
        try:
            self._reads.wait()
            while not self._stop.is_set() and (data := self.sock.recv(65536)):
                if data != pattern_at(self.got, len(data)):
                    self.trouble = f"wrong bytes at {self.got}"
                    return
                self.got += len(data)
                self._stop.wait(self._pause_seconds)
        except OSError as error:
            self.trouble = f"receive: {error!r} after {self.got}"

    def finish(self) -> None:
        """Fails unless every byte so far was right and the stream still flows."""
        self.read_on()
        before = self.got
        deadline = time.monotonic() + 30
        while self.got == before and not self.trouble and time.monotonic() < deadline:
            time.sleep(0.01)
        flows = self.got > before
        self._stop.set()
        self._thread.join(60)
        self.sock.close()
        assert not self.trouble, self.trouble
        assert flows, f"nothing comes any more after {before} bytes"
