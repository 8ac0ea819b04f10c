"""The other side of the adoption protocol, small: it really receives the descriptors and really holds them.

What the proxy does with them afterwards is the proxy's own affair and tested there. This one leaves repair mode, as any
adopter must, and keeps the sockets until it is told to let go or dies.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from proxy.api import Endpoint
from proxy.io.adopted import foresee_leg

_TCP_REPAIR = 19
_MAX_FDS = 253


def _leg(said: dict[str, Any]) -> list[Any]:
    """With numbers that both ends of it can be made of."""
    peer, app = Endpoint(*said["peer"]), Endpoint(*said["local"])
    leg: list[Any] = msgspec.to_builtins(foresee_leg(said["flow"], peer, app, said["mss"]))
    return leg


class Adopter:
    """A thread that serves one socket; `requests` is what it was asked, `held` what it holds."""

    def __init__(self, path: Path, *, refuse: str = "") -> None:
        self.requests: list[dict[str, Any]] = []
        self.held: list[socket.socket] = []
        self._refuse = refuse
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="adopter")
        self._thread.start()

    @property
    def said(self) -> list[dict[str, Any]]:
        """What it was told of each socket, one after the other."""
        return [one for request in self.requests for one in request.get("sockets", ())]

    def die(self) -> None:
        """End as a killed proxy does: every descriptor goes, nobody is told."""
        while self._thread.is_alive():  # which may just have accepted another
            for one in [*self._connections, self._listener]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.01)
        for one in [*self._connections, self._listener, *self.held]:
            one.close()
        self._connections.clear()
        self.held.clear()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            while self._answer(connection):
                pass

    def _answer(self, connection: socket.socket) -> bool:
        """Whether there is more to come; an agent that goes without its answer has gone like any other."""
        try:
            raw, fds, _, _ = socket.recv_fds(connection, 1 << 20, _MAX_FDS)
        except ConnectionResetError:  # as the kernel says it when it had been answered
            return False
        if not raw:
            return False
        request = json.loads(raw)
        self.requests.append(request)
        with contextlib.suppress(BrokenPipeError):
            connection.send(json.dumps(self._handle(request, fds)).encode())
        return True

    def _handle(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if request["op"] == "release":
            released = len(self.held)
            self._let_go()
            return {"released": released}
        if request["op"] == "end":
            return {"told": 0}
        if self._refuse:
            for fd in fds:
                os.close(fd)
            return {"error": {"code": "ledger", "message": self._refuse, "fault": "pod", "hint": "none"}}
        if request["op"] == "foresee":
            assert not fds
            return {"legs": [_leg(one) for one in request["sockets"]]}
        assert len(fds) == len(request["sockets"])
        if request["op"] == "take":
            return {"pairs": [self._take(fd, *said) for fd, said in zip(fds, request["sockets"], strict=True)]}
        for fd, said in zip(fds, request["sockets"], strict=True):
            sock = socket.socket(fileno=fd)
            self.held.append(sock)
            if said["kind"] == "flow":
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, -1)
            else:
                sock.listen(4096)
        legs = [[one["flow"]] for one in request["sockets"] if one["kind"] == "flow"]
        return {"adopted": len(fds), "legs": legs}

    def _take(self, fd: int, flow: int, unread: int) -> list[Any]:
        """As it is: nobody has put it into repair mode."""
        self.held.append(socket.socket(fileno=fd))
        said = self.held[-1].recv(unread, socket.MSG_PEEK) if unread else b""
        return [flow, 0, base64.b64encode(said).decode()]

    def _let_go(self) -> None:
        for sock in self.held:
            sock.close()
        self.held.clear()

    def __enter__(self) -> Adopter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.die()
