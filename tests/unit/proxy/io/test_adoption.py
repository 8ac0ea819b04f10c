from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.io.adoption import MAX_MESSAGE_BYTES, AdoptionServer
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts

pytestmark = [parts.NEEDS_ROOT, pytest.mark.usefixtures("prepared")]


class Agent:
    def __init__(self, plane: Plane, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.server = AdoptionServer(plane, self.listener)
        self.server.start()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.sock.connect(str(path))
        self.sock.setblocking(False)

    async def ask(self, message: Any, descriptors: list[int] | None = None) -> Any:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.sock, [data], descriptors or [])
        answer: list[bytes] = []

        def heard() -> bool:
            try:
                answer.append(self.sock.recv(1 << 20))
            except BlockingIOError:
                return False
            return True

        await parts.eventually(heard)
        return json.loads(answer[0])

    def close(self) -> None:
        self.sock.close()
        self.server.close()


@pytest.fixture
async def agent(plane: Plane, tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(plane, tmp_path / "adopt.sock")
    yield made
    made.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_sockets_are_adopted_and_released(plane: Plane, agent: Agent) -> None:
    moved = parts.Moved(plane, before=b"12345")
    message = {"op": "adopt", "migration": "m", "sockets": [moved.image.request()]}
    before = descriptors()
    answer = await agent.ask(message, [moved.image.sock.fileno()])
    assert answer["adopted"] == 1
    (leg,) = answer["legs"]
    assert leg[0] == moved.image.flow
    assert leg[2][0] == "127.0.0.2"
    assert descriptors() == before + 1
    assert plane.context.totals.flows_adopted == 1
    assert await agent.ask({"op": "release", "migration": "m"}) == {"released": 1}
    assert await agent.ask({"op": "release", "migration": "m"}) == {"released": 0}
    assert descriptors() < before  # its links have gone too
    moved.close()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"not json", "bad_request"),
        ([], "bad_request"),
        ({"op": "adopt"}, "bad_request"),
        ({"op": "adopt", "migration": "m", "sockets": [], "more": 1}, "bad_request"),
        ({"op": "adopt", "migration": "m", "sockets": []}, "bad_request"),  # a descriptor for nothing
        (b" " * MAX_MESSAGE_BYTES + b"{}", "too_large"),
    ],
)
async def test_bad_messages_leak_no_descriptor(agent: Agent, message: Any, code: str) -> None:
    with open("/dev/null") as file:
        before = descriptors()
        assert (await agent.ask(message, [file.fileno()]))["error"]["code"] == code
        assert descriptors() == before


async def test_more_descriptors_than_a_message_may_have(agent: Agent, plane: Plane) -> None:
    with open("/dev/null") as file:
        message = {"op": "adopt", "migration": "m", "sockets": []}
        assert (await agent.ask(message, [file.fileno()] * 253))["error"]["code"] == "bad_request"


async def test_what_is_no_socket(agent: Agent) -> None:
    flow = {"flow": 1, "kind": "flow", "local": ["127.0.0.1", 1], "peer": ["127.0.0.1", 2]}
    with open("/dev/null") as file, socket.socket() as sock:
        message = {"op": "adopt", "migration": "m", "sockets": [flow, {**flow, "flow": 2}]}
        before = descriptors()
        answer = await agent.ask(message, [sock.fileno(), file.fileno()])
        assert answer["error"]["message"] == "descriptor 1 is no socket"
        assert descriptors() == before


async def test_a_bug_is_answered_too(agent: Agent, monkeypatch: pytest.MonkeyPatch, plane: Plane) -> None:
    monkeypatch.setattr(plane, "outbound_named", lambda _: 1 / 0)
    answer = await agent.ask({"op": "adopt", "migration": "m", "sockets": []})
    assert answer["error"]["code"] == "internal"


async def test_the_end_of_a_workload_is_passed_on(plane: Plane, agent: Agent) -> None:
    assert await agent.ask({"op": "end", "migration": "m"}) == {"told": 0}
    assert plane.acceptor.has_ended("m")


async def test_the_end_of_an_agent_releases_nothing(plane: Plane, agent: Agent) -> None:
    moved = parts.Moved(plane)
    message = {"op": "adopt", "migration": "m", "sockets": [moved.image.request()]}
    await agent.ask(message, [moved.image.sock.fileno()])
    agent.sock.close()
    await parts.eventually(lambda: not agent.server._agents)
    assert plane.health().held_flows == 1
    moved.close()


async def test_what_an_agent_that_has_gone_had_given_is_not_taken(plane: Plane, agent: Agent) -> None:
    """The proxy stood still, and the workload was let go of meanwhile: that is done, whatever comes before it."""
    moved = parts.Moved(plane)
    before = descriptors()
    adopt = {"op": "adopt", "migration": "m", "sockets": [moved.image.request()]}
    for message, given in ((adopt, [moved.image.sock.fileno()]), ({"op": "release", "migration": "m"}, [])):
        socket.send_fds(agent.sock, [json.dumps(message).encode()], given)
    agent.sock.close()
    await parts.eventually(lambda: "m" not in plane.outbound)
    await parts.eventually(lambda: not agent.server._agents)
    assert plane.context.totals.flows_adopted == 0
    assert descriptors() < before  # nor are its links there any more
    moved.close()


async def test_an_agent_that_has_not_read_its_last_answer_is_heard(plane: Plane, agent: Agent) -> None:
    release = json.dumps({"op": "release", "migration": "m"}).encode()
    agent.sock.send(json.dumps({"op": "end", "migration": "m"}).encode())
    await parts.eventually(lambda: plane.acceptor.has_ended("m"))
    agent.sock.send(release)
    agent.sock.close()
    await parts.eventually(lambda: "m" not in plane.outbound and not agent.server._agents)
