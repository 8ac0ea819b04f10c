"""The pod's first process: its restart rules, and its loop over real children."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.lab import init
from controller.lab.init import LONGEST_PAUSE_SECONDS, STEADY_SECONDS, Sidecar, next_wait_seconds
from tests.harness.standing import until


@pytest.fixture
def sidecar(tmp_path):
    return Sidecar("agent", ["/bin/true"], str(tmp_path / "agent.log"))


def test_a_sidecar_is_due_at_once_and_then_not(sidecar):
    assert next_wait_seconds([sidecar], 5.0) == 0.0
    sidecar.started(7, 5.0)
    assert next_wait_seconds([sidecar], 5.0) is None
    assert next_wait_seconds([], 5.0) is None


def test_the_pause_doubles_up_to_its_longest_with_each_early_death(sidecar):
    now, pauses = 0.0, []
    for _ in range(9):
        sidecar.started(7, now)
        pauses.append(sidecar.died(now))
        assert next_wait_seconds([sidecar], now) == pytest.approx(pauses[-1])
        now = sidecar.due_at
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_a_sidecar_that_ran_for_long_starts_over_with_the_first_pause(sidecar):
    for _ in range(5):
        sidecar.started(7, 0.0)
        sidecar.died(0.0)
    sidecar.started(8, 100.0)
    assert sidecar.died(100.0 + STEADY_SECONDS) == 0.1
    assert sidecar.pid == 0


def test_one_that_cannot_be_started_at_all_waits_longer_each_time(sidecar):
    assert [sidecar.died(now) for now in (100.0, 200.0, 300.0)] == [0.1, 0.2, 0.4]


def test_what_is_spawned_has_the_given_environment_and_log_and_nothing_else(tmp_path):
    log = tmp_path / "out"
    pid = init.spawn(["/bin/sh", "-c", "echo $A; echo b >&2"], {"A": "a", "PATH": "/bin"}, str(log))
    assert os.waitpid(pid, 0)[1] == 0
    assert log.read_text() == "a\nb\n"


def test_a_sidecar_has_no_descriptor_but_the_standard_three(pod, tmp_path):
    pid = pod.begin()
    pod.run(agent="echo on; exec sleep 100")
    wait_for(tmp_path / "agent.log", "on")
    assert not pod.has_lock
    (agent,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    until(lambda: Path(f"/proc/{agent}/comm").read_text() == "sleep\n")
    until(lambda: sorted(path.name for path in Path(f"/proc/{agent}/fd").iterdir()) == ["0", "1", "2"])
    os.kill(pid, 15)
    assert gone(pid)


def test_a_file_is_written_without_being_made(tmp_path):
    path = tmp_path / "sysctl"
    with pytest.raises(FileNotFoundError):
        init.write(str(path), "1")
    path.write_text("")
    init.write(str(path), "1")
    assert path.read_text() == "1"


def test_a_failing_call_of_the_c_library_is_an_error_with_its_name():
    with pytest.raises(FileNotFoundError, match="mount"):
        init.libc_call("mount", b"none", b"/nowhere", b"tmpfs", 0, None)


class Pod:
    """The creator's end of a conversation with a real first process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(30)
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = [sys.executable, "-I", "-S", init.__file__, str(theirs.fileno()), str(lock)]
        self.outer = subprocess.Popen(argv, pass_fds=[theirs.fileno(), lock], stdin=subprocess.DEVNULL)
        theirs.close()
        os.close(lock)
        self.heard: dict[str, object] = {}

    @property
    def has_lock(self) -> bool:
        """Whether somebody has the creator's lock, who has let go of it."""
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def say(self, **message: object) -> None:
        self.control.send(json.dumps(message).encode())

    def hear(self, key: str) -> object:
        while key not in self.heard:
            data = self.control.recv(init.MAX_MESSAGE_BYTES)
            assert data, "it hung up"
            self.heard |= json.loads(data)
        return self.heard[key]

    def begin(self, cgroup: str = "") -> int:
        self.say(hostname="test", log=str(self.folder / "init.log"), cgroup=cgroup)
        pid = self.hear("pid1")
        assert isinstance(pid, int)
        assert self.outer.wait(30) == 0
        return pid

    def run(self, **scripts: str) -> None:
        self.hear("pid_max")
        sidecars = [
            {"name": name, "argv": ["/bin/sh", "-c", script], "log": str(self.folder / f"{name}.log")}
            for name, script in scripts.items()
        ]
        self.say(sidecars=sidecars, environment={"PATH": "/bin:/usr/bin"}, last_pid=4999)
        self.hear("started")

    def close(self) -> None:
        self.control.close()
        self.outer.kill()
        self.outer.wait()


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path)
    yield pod
    pod.close()
    if isinstance(pid := pod.heard.get("pid1"), int) and Path(f"/proc/{pid}").exists():  # its test failed
        os.kill(pid, 9)


def gone(pid: int, seconds: float = 30.0) -> bool:
    """Whether PID 1, our child by adoption, ends within the time."""
    deadline = time.monotonic() + seconds
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.005)
    return path.read_text()


def test_it_ends_with_its_creator_before_it_is_told_to_start(pod):
    pid = pod.begin()
    pod.hear("pid_max")
    assert pod.has_lock
    pod.control.close()
    assert gone(pid)
    assert not pod.has_lock


def test_it_ends_with_a_creator_that_says_nothing(pod):
    pod.control.close()
    assert pod.outer.wait(30) == 1


def test_it_says_what_went_wrong(pod):
    pod.say(hostname="test", log=str(pod.folder / "init.log"), cgroup="/no/such/group")
    assert "/no/such/group/cgroup.procs" in str(pod.hear("error"))
    assert pod.outer.wait(30) == 1


def test_the_first_process_says_so_when_it_cannot_set_the_pod_up(pod):
    pod.say(hostname="test", log="/no/such/folder/init.log", cgroup="")
    assert "/no/such/folder/init.log" in str(pod.hear("error"))
    pid = pod.hear("pid1")
    assert isinstance(pid, int)
    assert pod.outer.wait(30) == 0
    assert gone(pid)


def test_it_restarts_a_sidecar_that_dies_and_ends_them_all_when_told(pod, tmp_path):
    pid = pod.begin()
    told = "trap 'echo told; exit' TERM; echo $$; sleep 100 & wait"
    pod.run(short=f"echo once >>{tmp_path}/count; exit 3", long=told)
    pod.control.close()
    wait_for(tmp_path / "count", "once\nonce\nonce\n")
    assert "short (PID 2) ended with 3, restart in 0.1 s" in wait_for(tmp_path / "init.log", "restart in 0.2 s")
    assert wait_for(tmp_path / "long.log", "\n") == "3\n"
    os.kill(pid, 15)
    assert gone(pid)
    assert (tmp_path / "long.log").read_text() == "3\ntold\n", "it was told, and not killed"


def test_a_sidecar_that_cannot_be_started_is_tried_again(pod, tmp_path):
    pid = pod.begin()
    pod.hear("pid_max")
    missing = {"name": "agent", "argv": [str(tmp_path / "late")], "log": str(tmp_path / "agent.log")}
    pod.say(sidecars=[missing], environment={}, last_pid=4999)
    pod.hear("started")
    assert "cannot be started" in wait_for(tmp_path / "init.log", "next try in 0.2 s")
    os.kill(pid, 15)
    assert gone(pid)


def test_what_ignores_the_request_is_killed_after_the_grace(pod, tmp_path):
    pid = pod.begin()
    pod.run(deaf='trap "" TERM; echo on; while :; do sleep 0.05; done')
    wait_for(tmp_path / "deaf.log", "on")
    began = time.monotonic()
    os.kill(pid, 15)
    assert gone(pid)
    assert time.monotonic() - began >= init.GRACE_SECONDS
