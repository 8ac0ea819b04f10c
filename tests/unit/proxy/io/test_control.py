from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.io.control import Control
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        data = body if isinstance(body, bytes) else None
        json = None if data else body
        async with self._session.request(method, f"http://proxy{path}", data=data, json=json) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()


@pytest.fixture
async def client(plane: Plane, tmp_path: Path) -> AsyncIterator[Client]:
    runner = web.AppRunner(Control(plane, os.getuid()).application())
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "control.sock")).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "control.sock"))) as session:
        yield Client(session)
    await runner.cleanup()


async def test_the_whole_api_answers(plane: Plane, client: Client) -> None:
    destination = list(parts.msgspec.to_builtins(parts.link_endpoint(plane)))
    status, prepared = await client.call("PUT", "/v1/inbound/m", {"token": parts.TOKEN})
    assert status == 200
    assert prepared["links"] > 0
    outbound = {"destination": destination, "token": parts.TOKEN, "readdress": {}, "links": 2}
    assert await client.call("PUT", "/v1/outbound/m", outbound) == (200, {"links": 2})
    assert await client.call("POST", "/v1/inbound/m/legs", {"legs": []}) == (200, {"built": 0})
    assert await client.call("POST", "/v1/inbound/m/resume") == (200, {"resumed": 0})
    repointed = {"flows": 0, "held_bytes": 0, "accepted": 0}
    assert await client.call("POST", "/v1/outbound/m/repoint") == (200, repointed)
    assert await client.call("POST", "/v1/inbound/m/takeover", {"token": "00" * 32}) == (200, {"follows": ""})
    assert await client.call("POST", "/v1/inbound/m/orphan", {"source": "10.0.0.1"}) == (200, {"flows": 0})
    for path in ("/v1/flows", "/v1/outbound/m/ledger", "/v1/inbound/m/ledger"):
        assert await client.call("GET", path) == (200, [])
    for side in ("inbound", "outbound"):
        assert await client.call("DELETE", f"/v1/{side}/m") == (200, {"flows": 0})
    status, health = await client.call("GET", "/healthz")
    assert status == 200
    assert isinstance(health, dict)
    assert health["flows"] == 0
    status, text = await client.call("GET", "/metrics")
    assert "midstream_proxy_inbound_migrations 0.0" in str(text)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("PUT", "/v1/inbound/m", b"{", 400, "bad_request"),
        ("PUT", "/v1/inbound/m", {"token": 5}, 400, "bad_request"),
        ("POST", "/v1/inbound/m/resume", None, 404, "unknown_migration"),
        ("POST", "/v1/inbound/m/takeover", {"token": "00" * 32}, 404, "unknown_migration"),
        ("GET", "/", None, 404, "not_found"),
        ("PATCH", "/v1/flows", None, 405, "method_not_allowed"),
    ],
)
async def test_errors_are_bodies(client: Client, method: str, path: str, body: object, status: int, code: str) -> None:
    got, answer = await client.call(method, path, body)
    assert got == status
    assert isinstance(answer, dict)
    assert answer["error"]["code"] == code
    assert answer["error"]["hint"]


async def test_a_bug_is_answered_and_logged(
    plane: Plane, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plane, "views", lambda: 1 / 0)
    status, answer = await client.call("GET", "/v1/flows")
    assert status == 500
    assert isinstance(answer, dict)
    assert answer["error"]["code"] == "internal"
    assert "ZeroDivisionError" in caplog.text


async def test_a_caller_that_is_nobody_is_refused(
    plane: Plane, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.io.control.peer_uid", lambda request: 12345)
    assert (await client.call("GET", "/v1/flows"))[0] == 403
