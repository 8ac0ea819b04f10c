"""Every kind of workload that README's table names, moved under its own client: what it knew before, it knows after."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.journeys import PROGRAMS, PYTHON, Lines, moved, workload
from tests.harness.moving import Scene, scene

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage():
    async with scene() as made:
        yield made


def lines(stage: Scene, port: int) -> Lines:
    return Lines(stage.connect(stage.client, stage.a.address, port))


async def test_redis_with_persistence_a_blocked_client_and_half_a_transaction(stage, tmp_path):
    """The append-only file goes on where it was, and the copy can still fork to rewrite it."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(tmp_path))
    argv = ("redis-server", "--port", "6390", "--bind", "*", "--protected-mode", "no", *options)
    async with workload(stage, "redis-aof", 6390, *argv):
        asking, blocked, half = (lines(stage, 6390) for _ in range(3))
        assert asking.ask("SET before 1") == "+OK"
        blocked.say("BLPOP list 0")
        assert half.ask("MULTI") == "+OK"
        assert half.ask("INCR before") == "+QUEUED"
        await moved(stage, "redis-aof")
        assert half.ask("INCR before") == "+QUEUED"
        half.say("EXEC")
        assert [half.hear() for _ in range(3)] == ["*2", ":2", ":3"]
        assert asking.ask("RPUSH list word") == ":1"
        assert [blocked.hear() for _ in range(5)] == ["*2", "$4", "list", "$4", "word"]
        appended = b"".join(path.read_bytes() for path in (tmp_path / "appendonlydir").glob("*.incr.aof"))
        assert appended.count(b"INCR") == 2
        assert b"before" in appended
        assert asking.ask("BGREWRITEAOF").startswith("+Background")
        asking.say("INFO persistence")
        for client in (asking, blocked, half):
            client.close()


NGINX = """
daemon off; master_process on; worker_processes 2; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 8443 ssl; root {folder}; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        keepalive_timeout 60;
    }}
}}
"""


def make_site(folder: Path) -> bytes:
    """A certificate, a configuration, and 24 MB that nobody can guess; gives their digest."""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/key.pem", "-out",
         f"{folder}/cert.pem", "-days", "2", "-subj", "/CN=site", "-addext", "subjectAltName=DNS:site"],
        check=True, capture_output=True,
    )  # fmt: skip
    content = random.Random(os.urandom(8)).randbytes(24 << 20)
    (folder / "big").write_bytes(content)
    return hashlib.sha256(content).digest()


def get(sock: socket.socket, path: str) -> int:
    """Asks for a path; gives the length of what follows."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 200"), head
    return int(head.lower().split(b"content-length:")[1].split()[0])


def digest_of(sock: socket.socket, length: int, digest=None):
    digest = digest or hashlib.sha256()
    while length and (data := sock.recv(min(length, 65536))):
        digest.update(data)
        length -= len(data)
    return digest


async def test_nginx_with_tls_two_workers_and_downloads_half_way(stage, tmp_path):
    tmp_path.chmod(0o755)
    expected = make_site(tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    def dial(address: str) -> ssl.SSLSocket:
        return context.wrap_socket(stage.connect(stage.client, address, 8443), server_hostname="site")

    async with workload(stage, "nginx", 8443, "/usr/sbin/nginx", "-c", f"{tmp_path}/nginx.conf"):
        slow = [dial(stage.a.address) for _ in range(4)]
        idle = dial(stage.a.address)
        lengths = [get(sock, "/big") for sock in slow]
        digests = [digest_of(sock, 1 << 20) for sock in slow]
        await moved(stage, "nginx")
        for sock, length, digest in zip(slow, lengths, digests, strict=True):
            await asyncio.to_thread(digest_of, sock, length - (1 << 20), digest)
            assert digest.digest() == expected
        fresh = dial(stage.b.address)
        for sock in (idle, fresh):
            assert digest_of(sock, get(sock, "/big")).digest() == expected
        for sock in (*slow, idle, fresh):
            sock.close()


async def test_python_with_an_event_loop_and_threads(stage):
    async with workload(stage, "threads", 7101, *PYTHON, str(PROGRAMS / "threads.py"), "7101"):
        client = lines(stage, 7101)
        before = client.ask("how far?").split()
        await moved(stage, "threads")
        after = client.ask("how far?").split()
        further = client.ask("how far?").split()
        assert [said[2] for said in (before, after, further)] == ["1", "2", "3"]
        assert int(before[1]) <= int(after[1])
        for _ in range(200):
            last = client.ask("how far?").split()
            if all(int(new) > int(old) for new, old in zip(counters(last), counters(after), strict=True)):
                break
        assert all(int(new) > int(old) for new, old in zip(counters(last), counters(after), strict=True))
        client.close()


def counters(said: list[str]) -> list[str]:
    """The threads' counters and the timer's ticks."""
    return [*said[0].split(","), said[1]]


async def test_a_program_that_forks_and_execs_all_the_time(stage):
    """Children between vfork and exec, zombies, and processes that come while the tree is being stopped."""
    async with workload(stage, "forker", 7102, *PYTHON, str(PROGRAMS / "forker.py"), "7102"):
        client = lines(stage, 7102)
        await asyncio.to_thread(runs, client, 20)
        await moved(stage, "forker")
        count = int(client.ask("how many?").split()[0])
        await asyncio.to_thread(runs, client, count + 20)
        assert client.ask("how many?").split()[1] == "0"
        client.close()


def runs(client: Lines, wanted: int) -> None:
    """Asks until it has run so many programs; the socket's own time-out bounds each answer."""
    for _ in range(20000):
        if int(client.ask("how many?").split()[0]) >= wanted:
            return
    raise AssertionError(f"fewer than {wanted} programs were run")
