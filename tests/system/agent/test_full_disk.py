"""No room for the agent's record: what cannot be written down is not done, and can be asked for again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.harness.agent_rig import SLEEP, Rig, stopped, until
from tests.harness.solo_agent import SoloAgent
from tests.harness.solo_pod import SoloPod

NO_SPACE = (507, "no-space")


@contextlib.contextmanager
def small_disk(agent: SoloAgent) -> Iterator[None]:
    """The agent keeps its record where there is room for little else."""
    folder = str(agent.pod.directory / "agent")
    agent.pod.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder])
    agent.restart()
    try:
        yield
    finally:
        agent.kill()
        agent.pod.run(["umount", folder])
        agent.start()


@contextlib.contextmanager
def full(agent: SoloAgent) -> Iterator[None]:
    """To the last byte: the end of the record's own page, too."""
    folder = agent.pod.directory / "agent"
    agent.pod.run(["sh", "-c", f"cat /dev/zero > {folder}/filler; truncate -s %4096 {folder}/state.json; true"])
    yield
    agent.pod.run(["rm", f"{folder}/filler"])


def programs(pod: SoloPod) -> list[str]:
    """The names of those that run in it."""
    return pod.run(["ps", "-eo", "comm="]).split()


def sealed(rig: Rig) -> int:
    """A workload w on its way, by m: restored, and everything left to do is the commit."""
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    return pid


def test_a_commit_that_cannot_be_put_on_record_is_none(rig: Rig) -> None:
    """Else the next agent would let the source go on, beside its copy."""
    with small_disk(rig.a):
        pid = sealed(rig)
        with full(rig.a):
            for _ in range(2):
                assert rig.a.refused("POST", "/v1/outbound/m/commit")[:2] == NO_SPACE
            assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "sealed"
        assert rig.out("m", "commit")["state"] == "committed"
        until(lambda: pid not in rig.pods[0].pids())
        rig.b.ask("POST", "/v1/inbound/m/resume")
        rig.a.restart()
        assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "committed"
        assert rig.state(rig.b, "w") == "running"
        rig.a.ask("DELETE", "/v1/outbound/m")


def test_and_the_workload_may_go_back_all_the_same(rig: Rig) -> None:
    with small_disk(rig.a):
        pid = sealed(rig)
        with full(rig.a):
            assert rig.a.refused("POST", "/v1/outbound/m/commit")[:2] == NO_SPACE
            assert rig.out("m", "release")["state"] == "released"
            assert not stopped(rig, pid)
            rig.a.ask("DELETE", "/v1/outbound/m")
        rig.a.ask("DELETE", "/v1/workloads/w")


def test_a_workload_is_resumed_once_that_is_on_record(rig: Rig) -> None:
    """Else it would be said to run, and stand still for ever."""
    with small_disk(rig.b):
        sealed(rig)
        rig.out("m", "commit")
        with full(rig.b):
            for _ in range(2):
                assert rig.b.refused("POST", "/v1/inbound/m/resume")[:2] == NO_SPACE
            assert rig.b.ask("GET", "/v1/workloads") == []
        assert rig.b.ask("POST", "/v1/inbound/m/resume")["state"] == "resumed"
        assert rig.state(rig.b, "w") == "running"
        rig.b.ask("DELETE", "/v1/inbound/m")
        rig.b.ask("DELETE", "/v1/workloads/w")


def test_nothing_is_left_of_what_is_refused_before(rig: Rig) -> None:
    """Not of a start, a preparation, a stop and a restore either."""
    with small_disk(rig.a), small_disk(rig.b):
        pid = rig.run("w", SLEEP)
        rig.prepare("m", "w")
        with full(rig.a):
            assert rig.a.refused("POST", "/v1/workloads", {"name": "v", "argv": SLEEP})[:2] == NO_SPACE
            body = {"workload": "w", "readdress": {}, "max_hold_seconds": 9, "image_key": "00" * 32}
            rig.a.ask("POST", "/v1/outbound/m/release")
            assert rig.a.refused("PUT", "/v1/outbound/other", body)[:2] == NO_SPACE
            rig.a.ask("DELETE", "/v1/outbound/m")
            until(lambda: programs(rig.pods[0]).count("sleep") == 1 and "criu" not in programs(rig.pods[0]))
        rig.b.ask("DELETE", "/v1/inbound/m")
        rig.prepare("m", "w")
        with full(rig.a):
            assert rig.a.refused("POST", "/v1/outbound/m/stop")[:2] == NO_SPACE
            assert not stopped(rig, pid)
        answer = rig.out("m", "stop", "dump", "adopt", "seal")
        with full(rig.b):
            body = {"images": answer["images"], "manifest_digest": answer["manifest_digest"]}
            assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == NO_SPACE
            assert pid not in rig.pods[1].pids()
        rig.restore("m", answer)
        rig.b.ask("DELETE", "/v1/inbound/m")
        until(lambda: pid not in rig.pods[1].pids())
        rig.out("m", "release")
        rig.a.ask("DELETE", "/v1/outbound/m")
        rig.a.ask("DELETE", "/v1/workloads/w")
