"""Workloads at an agent: started, listed, inspected, and what it says to bad requests."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.harness.agent_rig import IMAGE_KEY, SLEEP, Rig, stopped, until
from tests.harness.solo_pod import PYTHON


def test_a_workload_starts_clean(rig: Rig) -> None:
    script = (
        "import os, json, time\n"
        "while os.getppid() != 1: time.sleep(0.01)\n"  # whoever started it ends just now
        "said = {'fds': sorted(os.listdir('/proc/self/fd')), 'env': dict(os.environ), 'cwd': os.getcwd()}\n"
        "said |= {'sid': os.getsid(0) == os.getpid(), 'ppid': os.getppid(), 'in': os.readlink('/proc/self/fd/0')}\n"
        "print(json.dumps(said), flush=True)\n"
        "time.sleep(1000)\n"
    )
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", script], environment={"A": "1"}, directory="/tmp")
    log = rig.pods[0].directory / "w.log"
    until(lambda: log.read_text().endswith("}\n"))
    said = json.loads(log.read_text())
    assert said["fds"] == ["0", "1", "2", "3"]  # 3 is the listing's own
    assert (said["env"]["A"], said["cwd"], said["sid"], said["ppid"], said["in"]) == ("1", "/tmp", True, 1, "/dev/null")
    seen = rig.a.ask("GET", "/v1/workloads/w")
    assert seen["workload"] == {
        "name": "w",
        "pid": pid,
        "argv": [PYTHON, "-I", "-S", "-c", script],
        "state": "running",
        "migration": "",
        "arrived_by": "",
        "cpu_features": [],
    }
    assert (seen["pids"], seen["problems"]) == ([pid], [])
    assert seen["memory_bytes"] > 1_000_000


def test_a_command_that_is_not_there_is_named(rig: Rig) -> None:
    body = {"name": "w", "argv": ["no-such-command"]}
    assert rig.a.refused("POST", "/v1/workloads", body) == (422, "exec-failed", "command not found: no-such-command")
    body = {"name": "w", "argv": ["true"], "directory": "/nowhere"}
    assert rig.a.refused("POST", "/v1/workloads", body)[2] == "cannot enter /nowhere: No such file or directory"
    assert rig.a.ask("GET", "/v1/workloads") == []


def test_a_name_is_taken_only_while_its_workload_lives(rig: Rig) -> None:
    rig.run("w", SLEEP)
    assert rig.a.refused("POST", "/v1/workloads", {"name": "w", "argv": SLEEP})[:2] == (409, "workload-exists")
    assert rig.a.ask("DELETE", "/v1/workloads/w")["state"] == "exited"
    assert rig.a.refused("GET", "/v1/workloads/w")[:2] == (404, "no-workload")
    rig.run("w", SLEEP)


def test_a_name_is_taken_by_whoever_comes_first(rig: Rig) -> None:
    """A workload that arrives, or one that is started meanwhile: none of them is lost from the list."""
    pid = rig.run("w", SLEEP)
    wanted = {"name": "w", "argv": SLEEP}
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    rig.b.ask("POST", "/v1/workloads", wanted)
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == (409, "workload-exists")
    assert pid not in rig.pods[1].pids()
    rig.b.ask("DELETE", "/v1/workloads/w")
    rig.restore("m", sealed)
    assert rig.b.refused("POST", "/v1/workloads", wanted)[1:] == (
        "workload-exists", "a workload 'w' is just arriving, by migration m",
    )  # fmt: skip
    inbound = {"workload": "w", "argv": [], "image_key": IMAGE_KEY}
    assert rig.b.refused("PUT", "/v1/inbound/other", inbound)[:2] == (409, "workload-exists")
    rig.out("m", "commit")
    rig.b.ask("POST", "/v1/inbound/m/resume")
    assert [one["pid"] for one in rig.b.ask("GET", "/v1/workloads")] == [pid]


def test_a_process_without_its_first_thread_is_refused_by_name_and_ended_with_the_others(rig: Rig) -> None:
    source = (
        "import ctypes, os, threading, time\n"
        "if os.fork() == 0:\n"
        "    threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        # exit(2): of one thread
        "    ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)\n"
        "time.sleep(1000)\n"
    )
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    until(lambda: "Zl" in rig.pods[0].run(["ps", "-eo", "stat="]).split())
    seen = rig.a.ask("GET", "/v1/workloads/w")
    (child,) = set(rig.pods[0].children(pid))
    assert [one["message"] for one in seen["problems"]] == [
        f"the first thread of process {child} has ended, and others run on"
    ]
    assert seen["problems"][0]["code"] == "unsupported-process"
    rig.prepare("m", "w")
    assert rig.out("m", "stop")["state"] == "stopped"
    assert rig.pods[0].states(child) == {"Z", "T"}
    rig.out("m", "release")
    assert rig.pods[0].states(child) == {"Z", "S"}
    rig.a.ask("DELETE", "/v1/workloads/w")
    until(lambda: child not in rig.pods[0].pids())


def test_inspection_names_a_descriptor_from_outside(rig: Rig) -> None:
    """A process started from outside the pod, as a shell would, with its output outside."""
    with open("/dev/null", "wb") as outside:
        own_session = "import os; os.setsid(); os.execvp('sleep', ['sleep', '1000'])"
        argv = [PYTHON, "-I", "-S", "-c", own_session]
        process = rig.pods[0].popen(argv, stdin=outside, stdout=outside, stderr=outside)
        until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        host_pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        try:
            status = Path(f"/proc/{host_pid}/status").read_text()
            pid = int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
            _smuggle(rig, "stray", pid)
            until(lambda: rig.a.ask("GET", "/v1/workloads/stray")["workload"]["state"] == "running")
            found = rig.a.ask("GET", "/v1/workloads/stray")["problems"]
            message = "the process has a descriptor opened outside the pod: /dev/null (fd 0)"
            assert message in [one["message"] for one in found]
            rig.prepare("m", "stray")
            rig.out("m", "stop")
            assert rig.a.refused("POST", "/v1/outbound/m/dump")[1:] == ("foreign-descriptor", message)
            assert rig.out("m", "release")["state"] == "released"
        finally:
            os.kill(host_pid, signal.SIGKILL)
            process.send_signal(signal.SIGCONT)  # nsenter stops whenever its child does
            process.wait()


def _smuggle(rig: Rig, name: str, pid: int) -> None:
    """Put a process that the agent did not start on its list, through its state file."""
    rig.a.kill()
    path = rig.pods[0].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    stat = rig.pods[0].run(["cat", f"/proc/{pid}/stat"]).rsplit(")", 1)[1].split()
    root = {"pid": pid, "start_time": int(stat[19])}
    state["workloads"].append({"name": name, "root": root, "argv": SLEEP})
    path.write_text(json.dumps(state) + "\n")
    rig.a.start()


def test_every_refusal_is_an_error_body(rig: Rig) -> None:
    a = rig.a
    assert a.refused("GET", "/nowhere")[:2] == (404, "not-found")
    assert a.refused("DELETE", "/healthz")[:2] == (405, "method-not-allowed")
    assert a.refused("POST", "/v1/workloads", b"{")[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", {"name": "../x", "argv": ["true"]})[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", {"name": "x", "argv": []})[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", b"x" * ((32 << 20) + 1))[:2] == (413, "too-large")
    assert a.refused("POST", "/v1/outbound/m/stop")[:2] == (404, "no-migration")
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 1, "image_key": IMAGE_KEY}
    assert a.refused("PUT", "/v1/outbound/m", body)[:2] == (404, "no-workload")
    assert a.refused("PUT", "/v1/outbound/%2e%2e", body)[0] in (400, 404)


def test_a_wrong_order_is_refused_and_changes_nothing(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    for step in ("dump", "adopt", "seal", "commit"):
        assert rig.a.refused("POST", f"/v1/outbound/m/{step}")[:2] == (409, "wrong-state")
    assert rig.b.refused("POST", "/v1/inbound/m/resume")[:2] == (409, "wrong-state")
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "prepared"
    assert not stopped(rig, pid)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 1, "image_key": IMAGE_KEY}
    assert rig.a.refused("PUT", "/v1/outbound/n", body)[:2] == (409, "already-migrating")
    assert rig.a.refused("DELETE", "/v1/workloads/w")[:2] == (409, "already-migrating")
    rig.out("m", "stop")
    assert rig.a.refused("DELETE", "/v1/outbound/m")[:2] == (409, "wrong-state")
    assert rig.out("m", "stop")["state"] == "stopped"
    rig.out("m", "release")


def test_another_user_may_not_call(rig: Rig) -> None:
    assert oct(rig.a.socket_path.stat().st_mode & 0o777) == "0o600"
    rig.a.socket_path.chmod(0o666)
    folder = rig.pods[0].directory
    try:
        script = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            f"s.connect('{rig.a.socket_path}'); s.sendall(b'GET /healthz HTTP/1.0\\r\\n\\r\\n');"
            "print(s.recv(999).decode())"
        )
        for path in (folder, folder.parent):
            path.chmod(0o755)
        answer = rig.pods[0].run([PYTHON, "-I", "-S", "-c", script])
    finally:
        rig.a.socket_path.chmod(0o600)
    assert " 403 " in answer.splitlines()[0]
    assert "forbidden" in answer


def test_room_and_health(rig: Rig) -> None:
    health = rig.a.ask("GET", "/healthz")
    assert health["criu_version"].startswith("4.")
    room = rig.a.ask("GET", "/v1/room")
    assert room["memory_bytes"] > 0
    assert room["image_bytes"] > 0
    assert 1 in room["pids"]
    assert " /run/criu.kdat " in rig.pods[0].run(["cat", "/proc/self/mountinfo"])
