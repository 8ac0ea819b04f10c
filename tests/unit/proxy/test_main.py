from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from proxy import main
from tests.harness import proxy_parts as parts


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any ports: a proxy of somebody else's may have the real ones here."""
    monkeypatch.setattr(main, "LINK_PORT", 0)
    monkeypatch.setattr(main, "METRICS_PORT", 0)


def close(sockets: main.Sockets) -> None:
    for sock in (sockets.control, sockets.adopt, sockets.links, sockets.metrics):
        sock.close()
    os.close(sockets.folder)


@pytest.mark.usefixtures("ports")
def test_sockets_appear_when_they_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    sockets = main.open_sockets(folder, os.getuid())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (folder / "control.sock").exists()
    sockets.publish()
    for name in ("control.sock", "adopt.sock"):
        mode = (folder / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.connect(str(folder / "adopt.sock"))
    again = main.open_sockets(folder, os.getuid())  # what an earlier proxy left is replaced
    again.publish()
    again.withdraw()
    again.withdraw()
    assert list(folder.iterdir()) == []
    close(sockets)
    close(again)


@parts.NEEDS_ROOT
@pytest.mark.usefixtures("ports")
def test_sockets_are_given_to_the_proxys_user(tmp_path: Path) -> None:
    sockets = main.open_sockets(tmp_path / "proxy", 64901)
    sockets.publish()
    for path in (tmp_path / "proxy", tmp_path / "proxy" / "control.sock", tmp_path / "proxy" / "adopt.sock"):
        assert (path.stat().st_uid, path.stat().st_gid) == (64901, 64901)
    close(sockets)


def test_a_pod_may_lack_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with main._tcp(0) as sock:
        assert sock.family == socket.AF_INET
    monkeypatch.undo()
    with main._tcp(0) as sock:
        assert sock.family == socket.AF_INET6


def test_a_directory_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main([])
    assert "--directory" in capsys.readouterr().err
