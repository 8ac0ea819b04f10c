"""Connections whose handshakes agreed on less, or more, than this kernel's do: peers are of all kinds and ages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from controller.lab.namespaces import in_network
from controller.lab.pod import Pod
from tests.harness.connected import finish, witness
from tests.harness.journeys import Puppet, moved
from tests.harness.moving import ONE_LOOP, Scene

pytestmark = ONE_LOOP

OFFERS = ("tcp_timestamps", "tcp_sack", "tcp_window_scaling")


@contextmanager
def set_to(pod: Pod, value: str, names: Sequence[str]) -> Iterator[None]:
    """TCP's settings of the pod's network (K: ip-sysctl.rst)."""

    def write(values: Sequence[str]) -> list[str]:
        files = [Path("/proc/sys/net/ipv4") / name for name in names]
        before = [file.read_text() for file in files]
        for file, text in zip(files, values, strict=True):
            file.write_text(text)
        return before

    before = in_network(pod, lambda: write([value] * len(names)))
    try:
        yield
    finally:
        in_network(pod, lambda: write(before))


@pytest.mark.parametrize("where", ["client", "a", "b"])
@pytest.mark.parametrize("lacking", [*((one,) for one in OFFERS), OFFERS], ids="-".join)
async def test_what_one_of_the_kernels_does_not_offer(stage, told, lacking, where):
    with set_to(getattr(stage, where), "0", lacking):
        await streams_move(stage, told)


async def test_congestion_that_routers_tell_of(stage, told):
    """ECN, which few ask for."""
    with ExitStack() as stack:
        for pod in (stage.client, stage.a, stage.b):
            stack.enter_context(set_to(pod, "1", ["tcp_ecn"]))
        await streams_move(stage, told)


async def streams_move(stage: Scene, told: Puppet) -> None:
    client = witness(stage, told)
    await asyncio.sleep(0.2)  # so that bytes are on their way in both directions
    await moved(stage, "puppet")
    await finish(told, client)
