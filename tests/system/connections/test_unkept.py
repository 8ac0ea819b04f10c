"""What cannot be kept: refused by name, or reset where that is allowed."""

from __future__ import annotations

import asyncio
import json
import platform
import socket
import struct

import pytest

from checkpoint.processes import procfs
from controller.core.errors import EXIT_REFUSED
from controller.lab.namespaces import in_network
from tests.harness.connected import PORT, accepted, finish, witness
from tests.harness.journeys import cancelled_while_restoring
from tests.harness.moving import ONE_LOOP

pytestmark = ONE_LOOP


DAEMON = "os.fork() or (os.closerange(3, inner), os.close(outer), os.read(inner, 1)), os._exit(0)"
"""Whoever begins it ends at once; it ends with the puppet."""
CANNOT = {
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


CAN_BE_LEFT = ("multicast", "kernel-tls", "urgent")
"""With --allow-loss the rest moves; without all others it cannot."""


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
    for allowed in {False, kind not in CAN_BE_LEFT}:
        result = await stage.move("puppet", allow_loss=allowed)
        assert result.outcome == "rolled-back"
        assert result.error is not None
        assert (result.error.code, result.freeze_seconds) == (expected, 0)
        assert words in result.error.message
    other.sendall(b"on?")
    assert told.do("other.recv(9).decode()") == "on?"


UNSAVED = {
    "alarm": ("sc(283, 9, 0)", "a timerfd of a clock that wakes the machine"),
    "semaphore": ("semaphore()", "an eventfd that is a semaphore"),
    "file system": ("sc(301, sc(300, 0, 0), 0x101, 8, -100, b'/tmp')", "a fanotify that watches a whole file system"),
    "stranger": ("os.pidfd_open(1)", "a pidfd of process 1, which is outside the workload"),
    "thread": ("sc(434, threading.get_native_id(), 0x80)", "a pidfd of a thread"),
    "task": ("os.open('/proc/thread-self/stat', 0)", "/stat, of a thread"),
    "pressure": ("os.open('/proc/pressure/memory', 2)", "/proc/pressure/memory, whose trigger would be lost"),
    "device": ("os.open('/dev/fuse', 2)", "/dev/fuse, a device"),
    "name": ("(made(1, 2).bind(FOLDER + '/name'), os.open(FOLDER + '/name', os.O_PATH))",
             "/name, a socket's name opened with O_PATH"),
    "filter": ("filtered(made(1, 2))", "has an eBPF program as its filter"),
    "cork": ("made(2, 2).setsockopt(17, 1, 1)", "is corked (UDP_CORK)"),
    "groups": ("made(16, 3).setsockopt(270, 1, 27)", "is a member of groups and bound to no number"),
    "unread": ("made(16, 3).sendto(GET_LINKS, (0, 0))", "has something for the process that it has not read yet"),
    "xdp": ("made(44, 3)", "is of family 44"),
    "huge pages": ("sc(9, 0, 1 << 30, 0, 0x44022 | 30 << 26, -1, 0)", "has huge pages of 1048576 kB"),
    "mapped": ("mapped_alone(sc(321, 0, MAP, 72), 4096)", "into its memory what cannot be saved: anon_inode:bpf-map"),
    "deleted": ("mapped_alone(deleted('large', 80 << 20), 4096)", "/large, still in use, has 80.0 MiB"),
    "renamed": ("mapped_alone(deleted('linked', 9, 'other'), 4096)", "while another name of it"),
    "folders": ("sc(56, 0x211, 0, 0, 0, 0) or signal.pause()", "has its folders (CLONE_FS) in common"),
    "memory": ("LIBC.clone(PAUSE, ctypes.c_void_p(ctypes.addressof(STACK) + 60000 & -16), 0x111, None)",
               "has its memory (CLONE_VM) in common"),
    "program": ("os.fork() or os.execve(in_memory(), ['sleep', '1000'], {})", "is in no file (memfd_create(2))"),
    "descriptors": ("threading.Thread(target=lambda: (sc(272, 0x400), signal.pause()), daemon=True).start()",
                    "has descriptors of its own (unshare(2), CLONE_FILES)"),
    "number": ("os.dup2(0, as_many_as_it_may() - 1)", "and in pod b that must be less than"),
}  # fmt: skip
"""What one process may all have at a time, and what is said of each. The numbers are those of x86-64."""
LOST = {
    "personality": ("LIBC.personality(0x0040000)", "will not have its personality 00040000"),
    "merging": (
        "sc(157, 67, 1, 0, 0, 0) + open('/proc/self/ksm_stat').read().index('ksm_merge_any')",
        "will not have its merging of equal pages",
    ),
    "policy": ("sc(238, 3, ctypes.byref(ctypes.c_ulong(1)), 2)", "will not have its NUMA policy, interleave:0"),
    "ports": ("[shared(made(2, 2)) for _ in 'ab'] == [None] * 2", "2 UDP sockets share 0.0.0.0:7398"),
    "locking": ("sc(151, 3)", "will not have its promise that memory to come is locked too"),
}
"""What each of as many processes may have, and what is warned of."""
MAY_BE_ABSENT = {
    "merging",
    "policy",
    "alarm",
    "semaphore",
    "thread",
    "file system",
    "pressure",
    "device",
    "xdp",
    "huge pages",
    "mapped",
}
MEANS = """
import resource
LIBC, STACK, kept = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(1 << 16), []
PAUSE = ctypes.cast(LIBC.pause, ctypes.c_void_p)
GET_LINKS = struct.pack("IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0)
MAP = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 4, 0x400), 72)
def sc(number, *rest):
    found = LIBC.syscall(*[ctypes.c_long(one) if isinstance(one, int) else one for one in (number, *rest)])
    if found == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
def made(family, kind):
    kept.append(socket.socket(family, kind, 0))
    return kept[-1]
def shared(sock):
    sock.setsockopt(1, 15, 1)
    sock.bind(("", 7398))
def semaphore():
    event = os.eventfd(5, os.EFD_SEMAPHORE)
    if "eventfd-semaphore" not in open(f"/proc/self/fdinfo/{event}").read(): raise OSError("not said")
def filtered(sock):
    both = ctypes.create_string_buffer(bytes.fromhex("b7000000000000009500000000000000") + b"GPL")
    at = ctypes.addressof(both)
    program = sc(321, 5, ctypes.create_string_buffer(struct.pack("IIQQ", 1, 2, at, at + 16), 120), 120)
    sock.setsockopt(1, 50, program)
    os.close(program)
def deleted(name, size, other=""):
    file = os.open(f"{FOLDER}/{name}", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, size)
    if other: os.link(f"{FOLDER}/{name}", f"{FOLDER}/{other}"), os.mkdir(f"{FOLDER}/{name} (deleted)")
    os.unlink(f"{FOLDER}/{name}")
    return file
def as_many_as_it_may():
    for most in (int(open("/proc/sys/fs/nr_open").read()), resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError): continue
        return most
def in_a_child(act):
    inner, outer = os.pipe()
    if not os.fork():
        try: os.write(outer, b"." if act() >= 0 else b"")
        except Exception: os._exit(1)
        signal.pause()
    os.close(outer)
    if not os.read(inner, 1): raise OSError("it ended")
    os.close(inner)
def mapped_alone(file, size):
    sc(9, 0, size, 1, 1, file, 0)
    os.close(file)
def in_memory():
    file = os.memfd_create("program")
    os.write(file, open("/bin/sleep", "rb").read())
    return f"/proc/self/fd/{file}"
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere calls have other numbers")
async def test_whatever_cannot_be_saved_is_said_of_each_before_anything_is_touched(stage, told, tmp_path):
    told.do(f"FOLDER = {str(tmp_path)!r}")
    told.do(MEANS)
    children = {kind: (f"in_a_child(lambda: {code})", words) for kind, (code, words) in LOST.items()}
    absent = {kind for kind, (code, _) in (children | UNSAVED).items() if "error" in told.attempt(code)}
    assert absent <= MAY_BE_ABSENT
    result = await stage.move("puppet")
    assert (result.outcome, result.freeze_seconds) == ("rolled-back", 0)
    status, out, err = await stage.midstream("migrate", "puppet", "--to", "b", "--dry-run", "-o", "json")
    said = [one["message"] for one in json.loads(out)["problems"]]
    assert status == EXIT_REFUSED, err
    said += [one["message"] for one in json.loads(out)["warnings"]]
    named = {kind for kind, (_, words) in (LOST | UNSAVED).items() if any(words in message for message in said)}
    assert named == (set(LOST) | set(UNSAVED)) - absent
    assert told.do("1 + 1") == 2


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
        sock.settimeout(30)
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
