"""The proxy's process: open the sockets as root, become somebody with one capability, serve, end in order.

    python -m proxy.main --directory DIRECTORY (--tls FOLDER | --cleartext-links) [--uid N] [--drain-seconds S]

DIRECTORY gets control.sock and adopt.sock, which appear when they are served, and then "ready" is logged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import encodings.idna  # noqa: F401  what others import late must be there before the privileges are dropped
import gc
import logging
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import web

from proxy.api import LINK_PORT, METRICS_PORT
from proxy.io.adoption import AdoptionServer
from proxy.io.connection import Tls
from proxy.io.context import Context
from proxy.io.control import Control
from proxy.io.plane import Plane
from proxy.sys import privileges
from proxy.sys.kernel import Kernel
from proxy.sys.routing import Routing

log = logging.getLogger("proxy")

DEFAULT_UID = 64901
NAMES = CONTROL, ADOPT = ("control.sock", "adopt.sock")
GC_THRESHOLDS = (50_000, 20, 100)
"""A thousand flows are ten thousand objects; the default (700, 10, 10) would walk them all in the midst of a move."""
LINK_BACKLOG = 4096  # a pool of links for thousands of flows is dialled at once


@dataclass
class Sockets:
    """What is opened while the process is still root."""

    control: socket.socket
    adopt: socket.socket
    links: socket.socket
    metrics: socket.socket
    folder: int
    """The directory's descriptor: its parents may be closed to the user the proxy becomes."""

    def publish(self) -> None:
        """Give the unix sockets their names: they are being served now."""
        for name in NAMES:
            os.rename(_early(name), name, src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def withdraw(self) -> None:
        for name in NAMES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.folder)


def open_sockets(directory: Path, uid: int) -> Sockets:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    sockets = Sockets(
        control=_unix(directory / _early(CONTROL), socket.SOCK_STREAM, uid),
        adopt=_unix(directory / _early(ADOPT), socket.SOCK_SEQPACKET, uid),
        links=_tcp(LINK_PORT),
        metrics=_tcp(METRICS_PORT),
        folder=os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC),
    )
    directory.chmod(stat.S_IRWXU)
    _give(directory, uid)
    return sockets


def _early(name: str) -> str:
    return f".{name}.new"


def _unix(path: Path, kind: int, uid: int) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    _give(path, uid)
    sock.listen(16)
    return sock


def _tcp(port: int) -> socket.socket:
    """For IPv6 and IPv4; for IPv4 alone where the pod has no other."""
    dual = socket.has_dualstack_ipv6()
    address = ("::", port) if dual else ("0.0.0.0", port)
    return socket.create_server(
        address, family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=LINK_BACKLOG
    )


def _give(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


async def serve(sockets: Sockets, start_uid: int, drain_seconds: float, tls: Tls | None) -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kernel = Kernel()
    plane = Plane(Context.here(kernel, tls), Routing(kernel), sockets.links)
    adoption = AdoptionServer(plane, sockets.adopt)
    control = Control(plane, start_uid)
    runners = [
        await _run(control.application(), sockets.control),
        await _run(control.public_application(), sockets.metrics),
    ]
    plane.start()
    adoption.start()
    sockets.publish()
    log.info("ready")
    await stop.wait()
    sockets.withdraw()
    plane.stop_taking()
    await _drained(plane, drain_seconds)
    await plane.reset_all()
    adoption.close()
    for runner in runners:
        await runner.cleanup()
    plane.close()
    log.info("ended")


async def _run(application: web.Application, sock: socket.socket) -> web.AppRunner:
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner


async def _drained(plane: Plane, seconds: float) -> None:
    """Until the relayed flows have ended by themselves, or the time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await plane.relayed_no_more()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="proxy", description="Midstream's data plane, one for each pod.")
    parser.add_argument("--directory", type=Path, required=True, help="where control.sock and adopt.sock appear")
    parser.add_argument("--uid", type=int, default=DEFAULT_UID, help="user to become when started as root")
    parser.add_argument("--drain-seconds", type=float, default=0.0, help="on SIGTERM, wait so long for relayed flows")
    links = parser.add_mutually_exclusive_group(required=True)
    links.add_argument("--tls", type=Path, metavar="FOLDER", help="with ca.pem, pod.pem and key.pem: for the links")
    links.add_argument("--cleartext-links", action="store_true", help="anybody on the way may read what is relayed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    start_uid = os.getuid()
    gc.freeze()  # what is imported lives for ever: the collector need not look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    sockets = open_sockets(options.directory, options.uid)
    tls = Tls(options.tls) if options.tls else None
    privileges.drop(options.uid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sockets, start_uid, options.drain_seconds, tls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
