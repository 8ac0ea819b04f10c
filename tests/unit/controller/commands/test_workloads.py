"""Workloads as the command line finds, starts and checks them; the agents answer over their real sockets."""

from __future__ import annotations

import json

import msgspec
import pytest

import checkpoint.api as agent_api
from controller.commands import workloads
from controller.core.errors import EXIT_REFUSED, Refused
from controller.lab.lab import Lab
from controller.lab.pod import save
from tests.harness.stand_ins import Stand, stands

LIST, RUN, INSPECT = "GET /v1/workloads", "POST /v1/workloads", "GET /v1/workloads/w"
W = agent_api.Workload("w", 20_001, ["server"], "running")


def have(stand: Stand, *names: str) -> None:
    stand.agent.answers[LIST] = [msgspec.structs.replace(W, name=name) for name in names]


async def test_a_workload_is_found_wherever_it_is_and_named_pods_are_the_only_ones_asked():
    async with stands("a", "b") as (home, (a, b)):
        have(a, "other")
        have(b, "w")
        assert (await workloads.find_workload(Lab(home), "w", None)).name == "b"
        asked = len(b.agent.asked)
        with pytest.raises(Refused, match="no workload 'w' in pod a"):
            await workloads.find_workload(Lab(home), "w", "a")
        assert len(b.agent.asked) == asked
        with pytest.raises(Refused, match="no workload 'x' in any pod"):
            await workloads.find_workload(Lab(home), "x", None)


async def test_where_several_pods_have_it_one_has_to_be_named():
    async with stands("a", "b") as (home, (a, b)):
        have(a, "w")
        have(b, "w")
        with pytest.raises(Refused, match="in the pods a, b") as caught:
            await workloads.find_workload(Lab(home), "w", None)
        assert caught.value.code == "ambiguous-workload"
        assert (await workloads.find_workload(Lab(home), "w", "b")).name == "b"


async def test_a_name_that_has_ended_elsewhere_is_no_other_s():
    async with stands("a", "b", "c") as (home, (a, b, c)):
        ended = msgspec.structs.replace(W, state="exited")
        a.agent.answers[LIST] = c.agent.answers[LIST] = [ended]
        have(b, "w")
        assert (await workloads.find_workload(Lab(home), "w", None)).name == "b"
        b.agent.answers[LIST] = [ended]
        with pytest.raises(Refused, match="in the pods a, b, c"):
            await workloads.find_workload(Lab(home), "w", None)


async def test_dead_pods_and_those_without_an_agent_have_none():
    async with stands("a", "b", "c") as (home, (a, b, c)):
        save(msgspec.structs.replace(a.pod, pid1=0))
        save(msgspec.structs.replace(b.pod, sidecars=False))
        have(c, "w")
        found = await workloads.workloads_of(Lab(home).pods())
    assert [(pod.name, [one.name for one in theirs]) for pod, theirs in found] == [("a", []), ("b", []), ("c", ["w"])]
    assert a.agent.asked == b.agent.asked == []


async def test_a_workload_has_a_clean_environment_and_what_was_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    async with stands("a") as (home, (a,)):
        a.agent.answers[RUN] = W
        await workloads.run_workload(home, "a", "w", ["server"], ["KEY=a=b", "HOME="], "/srv")
        ((_, said),) = a.agent.asked
        with pytest.raises(Refused, match="'KEY' is not KEY=VALUE"):
            await workloads.run_workload(home, "a", "w", ["server"], ["KEY"], "/srv")
    assert said["environment"] == workloads.base_environment() | {"KEY": "a=b", "HOME": ""}
    assert (said["argv"], said["directory"]) == (["server"], "/srv")
    assert f"process 20001 in pod a, {a.pod.address}" in capsys.readouterr().out


@pytest.mark.parametrize("problems", [[], [agent_api.Problem("lock-held", "a lock", "request")]])
async def test_a_check_says_what_would_stand_in_the_way_by_its_exit_status(capsys, problems):
    async with stands("a", cleartext_links=True) as (home, (a,)):
        have(a, "w")
        a.agent.answers[INSPECT] = agent_api.Inspection(W, [20_001], 5 << 20, 3, [80], problems)
        a.agent.answers["GET /healthz"] = agent_api.Health("1", "4.2.1", "6.12", "x86_64")
        status = await workloads.check_workload(home, "w", None, as_json=True)
    view = json.loads(capsys.readouterr().out)
    assert status == (EXIT_REFUSED if problems else 0)
    assert (view["connections"], view["links"], view["memory_bytes"]) == (3, "cleartext", 5 << 20)
    assert view["memory"]["way"] == "stop-and-copy"
    assert 0 < view["memory"]["freeze_seconds"] < view["memory"]["total_seconds"]
    assert view["warnings"] == []
    assert [one["code"] for one in view["problems"]] == [one.code for one in problems]


async def test_a_check_says_which_locks_depend_on_the_destination(capsys):
    locks = [
        agent_api.FileLock("/var/db", "flock", "/", "8:1 /"),
        agent_api.FileLock("/srv/db", "flock", "/srv", "8:2 /"),
    ]
    async with stands("a") as (home, (a,)):
        have(a, "w")
        held = agent_api.Belongings(locks=locks)
        a.agent.answers[INSPECT] = agent_api.Inspection(W, [20_001], 5 << 20, 3, [80], [], held)
        a.agent.answers["GET /healthz"] = agent_api.Health("1", "4.2.1", "6.12", "x86_64")
        assert await workloads.check_workload(home, "w", None, as_json=True) == EXIT_REFUSED
    view = json.loads(capsys.readouterr().out)
    assert ["/var/db" in one["message"] for one in view["problems"]] == [True]
    assert ["/srv/db" in one["message"] for one in view["warnings"]] == [True]


async def test_a_check_warns_of_a_freeze_that_is_longer_than_a_move_would_wait(capsys):
    async with stands("a") as (home, (a,)):
        have(a, "w")
        a.agent.answers[INSPECT] = agent_api.Inspection(W, [20_001], 1 << 50, 3, [80], [])
        a.agent.answers["GET /healthz"] = agent_api.Health("1", "4.2.1", "6.12", "x86_64")
        assert await workloads.check_workload(home, "w", None, as_json=False) == 0
    said = capsys.readouterr().out
    assert "! the freeze is predicted to take" in said
    assert "→ raise --max-hold" in said
