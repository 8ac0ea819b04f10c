"""What a person gets for a request that cannot be met: one line, the right exit status, and an unharmed workload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
import pytest_asyncio

from controller.clients import AgentClient
from controller.core.errors import EXIT_REFUSED
from tests.harness.moving import ONE_LOOP, REDIS_PORT, ask, listens, scene, spoilt, until

pytestmark = ONE_LOOP

EXIT_USAGE = click.UsageError.exit_code


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing(standing):
    """For all tests that move nothing a Redis runs in a, with a client."""
    await standing.run_redis()
    standing.counter = standing.connect(standing.client, standing.a.address, REDIS_PORT)
    yield standing
    await standing.clear()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(standing):
    """The shared scene; the workload is unharmed afterwards and its connection open."""
    before = int(ask(standing.counter, "INCR counter")[1:])
    yield standing
    assert ask(standing.counter, "INCR counter") == f":{before + 1}", "the workload came to harm"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def second():
    """A scene for the tests that change pods."""
    async with scene() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def own_stage(second):
    """It, with a Redis of the test's own."""
    await second.run_redis()
    counter = second.connect(second.client, second.a.address, REDIS_PORT)
    assert ask(counter, "INCR counter") == ":1"
    yield second
    assert ask(counter, "INCR counter") == ":2", "the workload came to harm"
    await second.clear()


async def refused(stage, *arguments, status=EXIT_REFUSED):
    """Runs a command that must be refused; its one line."""
    code, out, err = await stage.midstream(*arguments)
    assert code == status, (out, err)
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1 or status == EXIT_USAGE, err
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["migrate", "redis", "--to", "nowhere"], "no pod nowhere"),
        (["migrate", "postgres", "--to", "b"], "no workload 'postgres' in any pod"),
        (["migrate", "redis", "--to", "a"], "'redis' is in pod a already"),
        (["migrate", "redis", "--from", "b", "--to", "a"], "no workload 'redis' in pod b"),
        (["run", "--pod", "nowhere", "--name", "x", "--", "true"], "no pod nowhere"),
        (["run", "--pod", "a", "--name", "redis", "--", "redis-server"], "redis"),
        (["run", "--pod", "a", "--name", "x", "--", "/no/such/program"], "/no/such/program"),
        (["run", "--pod", "a", "--name", "x", "-e", "novalue", "--", "true"], "'novalue' is not KEY=VALUE"),
        (["pod", "create", "a"], "a pod a already"),
        (["pod", "create", "Not A Name"], "Not A Name"),
        (["pod", "delete", "nowhere"], "no pod nowhere"),
        (["pod", "delete", "a"], "pod a runs redis"),
        (["status", "redis-000000"], "there is no migration 'redis-000000'"),
        (["rollback", "redis-000000"], "there is no migration 'redis-000000'"),
        (["resume", "redis-000000"], "there is no migration 'redis-000000'"),
    ],
)
async def test_requests_that_cannot_be_met(stage, arguments, words):
    assert words in await refused(stage, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["migrate", "redis", "--to", "b", "--max-hold", "soon"], "'soon' is not a duration"),
        (["migrate", "redis", "--to", "b", "--max-held-bytes", "0"], "'0' is not a size"),
        (["migrate", "redis"], "--to"),
        (["run", "--pod", "a", "--name", "x"], "Missing"),
        (["teleport"], "teleport"),
    ],
)
async def test_words_that_the_command_line_does_not_know(stage, arguments, words):
    assert words in await refused(stage, *arguments, status=EXIT_USAGE)


async def test_a_second_migration_of_the_same_workload(own_stage):
    move = own_stage.move("redis", max_hold_seconds=60)  # for as long as a command may take on a busy machine
    async with spoilt(move, own_stage.b.agent_socket, "/restore") as (first, interposer):
        line = await refused(own_stage, "migrate", "redis", "--to", "b")
        assert "already" in line
        interposer.heal()
        interposer.release.set()
        assert (await first).outcome == "succeeded"


async def test_a_destination_without_room(own_stage):
    await own_stage.lab.create("small", memory_bytes=256 << 20)
    code, _, err = await own_stage.midstream("run", "--pod", "a", "--name", "eater", "--", sys.executable, "-c", EATER)
    assert code == 0, err
    async with AgentClient("agent of a", own_stage.a.agent_socket) as agent, asyncio.timeout(60):
        while (await agent.inspect("eater")).memory_bytes < 300 << 20:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    line = await refused(own_stage, "migrate", "eater", "--to", "small")
    assert "pod small has too little memory" in line
    await own_stage.lab.delete("small")


EATER = "import time; block = bytearray(b'x' * (300 << 20)); time.sleep(1000)"


async def test_a_destination_that_listens_on_the_port_already(own_stage):
    taken = await own_stage.run("other", "redis-server", "--port", str(REDIS_PORT), pod=own_stage.b)
    assert taken.state == "running"
    await until(lambda: listens(own_stage.b, "127.0.0.1", REDIS_PORT), "the other Redis does not listen")
    assert "already listens on port 6379" in await refused(own_stage, "migrate", "redis", "--to", "b")


async def test_a_dry_run_touches_nothing(stage):
    code, out, err = await stage.midstream("migrate", "redis", "--to", "b", "--dry-run", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["problems"] == []
    assert not list((stage.lab.home / "migrations").glob("*"))


async def test_images_damaged_between_dump_and_restore(stage):
    async with spoilt(stage.move("redis"), stage.b.agent_socket, "/restore") as (moving, interposer):
        (pages, *_) = Path(stage.a.images).rglob("pages-*.img")
        with pages.open("r+b") as file:
            file.seek(pages.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        interposer.release.set()
        result = await moving
    assert result.outcome == "rolled-back"
    assert result.error.code == "image-damaged", result.error
    assert pages.name in result.error.message


async def test_without_privileges(stage):
    """A user who is not root gets one line, not a traceback."""
    # What the commands import late comes first: the checkout may be closed to others.
    program = "import os, controller.commands.pods, controller.commands.moves, controller.session;"
    program += "from controller.cli.main import main; os.setgid(65534); os.setuid(65534); main(%r)"
    for arguments in (["pod", "create", "c"], ["migrate", "redis", "--to", "b"]):
        argv = ["--home", str(stage.lab.home), *arguments]
        done = subprocess.run(
            [sys.executable, "-c", program % (argv,)], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == EXIT_REFUSED, done
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "root" in done.stderr


ROOT = Path(__file__).parents[2]
OLD_CRIU = "#!/bin/sh\necho Version: 3.17.1\n"


async def test_a_control_request_from_the_wrong_user(own_stage):
    """Even where the socket's permissions were opened: the peer's credentials are what counts."""
    for path in (own_stage.a.agent_socket, own_stage.a.proxy_socket):
        for part in (*path.parents, path):
            if str(part).startswith(str(own_stage.lab.home)):
                part.chmod(part.stat().st_mode | 0o777)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
             "/usr/bin/python3", "-c", ASK, str(path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert " 403 " in done.stdout, (path, done)
        assert json.loads(done.stdout.split("\n\n")[1])["error"]["fault"] == "request"


ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
out = b""
while data := s.recv(65536): out += data
print(out.decode())
"""


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        (b"POST", b"{", 400),
        (b"POST", b'{"name": 5}', 400),
        (b"POST", b'{"name": "x", "argv": [], "extra": 1}', 400),
        (b"PATCH", b"", 405),
        (b"POST", b"x" * (40 << 20), 413),
    ],
)
async def test_malformed_control_requests(stage, method, body, status):
    answer = await asyncio.to_thread(raw_request, stage.a.agent_socket, method, b"/v1/workloads", body)
    assert f" {status} ".encode() in answer.split(b"\r\n")[0], answer
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"]


def raw_request(path: Path, method: bytes, target: bytes, body: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (
            method,
            target,
            len(body),
        )
        found = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(head + body)
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                found += data
        return found


async def test_garbage_on_the_link_port(stage):
    """Anybody in the network can connect to it; nobody without the migration's token gets anything."""
    with stage.connect(stage.client, stage.b.address, 15008) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sock.settimeout(30)
        data = b""
        with contextlib.suppress(ConnectionResetError):  # where TLS had not read all of it yet when it hung up
            while part := await asyncio.to_thread(sock.recv, 4096):
                data += part
    # a TLS alert at most (RFC 8446, 6): a record of two bytes
    assert len(data) <= 7


@pytest.mark.parametrize(
    ("program", "words"), [("", "there is no CRIU at"), (OLD_CRIU, "has CRIU 3.17.1; 4.2 or later")]
)
async def test_criu_is_missing_or_too_old(stage, tmp_path, monkeypatch, program, words):
    """One pod's machine has no CRIU, or an old one: told before anything is begun."""
    criu = tmp_path / "criu"
    monkeypatch.setenv("MIDSTREAM_CRIU", str(criu))
    if not program:
        assert words in await refused(stage, "pod", "create", "elsewhere")
        return
    criu.write_text(program)
    criu.chmod(0o755)
    (criu.parent / "python").symlink_to(ROOT / ".criu" / "python")
    await stage.lab.create("elsewhere")
    try:
        assert words in await refused(stage, "migrate", "redis", "--to", "elsewhere")
    finally:
        await stage.lab.delete("elsewhere")
