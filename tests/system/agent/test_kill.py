"""Agents that are killed, at the source and at the destination, and started anew."""

from __future__ import annotations

import contextlib
import json
import threading
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.harness.agent_rig import IMAGE_KEY, PORT, SLEEP, Rig, dumping, halt, ping, stopped, until


@pytest.mark.parametrize(
    "steps",
    [
        (), ("ready",), ("stop",), ("ready", "stop"), ("ready", "stop", "dump"), ("stop", "dump", "adopt"),
        ("ready", "stop", "dump", "adopt", "seal"),
    ],
)  # fmt: skip
def test_a_killed_source_agent_lets_the_workload_go(rig: Rig, steps: tuple[str, ...]) -> None:
    pid = rig.redis()
    with rig.pods[0].connect((rig.pods[0].address, PORT)) as client:
        ping(client)
        rig.prepare("m", "redis")
        if steps:
            rig.out("m", *steps)
        rig.a.restart()
        (custody,) = rig.a.ask("GET", "/v1/migrations")
        assert (custody["state"], custody["reason"]) == ("released", "the agent was started anew")
        assert not stopped(rig, pid)
        assert rig.adopter.held == []
        until(lambda: not rig.criu(rig.pods[0]))
        ping(client)
        assert rig.state(rig.a, "redis") == "running"


LINKED = "cd {0}; echo > one; exec 3< one; ln one other; rm one; exec sleep 1000"


def test_a_killed_source_agent_leaves_no_name_that_it_has_lent(rig: Rig, tmp_path: Path) -> None:
    rig.run("w", ["/bin/sh", "-c", LINKED.format(tmp_path)])
    until(lambda: [path.name for path in tmp_path.iterdir()] == ["other"])
    rig.prepare("m", "w")
    assert (tmp_path / "one (deleted)").exists()
    rig.a.restart()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_agent_killed_during_the_dump_waits_for_criu(rig: Rig) -> None:
    pid = rig.large(400)
    rig.prepare("m", "w")
    rig.out("m", "stop")
    with dumping(rig):
        rig.a.kill()
    rig.a.start()
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "released"
    assert not stopped(rig, pid)
    assert rig.state(rig.a, "w") == "running"
    assert rig.a.ask("GET", "/v1/workloads/w")["problems"] == []


def test_an_agent_killed_in_the_commit_finishes_it(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.out("m", "stop", "dump", "adopt", "seal")
    rig.a.kill()
    path = rig.pods[0].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    state["migrations"][0]["state"] = "committing"  # as it stands between the record and the signals
    path.write_text(json.dumps(state) + "\n")
    rig.a.start()
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "committed"
    until(lambda: pid not in rig.pods[0].pids())
    assert rig.out("m", "commit")["state"] == "committed"


def test_a_killed_destination_agent_keeps_a_restored_copy_stopped(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    rig.b.restart()
    assert rig.b.ask("GET", "/v1/migrations")[0]["state"] == "restored"
    assert pid in rig.pods[1].pids()
    rig.out("m", "commit")
    rig.b.ask("POST", "/v1/inbound/m/resume")
    assert rig.state(rig.b, "w") == "running"


def test_a_killed_destination_agent_has_no_key_and_restores_no_more(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    rig.b.restart()
    (custody,) = rig.b.ask("GET", "/v1/migrations")
    assert (custody["state"], custody["reason"]) == ("discarded", "the agent was started anew")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == (409, "wrong-state")
    assert pid not in rig.pods[1].pids()
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


def test_a_killed_destination_agent_leaves_no_partial_copy(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    rig.b.kill()
    path = rig.pods[1].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    state["migrations"][0]["state"] = "restoring"  # as it stands while CRIU works
    path.write_text(json.dumps(state) + "\n")
    rig.b.start()
    assert rig.b.ask("GET", "/v1/migrations")[0]["state"] == "discarded"
    until(lambda: pid not in rig.pods[1].pids())


def test_who_has_a_pid_of_the_copys_is_no_partial_copy(rig: Rig) -> None:
    """A copy in the original's own pod is refused; an agent killed meanwhile ended the original at its restart."""
    rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    rig.a.ask("PUT", "/v1/inbound/copy", {"workload": "v", "argv": [], "image_key": IMAGE_KEY})
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    path = rig.pods[0].directory / "agent" / "state.json"
    before = len(path.read_text())
    assert rig.a.refused("POST", "/v1/inbound/copy/restore", body)[:2] == (409, "pid-taken")
    states = path.read_text()[before:]
    assert '"state":"restoring"' not in states, "at no time could the next agent take the original for a partial copy"
    rig.a.restart()
    assert rig.state(rig.a, "w") == "running"


def test_who_has_a_pid_of_a_copys_that_is_gone_is_left_alone(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    rig.b.kill()
    rig.pods[1].run(["kill", "-9", str(pid)])
    until(lambda: pid not in rig.pods[1].pids())
    with rig.pods[1].sleeper(pid):
        rig.b.start()
        assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"


def test_a_killed_destination_agent_leaves_no_files(rig: Rig, tmp_path: Path) -> None:
    """Tar, which was unpacking them, does not go on beside the agent that clears them away."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    for number in range(20):
        (ours / str(number)).mkdir(parents=True)
        for other in range(400):
            (ours / str(number) / str(other)).touch()
    rig.pods[1].run(["mount", "--bind", str(theirs), str(ours)])
    rig.b.restart()
    rig.run("w", SLEEP)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 9, "image_key": IMAGE_KEY}
    rig.a.ask("PUT", "/v1/outbound/m", body | {"files": {"named": [str(ours)]}})
    packed = rig.out("m", "pack")
    rig.b.ask("PUT", "/v1/inbound/m", {"workload": "w", "argv": [], "image_key": IMAGE_KEY})

    def stage() -> None:
        with contextlib.suppress(OSError, HTTPException):
            rig.b.call("POST", "/v1/inbound/m/stage", packed)

    thread = threading.Thread(target=stage)
    thread.start()
    halt(rig.pods[1], "tar")
    rig.b.kill()
    thread.join()
    until(lambda: "tar" not in rig.pods[1].run(["ps", "-eo", "comm="]).split())
    rig.b.start()
    assert list(theirs.iterdir()) == []
    rig.clean()
    rig.b.kill()
    rig.pods[1].run(["umount", str(ours)])
    rig.b.start()


def test_a_discarded_copy_is_killed(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"
    until(lambda: pid not in rig.pods[1].pids())  # dead already; the pod's PID 1 still has to reap it
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"
