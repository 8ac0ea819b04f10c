"""`python -m checkpoint.main`: the agent of one pod. Started as root inside the pod; says "ready" when it serves."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import signal
import sys
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from checkpoint.agent import Agent, listen
from checkpoint.api import Health, MemoryFeatures
from checkpoint.checkpoints import Checkpoints
from checkpoint.core.errors import AgentError
from checkpoint.core.stored import Machine
from checkpoint.criu import kerndat
from checkpoint.criu.engine import CriuEngine
from checkpoint.custodian import Custodian
from checkpoint.images.pb import Messages
from checkpoint.images.store import Store
from checkpoint.inspection.machine import machine
from checkpoint.kernel import Kernel
from checkpoint.memory import scan
from checkpoint.moves.rehearsal import rehearse
from checkpoint.processes import procfs

EXPECTED_DESCRIPTORS = 4096
"""A chunk of sockets on its way to the proxy, a pidfd for each process of a tree, and the clients."""

_GC_THRESHOLDS = (50_000, 20, 100)
"""A thousand connections are ten thousand objects; the default (700, 10, 10) would walk through them in a freeze."""

_LOG = logging.getLogger("checkpoint")


def main() -> None:
    """Parse the flags and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="checkpoint.main", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the pod's state folder")
    parser.add_argument("--adopt", required=True, help="the proxy's adoption socket")
    parser.add_argument("--criu", type=Path, required=True, help="the criu program; pycriu lies beside it, in python/")
    parser.add_argument("--images", type=Path, default=Path("/dev/shm/midstream"), help="where images go: a tmpfs")
    parser.add_argument("--pid-base", type=int, default=0, help="workloads get PIDs above this (0: as they come)")
    parser.add_argument("--layer", type=Path, help="the upper layer of the pod's root, if that is its own")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        uvloop.run(serve(flags))
    except AgentError as error:
        _LOG.error("%s (%s)", error.problem.message, error.problem.hint)
        sys.exit(1)


async def serve(flags: argparse.Namespace) -> None:
    """Everything in its order; the socket appears last. Raises AgentError when it cannot start."""
    messages = Messages(flags.criu.parent / "python")
    store = Store(flags.images)
    kernel = Kernel()
    kernel.expect_descriptors(EXPECTED_DESCRIPTORS)
    engine = CriuEngine(kernel, str(flags.criu), messages, flags.images)
    version = await engine.version()
    await asyncio.to_thread(kerndat.ensure, str(flags.criu), flags.images)
    features = await engine.features()
    here = machine(version)
    custodian = Custodian(
        kernel, engine, messages, store, flags.directory, flags.adopt, flags.pid_base, here, flags.layer
    )
    await custodian.recover()
    checkpoints = Checkpoints(custodian, messages, here, flags.directory)
    checkpoints.tidy()
    await rehearse(messages, store)
    runner = web.AppRunner(Agent(custodian, checkpoints, _health(here, features)).application(), access_log=None)
    await runner.setup()
    # What has been made until now lives for ever: no collection inside a freeze shall walk through it. (No
    # collection first: it takes 40 ms and finds a handful of objects.)
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    path = flags.directory / "agent.sock"
    try:
        await web.SockSite(runner, listen(path)).start()
        print("ready", file=sys.stderr, flush=True)
        await stopping.wait()
    finally:
        await runner.cleanup()
        await custodian.close()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _health(here: Machine, features: MemoryFeatures) -> Health:
    """What does not change."""
    return Health(
        version=importlib.metadata.version("midstream"),
        criu_version=here.criu_version,
        kernel=here.kernel,
        architecture=here.architecture,
        memory=msgspec.structs.replace(features, tells_pages=scan.is_known()),
        cpu_features=here.cpu_features,
        capabilities=procfs.permitted_capabilities(),
        keeps_clocks=procfs.has_time_namespaces(),
    )


if __name__ == "__main__":
    main()
