"""Pods as the command line lists and deletes them, and what their proxies relay; sidecars answer on real sockets."""

from __future__ import annotations

import json

import msgspec
import pytest

from checkpoint.api import Workload
from controller.commands import pods
from controller.commands.workloads import find_workload
from controller.core.errors import Refused
from controller.lab.lab import Lab
from controller.lab.pod import save
from proxy.api import Endpoint, FlowView
from tests.harness.stand_ins import stands

LIST, FLOWS = "GET /v1/workloads", "GET /v1/flows"
END = Endpoint("10.0.0.9", 1)
FLOW = FlowView("m", 1, "source", END, END, "", "inbound", "relaying", 0, 0, 0)


async def test_each_pod_is_listed_with_what_runs_in_it(capsys):
    async with stands("a", "b") as (home, (a, b)):
        a.agent.answers[LIST] = [Workload("w", 20_001, ["server"], "running")]
        save(msgspec.structs.replace(b.pod, pid1=0))
        await pods.list_pods(home, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["alive"], len(row["workloads"])) for row in rows] == [("a", True, 1), ("b", False, 0)]
    assert rows[0]["address"] == a.pod.address


@pytest.mark.parametrize(
    ("state", "flows", "words"),
    [("running", [], "pod a runs w"), ("stopped", [FLOW], "pod a runs w"), ("exited", [FLOW], "pod a relays 1 flow")],
)
async def test_none_of_them_is_deleted_while_one_is_used(state, flows, words):
    async with stands("unused", "a") as (home, (unused, a)):
        unused.agent.answers[LIST], unused.proxy.answers[FLOWS] = [], []
        a.agent.answers[LIST], a.proxy.answers[FLOWS] = [Workload("w", 20_001, ["server"], state)], flows
        with pytest.raises(Refused, match=words) as caught:
            await pods.delete_pods(home, ["unused", "a"], force=False)
        assert caught.value.code == "pod-in-use"
        assert "--force" in caught.value.hint
        assert unused.pod.agent_socket.exists()


async def test_a_pod_that_does_not_answer_is_not_deleted_in_passing():
    async with stands("a") as (home, (a,)):
        a.pod.agent_socket.unlink()
        with pytest.raises(Refused, match="it is not known what pod a does") as caught:
            await pods.delete_pods(home, ["a"], force=False)
        assert "--force" in caught.value.hint


async def test_a_pod_that_does_not_answer_hides_no_other(capsys):
    """Also one that somebody is just making."""
    async with stands("a", "b") as (home, (a, b)):
        a.pod.agent_socket.unlink()
        b.agent.answers[LIST] = [Workload("w", 20_001, ["server"], "running")]
        await pods.list_pods(home, as_json=True)
        assert (await find_workload(Lab(home), "w", None)).name == "b"
        with pytest.raises(Refused, match="no workload 'x' in any pod, as far as they answer; a: no answer"):
            await find_workload(Lab(home), "x", None)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["alive"], row["answers"], len(row["workloads"])) for row in rows] == [
        (True, False, 0),
        (True, True, 1),
    ]


async def test_a_pod_that_is_named_twice_is_neither_deleted_nor_made(tmp_path):
    async with stands("a") as (home, (a,)):
        with pytest.raises(Refused, match="a: named twice"):
            await pods.delete_pods(home, ["a", "a"], force=True)
        assert a.pod.agent_socket.exists()
    with pytest.raises(Refused, match="a: named twice"):
        await pods.create_pods(tmp_path / "home", ["a", "b", "a"], pods.PodRequest(None, False, False, ()))
    assert not (tmp_path / "home").exists()


async def test_the_flows_of_all_living_pods_are_shown_with_their_pod(capsys):
    async with stands("a", "b", "dead") as (home, (a, b, dead)):
        a.proxy.answers[FLOWS], b.proxy.answers[FLOWS] = [FLOW], []
        save(msgspec.structs.replace(dead.pod, pid1=0))
        await pods.show_flows(home, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["pod"], row["flow"], row["state"]) == ("a", 1, "relaying")
    assert dead.proxy.asked == []
