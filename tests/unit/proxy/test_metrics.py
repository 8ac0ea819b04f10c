from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy import metrics
from proxy.io.context import count
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with parts.plane() as made:
        yield made


def samples(plane: Plane) -> dict[str, float]:
    lines = metrics.text(metrics.registry(plane)).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_an_idle_proxy_has_metrics(plane: Plane) -> None:
    found = samples(plane)
    assert found["midstream_proxy_held_bytes"] == 0
    assert found['midstream_proxy_relayed_bytes_total{direction="to_app"}'] == 0


@parts.NEEDS_ROOT
async def test_flows_and_bytes_are_counted_once(plane: Plane) -> None:
    await parts.prepared(plane)
    moved = parts.Moved(plane)
    moved.adopt()
    moved.peer.sendall(b"held")
    await parts.eventually(lambda: samples(plane)["midstream_proxy_held_bytes"] == 4)
    assert samples(plane)['midstream_proxy_flows{side="source",state="held"}'] == 1
    moved.build()
    moved.commit()
    plane.resume("m")
    plane.repoint("m")
    assert await parts.read(moved.app, 4) == b"held"
    moved.app.send(b"answer")
    assert await parts.read(moved.peer, 6) == b"answer"
    both = {'{direction="to_app"}': 8.0, '{direction="to_peer"}': 12.0}  # counted at the source and at the destination
    assert {key: samples(plane)[f"midstream_proxy_relayed_bytes_total{key}"] for key in both} == both
    moved.close()
    await parts.eventually(lambda: not plane.views())
    found = samples(plane)
    assert {key: found[f"midstream_proxy_relayed_bytes_total{key}"] for key in both} == both
    assert found["midstream_proxy_flows_adopted_total"] == found["midstream_proxy_legs_built_total"] == 1
    assert found['midstream_proxy_step_seconds_total{step="repoint"}'] > 0


async def test_refused_links_are_counted_by_reason(plane: Plane) -> None:
    count(plane.context.totals.links_refused, "forbidden")
    assert samples(plane)['midstream_proxy_links_refused_total{reason="forbidden"}'] == 1
