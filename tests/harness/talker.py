"""What streams the pattern both ways and checks every byte; as a program, a server whose every connection does that.

Standard library only: it is started dozens of times.

    python -I -S talker.py HOST PORT BACKLOG [DIAL]
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import sys
import threading
import time

PATTERN = bytes(range(251)) * 2048
PATIENCE_SECONDS = 30.0
SAID_BYTES = 50_000
"""What the workload says before it shuts down its side, when the first byte asks for that ("f"); "q" is for silence."""
_TOLD_SECONDS = 10.0
"""A writer that is in its call for longer has a full buffer before it, and no reset."""
_libc = ctypes.CDLL(None, use_errno=True)


def slice_at(offset: int, size: int) -> bytes:
    start = offset % 251
    return PATTERN[start : start + size]


class Talker:
    """Streams the pattern both ways on a connected socket, and checks every byte it gets."""

    def __init__(
        self, sock: socket.socket, sent: int = 0, got: int = 0, slow: bool = False, quiet: bool = False
    ) -> None:
        self.sock = sock
        self.sent, self.got = sent, got
        self.verdict = "open"
        self._reset = ""
        self._slow = slow
        self._stop = threading.Event()
        sock.settimeout(PATIENCE_SECONDS)
        self._reader = threading.Thread(target=self._read, name="talker reads", daemon=True)
        self._writer = threading.Thread(target=self._write, name="talker writes", daemon=True)
        self._reader.start()
        if not quiet:
            self._writer.start()

    def finish(self) -> None:
        """Stop writing, and say so with a FIN."""
        self.stop_writing()
        self.shutdown()

    def stop_writing(self) -> None:
        self._stop.set()
        if self._writer.ident:
            self._writer.join(PATIENCE_SECONDS)

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with an RST at once, threads in calls or not: what connect(AF_UNSPEC) does (K: tcp_disconnect)."""
        self._stop.set()
        if _libc.connect(self.sock.fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "connect to AF_UNSPEC")

    def verdict_after_end(self) -> str:
        """A reset is told to one caller, the next sees the end of the stream: so ask both threads, the writer once it
        has come out of its call, if it does."""
        self._reader.join(PATIENCE_SECONDS)
        sent, deadline = self.sent, time.monotonic() + _TOLD_SECONDS
        while self._writer.is_alive() and self.sent == sent and time.monotonic() < deadline:
            time.sleep(0.001)
        return self._reset if self._reset and self.verdict == "ended" else self.verdict

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self._reader.join(PATIENCE_SECONDS)
        if self._writer.ident:
            self._writer.join(PATIENCE_SECONDS)
        self.sock.close()

    def _read(self) -> None:
        try:
            while data := self.sock.recv(32768 if self._slow else 262144):
                if data != slice_at(self.got, len(data)):
                    self.verdict = f"wrong bytes at {self.got}"
                    return
                self.got += len(data)
                if self._slow:
                    time.sleep(0.002)
            self.verdict = "ended"
        except OSError as error:
            self.verdict = type(error).__name__

    def _write(self) -> None:
        try:
            while not self._stop.is_set():
                self.sent += self.sock.send(slice_at(self.sent, 100_000))
        except ConnectionResetError as error:
            self._reset = type(error).__name__
        except OSError:
            return


def serve(host: str, port: int, backlog: int, dial: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=host == "::")
    talkers = []
    if dial:
        talkers.append(Talker(socket.create_connection((dial, port + 1))))
    print("listening", flush=True)
    while True:
        sock, _ = listener.accept()
        first = sock.recv(1)
        talkers.append(Talker(sock, got=1, quiet=first in (b"q", b"f")))
        if first == b"f":
            sock.sendall(slice_at(0, SAID_BYTES))
            sock.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
