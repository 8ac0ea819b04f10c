"""The engine's smaller parts; the dump and the restore themselves are in tests/system/agent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.criu.engine import CriuEngine, sockets_of
from checkpoint.kernel import Kernel
from checkpoint.processes import tree as trees
from tests.harness.made_images import MESSAGES
from tests.harness.solo_agent import CRIU

TCP_REPAIR = 19


@pytest.fixture
def engine():
    return CriuEngine(Kernel(), str(CRIU), MESSAGES, Path("/dev/shm"))


async def test_its_version_is_known(engine):
    assert (await engine.version()).startswith("4.")


async def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(AgentError, match="no-criu cannot be started") as caught:
        await CriuEngine(Kernel(), str(tmp_path / "no-criu"), MESSAGES, tmp_path).version()
    assert caught.value.code is Code.CRIU_MISSING


@pytest.mark.parametrize("known", [True, False])
def test_release_mends_every_socket(engine, known):
    """The tree is this process: it stands in for one whose sockets CRIU has left in repair mode."""
    kernel = Kernel()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
        socket.socket(socket.AF_UNIX) as other,
    ):
        inode = {sock: os.fstat(sock.fileno()).st_ino for sock in (listener, client, server, other)}
        assert set(inode.values()) <= {ino for _, ino in sockets_of(os.getpid())}
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        tree = trees.hold_all(kernel, [os.getpid()])
        reuse = {inode[client]: False, inode[server]: True} if known else {}
        engine.release(tree, reuse, {inode[listener]: 3} if known else {})
        tree.close()
        assert not kernel.in_repair(client)
        assert not kernel.in_repair(server)
        assert bool(client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is not known
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        client.sendall(b"x")
        assert server.recv(1) == b"x"


class Murderous(Kernel):
    """Whose descriptor is to be duplicated has just been killed, the first time."""

    victim: subprocess.Popen[bytes] | None = None

    def pidfd_getfd(self, pidfd: int, fd: int) -> int:
        if self.victim is not None:
            self.victim.kill()
            self.victim.wait()
            self.victim = None
        return super().pidfd_getfd(pidfd, fd)


def test_a_process_that_is_killed_meanwhile_keeps_nobody_stopped(tmp_path):
    """Nor its sockets, which others have too, from being mended."""
    kernel = Murderous()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        contextlib.ExitStack() as stack,
    ):
        fds = [client.fileno()]
        children = [stack.enter_context(subprocess.Popen(["sleep", "60"], pass_fds=fds)) for _ in range(2)]
        for child in children:
            stack.callback(child.kill)
            child.send_signal(signal.SIGSTOP)
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        tree = trees.hold_all(kernel, [child.pid for child in children])
        kernel.victim = children[0]
        CriuEngine(kernel, "criu", MESSAGES, tmp_path).release(tree, {}, {})
        tree.close()
        assert children[0].poll() is not None
        assert trees.stat(children[1].pid).state in "SR"
        assert not kernel.in_repair(client)


def test_a_process_that_is_gone_has_no_sockets():
    assert list(sockets_of(0x3FFFFFFF)) == []
