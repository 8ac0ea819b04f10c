"""What tells a copy from the original, in made-up images: closed connections, addresses, the log's name."""

from __future__ import annotations

import pytest

from checkpoint.core import readdress as tcp
from checkpoint.core.stored import Connection
from checkpoint.images import copies
from checkpoint.images.folder import Images
from tests.harness import made_images as made

POD, PEER, LOOPBACK = [0x0100000A], [0x0900000A], [0x0100007F]  # 10.0.0.1, 10.0.0.9, 127.0.0.1
NUMBERS = {"inq_len": 2, "inq_seq": 1, "outq_len": 1, "outq_seq": 1, "rcv_wnd": 0, "rcv_wup": 0}


@pytest.fixture
def folder(tmp_path):
    log = made.MESSAGES.file(type=1, id=9)
    log.reg.id, log.reg.flags, log.reg.pos, log.reg.name = 9, 0, 0, "/pods/a/redis.log"
    log.reg.fown.uid = log.reg.fown.euid = log.reg.fown.signum = log.reg.fown.pid_type = log.reg.fown.pid = 0
    entries = [
        made.inet(1, tcp.LISTEN, POD, 6379, [0], 0),
        made.inet(2, tcp.ESTABLISHED, POD, 6379, PEER, 5000),
        made.inet(3, tcp.ESTABLISHED, LOOPBACK, 1, LOOPBACK, 2),
        made.inet(4, tcp.ESTABLISHED, LOOPBACK, 2, LOOPBACK, 1),
        log,
    ]
    made.write(tmp_path, "files", entries)
    for ino in (2, 3, 4):
        made.write(tmp_path, f"tcp-stream-{ino:x}", [made.stream(NUMBERS)], b"abc")
    return tmp_path


def test_the_ledger_names_every_connection(folder):
    assert copies.connections(Images(folder, made.MESSAGES)) == [
        Connection("10.0.0.1:6379", "10.0.0.9:5000", 2, 1, False),
        Connection("127.0.0.1:1", "127.0.0.1:2", 2, 1, True),
        Connection("127.0.0.1:2", "127.0.0.1:1", 2, 1, True),
    ]


def test_one_that_is_being_opened_has_no_queues_yet(tmp_path):
    six = [1, 0, 0, 0]
    made.write(tmp_path, "files", [made.inet(1, tcp.SYN_SENT, six, 7, six, 8)])
    (one,) = copies.connections(Images(tmp_path, made.MESSAGES))
    assert (one.unread_bytes, one.unsent_bytes) == (0, 0)
    assert one.peer.startswith("[")


def test_a_copy_listens_at_its_own_address_and_finds_inherited_connections_closed(folder):
    images = Images(folder, made.MESSAGES)
    assert copies.make_copy(folder, images, {"10.0.0.1": "10.0.0.2"}, {"/pods/a/redis.log": "/pods/b/copy.log"}) == 1
    again = Images(folder, made.MESSAGES)
    listener, closed, one, other = again.sockets()
    assert listener.local == ("10.0.0.2", 6379)
    assert (closed.state, closed.local, closed.peer, closed.connected) == (
        tcp.CLOSE, ("0.0.0.0", 0), ("0.0.0.0", 0), False,
    )  # fmt: skip
    assert (one.local, one.peer) == (other.peer, other.local)
    assert one.state == tcp.ESTABLISHED
    assert again._load()[-1].reg.name == "/pods/b/copy.log"
    assert sorted(path.name for path in folder.glob("tcp-stream-*")) == ["tcp-stream-3.img", "tcp-stream-4.img"]
