from __future__ import annotations

import socket

import pytest

from proxy.api import PrepareOutbound
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts
from tests.harness.proxy_image import Image

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


async def test_limits_come_after_the_answer_and_go_with_the_release(plane: Plane) -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        before = app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        migration = plane.outbound["m"]
        migration.plan = PrepareOutbound(migration.plan.destination, parts.TOKEN, {}, 0, parts.HoldPolicy(0))
        app.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        large = app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        migration.adopt([parts.wanted(Image(app))], [app.dup()])
        assert app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == large
        await parts.eventually(lambda: app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < large)
        plane.release_outbound("m")
        assert app.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == large > before
