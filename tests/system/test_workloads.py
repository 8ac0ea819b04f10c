"""Every kind of workload that README's table names, moved under its own client: what it knew before, it knows after."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import platform
import signal
import socket
import ssl
import tempfile
import threading
from pathlib import Path

import pytest

from checkpoint.processes import capacity
from controller.core.transfer import Transfer
from tests.harness.busy import moved_while_asked
from tests.harness.journeys import (
    PROGRAMS,
    PYTHON,
    Cli,
    Lines,
    assert_nothing_lost,
    moved,
    start_puppet,
    workload,
)
from tests.harness.moving import ONE_LOOP, Scene, listens, until
from tests.harness.postgres import POSTGRES_PORT, POSTGRES_PROGRAMS, Psql, make_cluster, ready, shut_down
from tests.harness.site import digest_of, get, make_site

pytestmark = ONE_LOOP


def lines(stage: Scene, port: int) -> Lines:
    return Lines(stage.connect(stage.client, stage.a.address, port))


async def test_redis_with_persistence_a_blocked_client_and_half_a_transaction(stage, tmp_path):
    """The append-only file goes on where it was, and the copy can still fork to rewrite it."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(tmp_path))
    argv = ("redis-server", "--port", "6390", "--bind", "*", "--protected-mode", "no", *options)
    async with workload(stage, "redis-aof", 6390, *argv):
        asking, counting = lines(stage, 6390), lines(stage, 6390)
        cli = ("redis-cli", "-h", stage.a.address, "-p", "6390")
        blocked, half = Cli(stage.client, *cli), Cli(stage.client, *cli)
        assert asking.ask("SET before 1") == "+OK"
        blocked.say("BLPOP list 0")
        assert half.ask("MULTI") == "OK"
        assert half.ask("INCR before") == "QUEUED"
        await until(lambda: info(asking, "clients")["blocked_clients"] == "1", "nobody is blocked")

        def count(number: int) -> None:
            assert counting.ask("INCR counted") == f":{number}"

        await moved_while_asked(stage, "redis-aof", count)
        assert half.ask("INCR before") == "QUEUED"
        half.say("EXEC")
        assert [half.hear() for _ in range(2)] == ["2", "3"]
        assert asking.ask("RPUSH list word") == ":1"
        assert [blocked.hear() for _ in range(2)] == ["list", "word"]
        appended = b"".join(path.read_bytes() for path in (tmp_path / "appendonlydir").glob("*.incr.aof"))
        assert appended.count(b"INCR\r\n$6\r\nbefore") == 2
        assert asking.ask("BGREWRITEAOF").startswith("+Background")
        await until(lambda: info(asking, "persistence")["aof_rewrite_in_progress"] == "0", "it is not rewritten")
        assert info(asking, "persistence")["aof_last_bgrewrite_status"] == "ok"
        for client in (asking, counting, blocked, half):
            client.close()


def info(client: Lines, section: str) -> dict[str, str]:
    """What INFO says: a bulk string of so many bytes, a fact a line."""
    left, found = int(client.ask(f"INFO {section}")[1:]), {}
    while left >= 0:  # its own end is a line, too
        line = client.hear()
        left -= len(line) + 2
        name, _, value = line.partition(":")
        found[name] = value
    return found


async def test_nginx_with_tls_two_workers_and_downloads_half_way(stage, tmp_path):
    tmp_path.chmod(0o755)
    expected = make_site(tmp_path)
    certificate = hashlib.sha256((tmp_path / "cert.pem").read_bytes()).digest()
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    def dial(address: str) -> ssl.SSLSocket:
        return context.wrap_socket(stage.connect(stage.client, address, 8443), server_hostname="site")

    async with workload(stage, "nginx", 8443, "/usr/sbin/nginx", "-c", f"{tmp_path}/nginx.conf"):
        idle, asking = dial(stage.a.address), dial(stage.a.address)
        hurry = threading.Event()
        slow = [asyncio.to_thread(download, dial(stage.a.address), hurry) for _ in range(4)]
        downloads = [asyncio.create_task(each) for each in slow]

        def ask(_: int) -> None:
            assert digest_of(asking, get(asking, "/cert.pem")).digest() == certificate

        try:
            await moved_while_asked(stage, "nginx", ask)
            assert not any(each.done() for each in downloads)
        finally:
            hurry.set()
            digests = await asyncio.gather(*downloads)
        assert digests == [expected] * 4
        fresh = dial(stage.b.address)
        for sock in (idle, fresh):
            assert digest_of(sock, get(sock, "/big")).digest() == expected
        for sock in (idle, asking, fresh):
            sock.close()


def download(sock: ssl.SSLSocket, hurry: threading.Event) -> bytes:
    """Slowly, so that it takes a minute, until there is no time to lose; the digest of what has come."""
    with sock:
        left, digest = get(sock, "/big"), None
        while left:
            digest = digest_of(sock, min(left, 65536), digest)
            left -= min(left, 65536)
            hurry.wait(0.2)
        return digest.digest()


async def test_python_with_an_event_loop_and_threads(stage):
    async with workload(stage, "threads", 7101, *PYTHON, str(PROGRAMS / "threads.py"), "7101"):
        client, asking = lines(stage, 7101), lines(stage, 7101)

        def ask(number: int) -> None:
            assert asking.ask("how far?").split()[2] == str(number)

        before = client.ask("how far?").split()
        await moved_while_asked(stage, "threads", ask)
        after = client.ask("how far?").split()
        further = client.ask("how far?").split()
        assert [said[2] for said in (before, after, further)] == ["1", "2", "3"]
        assert int(before[1]) <= int(after[1])
        for _ in range(200):
            last = client.ask("how far?").split()
            if all(int(new) > int(old) for new, old in zip(counters(last), counters(after), strict=True)):
                break
        assert all(int(new) > int(old) for new, old in zip(counters(last), counters(after), strict=True))
        for one in (client, asking):
            one.close()


def counters(said: list[str]) -> list[str]:
    """The threads' counters and the timer's ticks."""
    return [*said[0].split(","), said[1]]


@pytest.mark.parametrize("memory", ["stop-and-copy", "post-copy"])
async def test_a_process_with_attributes_of_its_own(stage, memory):
    """Limits, masks, priorities, filters: what CRIU carries, and what we do."""
    async with workload(stage, "particular", 7103, *PYTHON, str(PROGRAMS / "particular.py"), "7103"):
        client = lines(stage, 7103)
        before = json.loads(client.ask("who are you?"))
        result = await stage.move("particular", memory=memory)
        assert_nothing_lost(result)
        assert result.not_carried == []
        assert json.loads(client.ask("and now?")) == before
        assert before["first"]["affinity"] != before["second"]["affinity"] or os.cpu_count() == 1
        assert before["process"]["reboot"] == [-1, errno.EPERM]
        client.close()


WAITS = """
libc = ctypes.CDLL(None, use_errno=True)
class Moment(ctypes.Structure): _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]
found, ids = {}, {}
def waiting(name, call, *arguments):
    def wait():
        ids[name] = threading.get_ident()
        ctypes.set_errno(0)
        found[name] = [call(*arguments), ctypes.get_errno()]
    threading.Thread(target=wait, daemon=True).start()
near, far = socket.socketpair()
near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 60, 0))
semaphore, byte, signals = ctypes.create_string_buffer(32), ctypes.create_string_buffer(1), {signal.SIGUSR1}
libc.sem_init(semaphore, 0, 0)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
wanted = ctypes.create_string_buffer(struct.pack("Q", 1 << signal.SIGUSR1 - 1), 128)
event, poll = os.eventfd(0), select.epoll()
poll.register(event, select.EPOLLIN)
waiting("poll", libc.poll, None, 0, 12_000)
waiting("sleep", libc.sleep, 13)
waiting("read", libc.read, near.fileno(), byte, 1)
waiting("sem_timedwait", libc.sem_timedwait, semaphore, ctypes.byref(Moment(int(time.time()) + 14, 0)))
waiting("sigwaitinfo", libc.sigwaitinfo, wanted, None)
waiting("epoll_wait", libc.epoll_wait, poll.fileno(), ctypes.create_string_buffer(12), 1, -1)
"""
WAKE = """
far.send(b"!"); signal.pthread_kill(ids["sigwaitinfo"], signal.SIGUSR1); os.eventfd_write(event, 1)
end = time.monotonic() + 20
while len(found) < 6 and time.monotonic() < end: time.sleep(0.05)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere a call's result takes an argument's place")
async def test_threads_that_wait_go_on_waiting(stage):
    """And are not told EINTR, as CRIU or the stop would have it. (Python's own calls would hide that.)"""
    told = await start_puppet(stage)
    told.do(WAITS)
    assert_nothing_lost(await stage.move("puppet", transfer=Transfer("direct")))
    assert_nothing_lost(await stage.move("puppet", stage.b, stage.a))
    assert told.do("found") == {}
    told.do(WAKE)
    assert told.do("found") == {
        "poll": [0, 0], "sleep": [0, 0], "read": [1, 0], "sem_timedwait": [-1, errno.ETIMEDOUT],
        "sigwaitinfo": [signal.SIGUSR1, 0], "epoll_wait": [1, 0],
    }  # fmt: skip


POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@pytest.fixture
def leave_free():
    """Has hugetlbfs have so many pages of 2 MiB that nobody has; as many as before when the test is over."""
    before = POOL.read_text()

    def resize(count: int) -> None:
        missing = count - capacity.free_huge_bytes()[2 << 20] // (2 << 20)
        POOL.write_text(str(int(POOL.read_text()) + missing))
        assert capacity.free_huge_bytes()[2 << 20] == count * (2 << 20)

    yield resize
    POOL.write_text(before)


HUGE = """
import mmap
flags = [mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000]
file = os.memfd_create("huge", 4); os.ftruncate(file, 2 << 20)
areas = [mmap.mmap(-1, 2 << 20, flags[0]), mmap.mmap(-1, 2 << 20, flags[1]), mmap.mmap(file, 2 << 20)]
for number, area in enumerate(areas): area[:1 << 20] = bytes([number + 1]) * (1 << 20)
"""


@pytest.mark.skipif(not POOL.exists() or not os.access(POOL, os.W_OK), reason="no huge pages of 2 MiB can be had here")
async def test_huge_pages_move_where_there_are_as_many_again(stage, leave_free):
    leave_free(4)
    told = await start_puppet(stage)
    told.do(HUGE)
    refused = await stage.move("puppet")
    assert (refused.outcome, refused.freeze_seconds) == ("rolled-back", 0)
    assert refused.error is not None
    assert refused.error.message.startswith("pod b has too little memory in huge pages of 2048 kB: 6.0 MiB needed, 2.0")
    leave_free(4)
    await moved(stage, "puppet")
    assert (
        told.do("[bytes(area[:1 << 20]) == bytes([at + 1]) * (1 << 20) for at, area in enumerate(areas)]") == [True] * 3
    )
    assert told.do("open('/proc/self/smaps').read().count(' ht')") == 3


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_a_workload_that_dies_with_its_parent_outlives_criu(stage, end):
    """PR_SET_PDEATHSIG: CRIU is the parent of what it restores, and ends."""
    told = await start_puppet(stage)
    told.do(f"ctypes.CDLL(None).prctl(1, signal.{end})")
    await moved(stage, "puppet")
    assert told.do("os.getppid()") == 1


async def test_a_program_that_forks_and_execs_all_the_time(stage):
    """Children between vfork and exec, zombies, and processes that come while the tree is being stopped."""
    async with workload(stage, "forker", 7102, *PYTHON, str(PROGRAMS / "forker.py"), "7102"):
        client = lines(stage, 7102)
        await asyncio.to_thread(runs, client, 20)
        asking = lines(stage, 7102)

        def ask(_: int) -> None:
            assert asking.ask("how many?").split()[1] == "0"

        await moved_while_asked(stage, "forker", ask)
        count = int(client.ask("how many?").split()[0])
        await asyncio.to_thread(runs, client, count + 20)
        assert client.ask("how many?").split()[1] == "0"
        for one in (client, asking):
            one.close()


def runs(client: Lines, wanted: int) -> None:
    """Asks until it has run so many programs; the socket's own time-out bounds each answer."""
    for _ in range(20000):
        if int(client.ask("how many?").split()[0]) >= wanted:
            return
    raise AssertionError(f"fewer than {wanted} programs were run")


@pytest.fixture
def open_folder():
    """A folder that every user can reach; pytest's own ones are root's."""
    with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_postgresql_with_a_transaction_a_lock_a_listener_and_a_copy(stage, open_folder):
    """Several processes, shared memory of each kind, and a backend that waits for another's lock."""
    data = open_folder / "data"
    make_cluster(data)
    options = {
        "listen_addresses": "*", "port": POSTGRES_PORT, "unix_socket_directories": data, "fsync": "off",
        "shared_buffers": "16MB", "max_worker_processes": 2, "max_parallel_workers_per_gather": 0,
    }  # fmt: skip
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    become = ("/usr/bin/setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups")
    async with workload(stage, "postgres", 0, *become, f"{POSTGRES_PROGRAMS}/postgres", "-D", str(data), *settings):
        await until(lambda: ready(data), "PostgreSQL is not ready", 60)
        clients, asking = [Psql(stage) for _ in range(4)], Psql(stage)

        def ask(number: int) -> None:
            assert asking.ask(f"insert into asked values ({number})") == []
            assert asking.ask("select count(*), max(n) from asked") == [f"{number}|{number}"]

        try:
            await asyncio.to_thread(try_postgres_half, *clients)
            result = await moved_while_asked(stage, "postgres", ask)
            assert result.flows.adopted == 5
            await asyncio.to_thread(try_postgres_rest, *clients)
        finally:
            for client in (*clients, asking):
                client.end()
        await shut_down(stage.b, (await stage.workloads(stage.b))["postgres"].pid, data)


def try_postgres_half(owner: Psql, waiter: Psql, listener: Psql, copier: Psql) -> None:
    assert owner.ask("create table asked (n int)") == []
    assert owner.ask("create table t (n int primary key, v int); insert into t values (1, 10)") == []
    assert owner.ask("begin; update t set v = v + 1 where n = 1") == []
    waiter.tell("update t set v = v * 2 where n = 1 returning v")
    assert listener.ask("listen news") == []
    while owner.ask("select count(*) from pg_locks where not granted") != ["1"]:
        pass
    copier.type("copy t from stdin;", *(f"{n}\t{n}" for n in range(2, 3000)))


def try_postgres_rest(owner: Psql, waiter: Psql, listener: Psql, copier: Psql) -> None:
    assert owner.ask("select v from t") == ["11"]
    assert owner.ask("notify news, 'moved'; commit") == []
    assert waiter.hear() == ["22"]
    assert any("moved" in line for line in listener.ask("select 1"))
    copier.tell("3000\t3000\n\\.\nselect 1")
    assert copier.hear() == ["1"]
    assert owner.ask("select count(*) from t") == ["3000"]
    assert owner.ask("checkpoint; select pg_is_in_recovery()") == ["f"]
    fresh = owner.ask("\\connect\nselect sum(n) from t")
    assert fresh == [str(3000 * 3001 // 2)]


def frame(text: str) -> bytes:
    """A masked text frame (RFC 6455, 5.2), shorter than 126 bytes."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text.encode()))
    return bytes([0x81, 0x80 | len(masked)]) + mask + masked


def chat(sock: socket.socket, text: str) -> list[str]:
    sock.sendall(frame(text))
    kind, length = sock.recv(2, socket.MSG_WAITALL)
    assert kind == 0x81
    return sock.recv(length, socket.MSG_WAITALL).decode().split(" ", 3)


async def test_node_with_websockets_timers_and_a_worker(stage):
    async with workload(stage, "node", 7104, "/usr/bin/node", str(PROGRAMS / "chat.js"), "7104"):
        socks = [stage.connect(stage.client, stage.a.address, 7104) for _ in range(3)]
        for sock in socks:
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
            assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        half = frame("cut in two")
        socks[1].sendall(half[:7])
        before = chat(socks[0], "before")
        assert before[0] == "1"

        def ask(number: int) -> None:
            said = chat(socks[2], f"no. {number}")
            assert (said[0], said[3]) == (str(number), f"no. {number}")

        await moved_while_asked(stage, "node", ask)
        after = chat(socks[0], "after")
        assert (after[0], after[3]) == ("2", "after")
        socks[1].sendall(half[7:])
        assert socks[1].recv(2, socket.MSG_WAITALL)[0] == 0x81
        await until(lambda: goes_on(chat(socks[0], "on?")[1:3], after[1:3]), "its timers stand still")


def goes_on(now: list[str], then: list[str]) -> bool:
    return all(int(new) > int(old) for new, old in zip(now, then, strict=True))


WARM = 50_000
"""Calls of a method, after which it has been compiled for good: the second compiler takes it up after 15,000."""


async def test_a_jvm_with_its_collector_its_compiled_code_and_timers(stage):
    """The source is compiled by java itself, as it is started."""
    argv = ("/usr/bin/java", "-Xmx64m", str(PROGRAMS / "Counter.java"), "7105")
    async with workload(stage, "java", 0, *argv):
        await until(lambda: listens(stage.client, stage.a.address, 7105), "java does not listen", 60)
        client, asking = lines(stage, 7105), lines(stage, 7105)
        assert client.ask("one")[:2] == "1 "
        warming = lines(stage, 7105)
        await until(lambda: int(warming.ask("warm?").split()[3]) > WARM, "it is not warm", 60)

        def ask(number: int) -> None:
            assert asking.ask("more").split()[:2] == [str(number), str(hashed(number))]

        await moved_while_asked(stage, "java", ask)
        after = client.ask("two").split()
        assert after[0] == "2"
        await until(lambda: goes_on(client.ask("on?").split()[2:], after[2:]), "its timers stand still")


def hashed(number: int) -> int:
    """As Counter.java does: with overflow, and signed in the end."""
    for _ in range(100):
        number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
    return number - 2**64 if number >> 63 else number


async def test_a_shell_on_a_terminal_of_its_own(stage):
    """With its variables, its window's size and its interrupt key. A line that is half typed is lost (CRIU's loss).

    Job control holds /dev/tty open, which CRIU cannot save: refused, with the way out, and nothing is disturbed by it.
    """
    async with workload(stage, "terminal", 0, *PYTHON, str(PROGRAMS / "terminal.py"), "7106"):
        await until(lambda: holds_port(stage, 7106), "it does not listen")
        sock = stage.connect(stage.client, stage.a.address, 7106)
        typed(sock, "PS1=; stty -echo rows 33 cols 77; x=kept; echo rea''dy\n", "ready")
        refused = await stage.move("terminal")
        assert refused.outcome == "rolled-back"
        assert refused.error is not None
        assert (refused.error.code, refused.freeze_seconds) == ("terminal", 0)
        assert "set +m" in refused.error.hint
        typed(sock, "set +m; echo rea''dy\n", "ready")
        sock.sendall(b"echo half-")
        await moved(stage, "terminal")
        assert "half" not in typed(sock, "echo whole\n", "whole")
        typed(sock, "echo $x $(stty size) $(tty)\n", "kept 33 77 /dev/pts/0")
        typed(sock, "echo slee''ping; sleep 60\n", "sleeping\r\n")
        typed(sock, "\x03", "\n")
        typed(sock, "echo inter''rupted\n", "interrupted")


def holds_port(stage: Scene, port: int) -> bool:
    """Without connecting to it: it takes one connection only."""
    lines = Path(f"/proc/{stage.a.pid1}/net/tcp").read_text().splitlines()
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines[1:])


def typed(sock: socket.socket, keys: str, expected: str) -> str:
    """Types, and reads the screen until the expected words come."""
    sock.sendall(keys.encode())
    screen = ""
    while expected not in screen:
        try:
            data = sock.recv(1000)
        except TimeoutError:
            data = b""
        assert data, f"no {expected!r} after {screen!r}"
        screen += data.decode()
    return screen
