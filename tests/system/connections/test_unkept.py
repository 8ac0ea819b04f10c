"""What cannot be kept: refused by name, or reset where that is allowed."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from checkpoint.processes import procfs
from controller.lab.namespaces import in_network
from tests.harness.connected import PORT, accepted, finish, witness
from tests.harness.journeys import cancelled_while_restoring
from tests.harness.moving import ONE_LOOP

pytestmark = ONE_LOOP


DAEMON = "os.fork() or (os.closerange(3, inner), os.close(outer), os.read(inner, 1)), os._exit(0)"
"""Whoever begins it ends at once; it ends with the puppet."""
CANNOT = {
    "multipath": ("it = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); it.bind(('', 7399)); it.listen()",
                  "unsupported-socket", "the socket 0.0.0.0:7399 is Multipath TCP"),
    "multicast": ("it = socket.socket(type=socket.SOCK_DGRAM); it.setsockopt(0, 35, socket.inet_aton('239.1.2.3') "
                  "+ socket.inet_aton('127.0.0.1'))",
                  "unsupported-socket", "has joined the multicast group 239.1.2.3"),
    "kernel-tls": ("sock.setsockopt(6, 31, b'tls')", "unsupported-socket", "has kernel TLS"),
    "urgent": ("", "connection-state", "has urgent data that nobody has read"),
    "users": (
        "pid = os.fork() or (os.setuid(65534), signal.pause())", "no-capability", "belong to different users",
    ),
    "packets": ("it = os.pipe2(os.O_DIRECT)", "unsupported-file", "a pipe in packet mode"),
    "tun": ("it = os.open('/dev/net/tun', os.O_RDWR)", "unsupported-file", "a tun or tap device"),
    "vsock": ("it = socket.socket(socket.AF_VSOCK)", "unsupported-socket", "is of family 40"),
    "log": ("it = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); it.connect('{outside}')",
            "unsupported-socket", "connected by {outside} to a process outside the workload"),
    "folder": ("ctypes.CDLL(None).unshare(0x200) or os.chdir('/usr')", "unsupported-file", "a folder of its own (/usr"),
    "deadline": ("assert ctypes.CDLL(None).syscall(314, 0, struct.pack('IIQiIQQQ', 48, 6, 1, 0, 0, *[10 ** 7] * 3), 0)"
                 " == 0, 'not available'", "unsupported-file", "SCHED_DEADLINE"),
    "orphan": (f"first = os.fork() or ({DAEMON}); os.waitpid(first, 0)", "left-by-parent",
               "below none of its processes"),
    "adopted": (f"first = os.fork() or (os.setsid(), {DAEMON}); os.waitpid(first, 0)",
                "left-by-parent", "would be nobody's in the copy"),
    "io-uring": ("it = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))",
                 "unsupported-file", "io_uring"),
}  # fmt: skip


@pytest.fixture
def outside(tmp_path):
    """Where somebody who is not of the workload listens, as the system's log does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(f"{tmp_path}/log")
        yield log.getsockname()


@pytest.mark.parametrize("kind", CANNOT)
async def test_what_cannot_be_kept_is_refused_by_name_before_anything_is_touched(stage, told, outside, kind):
    """And the workload, with all its connections, goes on as if nobody had asked."""
    code, expected, words = (one.replace("{outside}", outside) for one in CANNOT[kind])
    sock, other = accepted(stage, told), accepted(stage, told, "other")
    if kind == "urgent":
        sock.send(b"!", socket.MSG_OOB)
        told.do("select.select([], [], [sock], 10)")
    told.do("inner, outer = os.pipe()")
    if kind == "adopted":
        told.do("ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)")  # PR_SET_CHILD_SUBREAPER
    answer = told.attempt(code) if code else {}
    if "No such file" in answer.get("error", "") or "not available" in answer.get("error", ""):
        pytest.skip(f"this kernel has none: {answer['error']}")
    assert "error" not in answer, answer
    if kind == "users" and procfs.may_read_limits():
        pytest.skip("this machine has CAP_SYS_RESOURCE, and can")
    if kind == "io-uring" and told.do("it") < 0:
        pytest.skip("this kernel has no io_uring")
    result = await stage.move("puppet")
    assert result.outcome == "rolled-back"
    assert result.error is not None
    assert (result.error.code, result.freeze_seconds) == (expected, 0)
    assert words in result.error.message
    other.sendall(b"on?")
    assert told.do("other.recv(9).decode()") == "on?"


@pytest.mark.parametrize("kind", ["urgent", "signed"])
async def test_what_cannot_be_kept_is_reset_where_that_is_allowed_and_the_rest_moves(stage, told, kind):
    """Both ends see a reset once the workload has moved, and not before; the result names the connection."""
    other = witness(stage, told)
    if kind == "signed":
        told.do(SIGN)
        told.do(f"server = socket.create_server(('', {PORT + 1})); sign(server, {stage.client.address!r}, 0)")
        sock = in_network(stage.client, socket.socket)
        exec(SIGN, names := {"socket": socket, "struct": struct})
        names["sign"](sock, stage.a.address, PORT + 1)
        sock.settimeout(10)
        sock.connect((stage.a.address, PORT + 1))
        told.do("sock = server.accept()[0]")
    else:
        sock = accepted(stage, told)
        sock.send(b"!", socket.MSG_OOB)
        told.do("select.select([], [], [sock], 10)")
    refused = await stage.move("puppet")
    assert (refused.outcome, refused.freeze_seconds) == ("rolled-back", 0)
    assert "--allow-loss" in refused.error.hint
    cancelled = await stage.move("puppet", allow_loss=True, prepare=cancelled_while_restoring)
    assert cancelled.outcome == "rolled-back"
    told.do("sock.send(b'still here')")
    assert sock.recv(10, socket.MSG_WAITALL) == b"still here"
    result = await stage.move("puppet", allow_loss=True)
    assert (result.outcome, result.error, result.flows.lost, result.bytes.lost) == ("succeeded", None, 1, 0)
    (row,) = [row for row in result.ledger if not row.offsets_equal]
    assert row.peer == "{}:{}".format(*sock.getsockname())
    assert f"{sock.getsockname()[1]} {'is signed' if kind == 'signed' else 'has urgent data'}" in row.given_up
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(sock.recv, 1)
    assert "ConnectionReset" in (await asyncio.to_thread(told.attempt, "sock.recv(1)")).get("error", "no error")
    await finish(told, other)
    sock.close()


SIGN = """
def sign(sock, host, port):
    end = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s120x", port, socket.inet_aton(host))
    sock.setsockopt(6, 14, end + struct.pack("=BBHi80s", 0, 0, 4, 0, b"key!"))
"""
