"""A pod's record."""

from __future__ import annotations

import os

import msgspec
import pytest

from controller.lab.pod import Pod, load, save
from controller.lab.process import Process


@pytest.fixture
def pod(tmp_path):
    return Pod("a", 1, "198.18.3.1", "", str(tmp_path), "midst-3-1", "/dev/shm/midstream-3/a")


def test_what_is_saved_is_loaded(pod, tmp_path):
    save(pod)
    assert load(tmp_path) == pod
    other = msgspec.structs.replace(pod, pid1=7)
    save(other)
    assert load(tmp_path) == other
    assert [path.name for path in tmp_path.iterdir()] == ["pod.json"]


@pytest.mark.parametrize("content", ["", "{", '{"name": "a"}', "[]"])
def test_what_is_no_record_is_none(content, tmp_path):
    assert load(tmp_path) is None
    assert load(tmp_path / "missing") is None
    (tmp_path / "pod.json").write_text(content)
    assert load(tmp_path) is None
    assert load(tmp_path / "pod.json") is None


def test_its_sockets_and_logs_are_in_its_folder(pod, tmp_path):
    assert pod.agent_socket == tmp_path / "agent.sock"
    assert pod.proxy_socket == tmp_path / "proxy" / "control.sock"
    assert pod.adopt_socket == tmp_path / "proxy" / "adopt.sock"
    assert pod.log("redis") == tmp_path / "redis.log"


def test_it_is_alive_as_long_as_its_first_process(pod):
    assert not pod.alive
    me = Process.of(os.getpid())
    complete = msgspec.structs.replace(pod, pid1=me.pid, start_ticks=me.start_ticks, complete=True)
    assert complete.alive
    assert not msgspec.structs.replace(complete, start_ticks=me.start_ticks + 1).alive
    assert not msgspec.structs.replace(complete, complete=False).alive
