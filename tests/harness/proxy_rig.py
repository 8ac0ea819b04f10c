"""Two pods and a peer for the proxy alone: network namespaces, real proxies, a real workload; no CRIU.

The part of CRIU is played by `Image`: a socket's state read with TCP_REPAIR and, there, a socket made of it.
Namespaces have no names: they go with their last descriptor and process.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from controller.lab.certificates import Authority
from controller.lab.pod import Pod
from proxy.sys import options, repair
from proxy.sys.kernel import Kernel

CLONE_NEWNET = 0x40000000
PIDFD_GETFD = 438
ADDRESS = {"a": "10.99.0.1", "b": "10.99.0.2", "c": "10.99.0.3"}
ADDRESS6 = {"a": "fd99::1", "b": "fd99::2", "c": "fd99::3"}
READDRESS = {ADDRESS["a"]: ADDRESS["b"], ADDRESS6["a"]: ADDRESS6["b"]}
PORT = 7000
LINK_PORT = 15008
PATTERN = bytes(range(251)) * 2048
PATIENCE_SECONDS = 10.0
SAID_BYTES = 50_000
"""What the workload says before it shuts down its side, when the first byte asks for that ("f"); "q" is for silence."""
KERNEL = Kernel()
_libc = ctypes.CDLL(None, use_errno=True)


def eventually(true: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.01)
    return value


def slice_at(offset: int, size: int) -> bytes:
    start = offset % 251
    return PATTERN[start : start + size]


# --- namespaces


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    def __init__(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(home)
        os.close(home)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """For this thread: sockets made here live here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _setns(self.descriptor)
        try:
            yield
        finally:
            _setns(home)
            os.close(home)

    def popen(self, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, preexec_fn=lambda: _setns(self.descriptor), **more)

    def close(self) -> None:
        os.close(self.descriptor)


def cable(namespaces: dict[str, Namespace]) -> None:
    """A bridge in c; a and b on it by veth pairs; c has its address on the bridge."""
    with namespaces["c"].entered(), IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        ip.link("add", ifname="br", kind="bridge")
        _address(ip, "br", "c")
        for name in ("a", "b"):
            ip.link(
                "add",
                ifname=f"to-{name}",
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": namespaces[name].descriptor},
            )
            bridge = ip.link_lookup(ifname="br")[0]
            ip.link("set", index=ip.link_lookup(ifname=f"to-{name}")[0], master=bridge, state="up")
    for name in ("a", "b"):
        with namespaces[name].entered(), IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
            _address(ip, "eth0", name)
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _address(ip: IPRoute, device: str, name: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
    index = ip.link_lookup(ifname=device)[0]
    ip.addr("add", index=index, address=ADDRESS[name], prefixlen=24)
    ip.addr("add", index=index, address=ADDRESS6[name], prefixlen=64)
    ip.link("set", index=index, state="up")


# --- proxies


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
            )
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


# --- the workload and its peers


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
        """A reset is told to one caller, the next sees the end of the stream: so ask both threads."""
        self._reader.join(PATIENCE_SECONDS)
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


class Workload:
    """A server process in pod a. Each connection is a `Talker`, unless its first byte asks for silence."""

    def __init__(self, namespace: Namespace, host: str = "0.0.0.0", backlog: int = 16, *, dial: str = "") -> None:
        argv = [sys.executable, __file__, host, str(PORT), str(backlog), dial]
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


def is_listener(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class Image:
    """What CRIU would have of one TCP socket. The socket stays in repair mode, as CRIU leaves it."""

    def __init__(self, sock: socket.socket) -> None:
        self.flow = secrets.randbits(48)
        self.sock = sock
        self.family = sock.family
        self.listener = is_listener(sock)
        self.local = sock.getsockname()[:2]
        self.peer = ("0.0.0.0", 0) if self.listener else sock.getpeername()[:2]
        if self.listener:
            return
        self.live = repair.read(KERNEL, sock)
        self.outq_len = KERNEL.queued(sock, options.SIOCOUTQ)
        self.fin_received = self.live.state in (8, 9, 11)
        self.fin_sent = self.live.state in (4, 5, 9, 11)
        self.queue = b""
        if self.live.unread:
            self.queue = sock.recv(self.live.unread, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        assert len(self.queue) == self.live.unread

    def request(self) -> dict[str, Any]:
        if self.listener:
            return {"flow": self.flow, "kind": "listener", "local": self.local, "peer": self.peer}
        return {
            "flow": self.flow,
            "kind": "flow",
            "local": self.local,
            "peer": self.peer,
            "direction": "inbound",
            "inq_seq": (self.live.rcv_nxt - self.fin_received) % 2**32,
            "inq_len": self.live.unread,
            "outq_seq": self.live.write_seq,
            "outq_len": self.outq_len,
            "fin_received": self.fin_received,
        }

    def restore(self, local: str, *, own: socket.socket | None = None) -> socket.socket:
        """The socket again, at another address, with nothing to send and its unread bytes; still in repair mode."""
        live, sock = self.live, own or socket.socket(self.family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        repair.enter(KERNEL, sock)
        rcv = live.rcv_nxt - self.fin_received
        snd = live.write_seq - self.fin_sent
        for queue, number in ((options.RECV_QUEUE, rcv - len(self.queue)), (options.SEND_QUEUE, snd)):
            sock.setsockopt(6, options.TCP_REPAIR_QUEUE, queue)
            sock.setsockopt(6, options.TCP_QUEUE_SEQ, struct.pack("=I", number % 2**32))
        mapped = self.family == socket.AF_INET6 and ":" not in local
        sock.bind((f"::ffff:{local}" if mapped else local, self.local[1]))
        sock.connect(self.peer)
        pairs = [(2, live.mss)]
        pairs += [(4, 0)] if live.tcp_options & 2 else []
        pairs += [(3, live.snd_wscale | live.rcv_wscale << 16)] if live.tcp_options & 4 else []
        pairs += [(8, 0)] if live.tcp_options & 1 else []
        sock.setsockopt(6, options.TCP_REPAIR_OPTIONS, b"".join(struct.pack("=II", *pair) for pair in pairs))
        if live.tcp_options & 1:
            sock.setsockopt(6, options.TCP_TIMESTAMP, struct.pack("=I", live.timestamp))
        self._fill(sock)
        window = struct.pack(
            "=5I",
            live.snd_wl1,
            live.snd_wnd,
            live.max_window,
            live.rcv_wnd + self.fin_received,
            (live.rcv_wup - self.fin_received) % 2**32,
        )
        sock.setsockopt(6, options.TCP_REPAIR_WINDOW, window)
        return sock

    def _fill(self, sock: socket.socket) -> None:
        if not self.queue:
            return
        sock.setsockopt(socket.SOL_SOCKET, options.SO_RCVBUFFORCE, max(len(self.queue) * 4, 1 << 18))
        sock.setsockopt(6, options.TCP_REPAIR_QUEUE, options.RECV_QUEUE)
        view = memoryview(self.queue)
        while view:
            view = view[sock.send(view[:32768]) :]

    def resume(self, sock: socket.socket) -> None:
        repair.leave(KERNEL, sock, options.REPAIR_OFF)
        if self.fin_sent:
            sock.shutdown(socket.SHUT_WR)


# --- the whole


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

    def agent(self) -> Agent:
        return self._own(Agent(self.a))

    def workload(self, *argv: Any, **more: Any) -> Workload:
        return self._own(Workload(self.namespaces["a"], *argv, **more))

    def connect(self, host: str = ADDRESS["a"], port: int = PORT, pod: str = "c") -> socket.socket:
        with self.namespaces[pod].entered():
            return socket.create_connection((host, port), timeout=PATIENCE_SECONDS)

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


def _serve(host: str, port: int, backlog: int, dial: str) -> None:
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
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
