"""Two pods and a peer for the proxy alone: network namespaces, real proxies, a real workload; no CRIU."""

from __future__ import annotations

import copy
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import talker
from tests.harness.proxy_image import Image
from tests.harness.proxy_nets import ADDRESS, ADDRESS6, Namespace, cable
from tests.harness.proxy_process import Agent, ProxyProcess, certified, eventually
from tests.harness.talker import PATIENCE_SECONDS, Talker

PIDFD_GETFD = 438
READDRESS = {ADDRESS["a"]: ADDRESS["b"], ADDRESS6["a"]: ADDRESS6["b"]}
PORT = 7000
LINK_PORT = 15008
_libc = ctypes.CDLL(None, use_errno=True)


class Workload:
    """A server process in pod a. Each connection is a `Talker`, unless its first byte asks for silence."""

    def __init__(self, namespace: Namespace, host: str = "0.0.0.0", backlog: int = 16, *, dial: str = "") -> None:
        argv = [sys.executable, "-I", "-S", talker.__file__, host, str(PORT), str(backlog), dial]
        self.process = namespace.popen(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline() == b"listening\n"
        self._pidfd = os.pidfd_open(self.process.pid)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        eventually(
            lambda: all((t / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for t in tasks.iterdir()),
            "stopped",
        )

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def sockets(self) -> list[socket.socket]:
        """Duplicates of all its TCP sockets."""
        found = []
        for name in sorted(int(entry.name) for entry in Path(f"/proc/{self.process.pid}/fd").iterdir()):
            descriptor = _libc.syscall(PIDFD_GETFD, self._pidfd, name, 0)
            if descriptor < 0:
                continue
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)
                continue
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
                found.append(sock)
            else:
                sock.close()
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout:
            self.process.stdout.close()
        os.close(self._pidfd)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._close: list[Callable[[], Any]] = []
        self.namespaces = {name: self._own(Namespace()) for name in "abc"}
        cable(self.namespaces)
        self.token = secrets.token_hex(32)
        self.migration = "m" + secrets.token_hex(4)

    def _own(self, thing: Any) -> Any:
        self._close.append(thing.close)
        return thing

    def start_proxies(self, *more: str, argv: tuple[str, ...] = ("-m", "proxy.main"), tls: bool = False) -> None:
        """Their links in cleartext, unless asked otherwise: then the test can speak their protocol."""
        for name in "ab":
            links = ("--tls", str(self._certified(name))) if tls else ("--cleartext-links",)
            setattr(self, name, self._proxy(name, *links, *more, argv=argv))
        for proxy in (self.a, self.b):  # they start side by side
            proxy.wait_ready()

    def _certified(self, name: str) -> Path:
        return certified(self.folder, name, ADDRESS[name], ADDRESS6[name])

    def _proxy(self, name: str, *more: str, argv: tuple[str, ...]) -> ProxyProcess:
        proxy = ProxyProcess(self.namespaces[name], self.folder / name, *more, argv=argv)
        self._close.append(lambda: self._end(proxy))
        return proxy

    def _end(self, proxy: ProxyProcess) -> None:
        if proxy.process.poll() is None:
            proxy.stop()
        assert proxy.complaints() == []

    def lent(self) -> Rig:
        """The same pods and proxies for a test's own migration, of which nothing is left when it is closed."""
        made = copy.copy(self)
        made._close = [made._forget]
        made.migration = "m" + secrets.token_hex(4)
        return made

    def _forget(self) -> None:
        for proxy, side in ((self.a, "outbound"), (self.b, "inbound")):
            status, answer = proxy.call("DELETE", f"/v1/{side}/{self.migration}?force=1")
            assert status in (200, 404), answer  # 404: the test has had it forgotten
            eventually(lambda proxy=proxy: proxy.ok("GET", "/v1/flows") == [], "nothing is relayed")
            assert proxy.complaints() == []

    def agent(self) -> Agent:
        return self._own(Agent(self.a))

    def workload(self, *argv: Any, **more: Any) -> Workload:
        return self._own(Workload(self.namespaces["a"], *argv, **more))

    def connect(
        self, host: str = ADDRESS["a"], port: int = PORT, pod: str = "c", *, own_port: bool = False
    ) -> socket.socket:
        """`own_port`: from a port that no other connection has, which connect(2) promises only for one destination."""
        source = (ADDRESS[pod], 0) if own_port else None
        with self.namespaces[pod].entered():
            return socket.create_connection((host, port), PATIENCE_SECONDS, source)

    def talker(self, sock: socket.socket, **more: Any) -> Talker:
        return self._own(Talker(sock, **more))

    def prepare(self, links: int = 0, **more: Any) -> None:
        self.b.ok("PUT", f"/v1/inbound/{self.migration}", {"token": self.token})
        self.a.ok("PUT", f"/v1/outbound/{self.migration}", self.plan(links, **more))

    def plan(self, links: int = 0, **more: Any) -> dict[str, Any]:
        destination = [ADDRESS["b"], LINK_PORT]
        return {"destination": destination, "token": self.token, "readdress": READDRESS, "links": links, **more}

    def adopt(self, agent: Agent, images: list[Image]) -> list[Any]:
        message = {"op": "adopt", "migration": self.migration, "sockets": [image.request() for image in images]}
        answer = agent.ask(message, [image.sock.fileno() for image in images])
        assert "legs" in answer, answer
        return answer["legs"]

    def repoint(self) -> Any:
        self.b.ok("POST", f"/v1/inbound/{self.migration}/resume")
        return self.a.ok("POST", f"/v1/outbound/{self.migration}/repoint")

    def restored(self, image: Image) -> socket.socket:
        with self.namespaces["b"].entered():
            sock = image.restore(READDRESS.get(image.local[0].removeprefix("::ffff:"), image.local[0]))
        self._close.append(sock.close)
        return sock

    def server_in_b(self, host: str = "0.0.0.0", backlog: int = 64) -> socket.socket:
        """The restored listener."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.namespaces["b"].entered():
            sock = socket.create_server((host, PORT), family=family, backlog=backlog, dualstack_ipv6=host == "::")
        sock.settimeout(PATIENCE_SECONDS)
        self._close.append(sock.close)
        return sock

    def close(self) -> None:
        errors = []
        for close in reversed(self._close):
            try:
                close()
            except Exception as error:
                errors.append(error)
        assert not errors, errors
