"""What connects the workload with itself moves with it."""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from controller.core.phases import Phase
from tests.harness.connected import ALWAYS
from tests.harness.journeys import assert_nothing_lost, at_phase, cancelled_while_restoring, moved
from tests.harness.moving import ONE_LOOP

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("under_load")]


INSIDE = """
import array, ctypes
libc = ctypes.CDLL(None)
def loop(host, family=socket.AF_INET):
    server = socket.create_server((host, 0), family=family)
    one = socket.create_connection(server.getsockname()[:2])
    return server, one, server.accept()[0]
loops = [loop('127.0.0.1'), loop('::1', socket.AF_INET6), loop(OWN)]
for _, one, other in loops: one.send(b'there'); other.send(b'back')
pair = socket.socketpair(); pair[0].send(b'stream')
grams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); grams[0].send(b'one'); grams[0].send(b'two')
named = socket.socket(socket.AF_UNIX); named.bind(FOLDER + '/sock'); named.listen()
caller = socket.socket(socket.AF_UNIX); caller.connect(FOLDER + '/sock'); callee = named.accept()[0]
caller.send(b'called')
carrier, flying = socket.socketpair(), socket.socketpair(); flying[0].send(b'flown')
socket.send_fds(carrier[0], [b'!'], [flying[1].fileno()]); flying[1].close()
hidden_read, hidden_write = os.pipe(); os.write(hidden_write, b'hidden')
pipe = os.pipe(); os.write(pipe[1], b'pipe')
libc.sem_open.restype = ctypes.c_void_p
semaphore = ctypes.c_void_p(libc.sem_open(b'/midstream-test', os.O_CREAT, 0o600, 7)); left = ctypes.c_int()
linked = os.open(FOLDER + '/linked', os.O_RDWR | os.O_CREAT); os.write(linked, b'linked')
os.link(FOLDER + '/linked', FOLDER + '/other'); os.unlink(FOLDER + '/linked')
event = os.eventfd(5)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, struct.pack('qqqq', 0, 50_000_000, 0, 50_000_000), None)
poll = select.epoll(); poll.register(timer, select.EPOLLIN); poll.register(event, select.EPOLLIN)
signal.setitimer(signal.ITIMER_REAL, 600, 7)
posix, spec = ctypes.c_void_p(), ctypes.create_string_buffer(32)
libc.timer_create(1, ctypes.create_string_buffer(struct.pack('qii', 0, 0, 1), 64), ctypes.byref(posix))  # SIGEV_NONE
libc.timer_settime(posix, 0, struct.pack('qqqq', 5, 0, 500, 0), None)
def posix_timer(): return [libc.timer_gettime(posix, spec), *struct.unpack('qqqq', spec.raw)]
"""


async def test_what_is_inside_the_workload_moves_with_it(stage, told, tmp_path):
    """Loopback connections (CRIU's own), unix sockets, pipes, eventfd, timerfd, epoll: with what is in them, be it a
    descriptor; and what has another name than the one that it was opened under, as a named semaphore has."""
    told.do(f"OWN, FOLDER = {stage.a.address!r}, {str(tmp_path)!r}")
    told.do(INSIDE)
    try:
        result = await moved(stage, "puppet")
        assert told.do("libc.sem_wait(semaphore), libc.sem_getvalue(semaphore, ctypes.byref(left)), left.value") == [
            0,
            0,
            6,
        ]
        assert [path.name for path in Path("/dev/shm").glob("sem.*midstream*")] == ["sem.midstream-test"]
        assert list(Path("/dev/shm").glob("*(deleted)")) == []
    finally:
        told.do("libc.sem_unlink(b'/midstream-test')")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sock"]
    assert told.do("os.pread(linked, 9, 0).decode(), os.fstat(linked).st_ino") == [
        "linked",
        (tmp_path / "other").stat().st_ino,
    ]
    assert result.flows.adopted == ALWAYS
    assert told.do("[[b.recv(9).decode(), a.recv(9).decode()] for _, a, b in loops]") == [["there", "back"]] * 3
    assert told.do("[one.getsockname()[0] for _, one, _ in loops]") == ["127.0.0.1", "::1", stage.b.address]
    assert told.do("loops[2][1].send(b'again'), loops[2][2].recv(9).decode()") == [5, "again"]
    assert told.do("pair[1].recv(9).decode(), grams[1].recv(9).decode(), grams[1].recv(9).decode()") == [
        "stream", "one", "two",
    ]  # fmt: skip
    told.do("caught = socket.socket(fileno=socket.recv_fds(carrier[1], 9, 1)[1][0])")
    assert told.do("caught.recv(9).decode(), caught.send(b'back'), flying[0].recv(9).decode()") == ["flown", 4, "back"]
    assert told.do("callee.recv(9).decode(), os.read(pipe[0], 9).decode()") == ["called", "pipe"]
    assert told.do("os.read(hidden_read, 9).decode(), os.eventfd_read(event)") == ["hidden", 5]
    assert told.do("[poll.poll(5) == [(timer, 1)], os.read(timer, 8) != bytes(8)]") == [True, True]
    assert told.do("poll.poll(5) == [(timer, 1)]")
    assert told.do(
        "[500 < signal.getitimer(signal.ITIMER_REAL)[0] < 600, signal.getitimer(signal.ITIMER_REAL)[1]]"
    ) == [
        True,
        7,
    ]
    status, every, _, left, _ = told.do("posix_timer()")
    assert (status, every, 400 < left < 500) == (0, 5, True)


async def test_a_semaphore_that_is_made_when_all_is_prepared_moves_too(stage, told):
    made = "semaphore = ctypes.c_void_p(libc.sem_open(b'/midstream-late', os.O_CREAT, 0o600, 7))"
    told.do("import ctypes; libc = ctypes.CDLL(None); libc.sem_open.restype = ctypes.c_void_p; left = ctypes.c_int()")
    try:
        await moved(stage, "puppet", prepare=at_phase(Phase.STOPPING, lambda: told.do(made)))
        assert told.do("libc.sem_trywait(semaphore), libc.sem_getvalue(semaphore, ctypes.byref(left)), left.value") == [
            0,
            0,
            6,
        ]
    finally:
        told.do("libc.sem_unlink(b'/midstream-late')")
    assert list(Path("/dev/shm").glob("*(deleted)")) == []


BASE = """
import sqlite3
base = sqlite3.connect(BASE, isolation_level=None); base.execute('PRAGMA journal_mode=WAL')
base.execute('CREATE TABLE t (n)'); base.execute('BEGIN'); count = 'SELECT count(*) FROM t'
base.execute(count).fetchall()
"""
IN_USE = 128
"""The byte of a WAL's index that everybody who uses it has locked (SQLite: os_unix.c, UNIX_SHM_DMS)."""


def in_use(index: Path) -> bool:
    with index.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, IN_USE)
        except BlockingIOError:
            return True
        return False


async def test_locks_on_a_file_that_is_mapped_move_with_it(stage, told, tmp_path):
    """As a database of SQLite with a write-ahead log has them: in the middle of a transaction that reads."""
    told.do(f"BASE = {str(tmp_path / 'base')!r}")
    told.do(BASE)
    cancelled = await stage.move("puppet", prepare=cancelled_while_restoring)
    assert (cancelled.outcome, in_use(tmp_path / "base-shm")) == ("rolled-back", True)
    await moved(stage, "puppet")
    assert_nothing_lost(await stage.move("puppet", stage.b, stage.a, memory="post-copy"))
    assert in_use(tmp_path / "base-shm")
    with closing(sqlite3.connect(tmp_path / "base", isolation_level=None)) as ours:
        ours.execute("INSERT INTO t VALUES (1)")
        assert told.do("base.execute(count).fetchall()") == [[0]]
        told.do("base.execute('COMMIT'); base.execute('INSERT INTO t VALUES (2)')")
        assert told.do("base.execute(count).fetchall()") == [[2]]
        assert ours.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
