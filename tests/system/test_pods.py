"""Pods on this machine: what is in them, what they reach, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from controller.lab import errors, network
from controller.lab.addressing import first_pid
from controller.lab.lab import Lab
from controller.lab.namespaces import in_network, spawn_in
from controller.lab.pod import PROXY_UID, Pod
from controller.lab.readiness import healthy, wait_ready

NAMESPACES = ("net", "pid", "mnt", "ipc", "uts")
CREATE = (
    "import asyncio, sys, pyroute2; from controller.lab.lab import Lab; print('here', flush=True);"
    "asyncio.run(Lab(sys.argv[1]).create('a', sidecars=False))"
)


@pytest.fixture
async def lab(home):
    lab = Lab(home)
    yield lab
    await lab.delete_all()


def inside(pod: Pod, script: str) -> str:
    """What a shell in the pod prints."""
    argv = ["nsenter", "-a", "-t", str(pod.pid1), "/bin/sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def namespace(pid: int | str, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def links() -> set[str]:
    """The host's."""
    return {name for _, name in socket.if_nameindex()}


def start_inside(pod: Pod, script: str) -> None:
    """Leaves a process behind in the pod, in a session of its own, as an orphan for the pod's PID 1."""
    inside(pod, f"setsid sh -c '{script}' </dev/null >/dev/null 2>&1 & sleep 0.05")


async def test_a_pod_has_five_namespaces_of_its_own(lab):
    a, b = [await lab.create(name, sidecars=False) for name in ("a", "b")]
    for kind in NAMESPACES:
        assert len({namespace(pid, kind) for pid in ("self", a.pid1, b.pid1)}) == 3
    assert inside(a, "hostname") == "a"
    assert inside(a, "cat /proc/1/comm").startswith("python")
    assert inside(a, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "0"


async def test_a_pod_sees_the_same_files_and_its_mounts_stay_its_own(lab):
    a = await lab.create("a", sidecars=False)
    assert inside(a, f"ls {a.directory}/pod.json") == f"{a.directory}/pod.json"
    inside(a, f"mount -t tmpfs none {a.directory}/agent")
    assert f"{a.directory}/agent" not in Path("/proc/self/mountinfo").read_text()


async def test_a_root_of_its_own_keeps_what_is_written_to_itself(lab, tmp_path):
    seen, shared = tmp_path / "seen", tmp_path / "shared"
    seen.write_text("the machine's\n")
    shared.mkdir()
    options = {"sidecars": False, "own_root": True, "shared": [str(shared)]}
    a, b = await asyncio.gather(*(lab.create(name, **options) for name in ("a", "b")))
    assert inside(a, f"cat {seen}") == "the machine's"
    inside(a, f"echo its own > {seen}; touch {tmp_path}/new {shared}/both; rm /etc/hostname")
    assert (
        inside(a, f"cat {seen}; cd {tmp_path}; find . | sort") == "its own\n.\n./new\n./seen\n./shared\n./shared/both"
    )
    assert inside(b, f"cat {seen}; cd {tmp_path}; find . | sort") == "the machine's\n.\n./seen\n./shared\n./shared/both"
    assert Path("/etc/hostname").exists()
    assert (a.layer / "etc/hostname").is_char_device()
    mounts = inside(a, "cut -d ' ' -f 5 /proc/1/mountinfo")
    assert "merged" not in mounts
    assert {"/proc", "/dev/pts", str(shared), str(lab.home)} <= set(mounts.splitlines())


async def test_the_first_process_holds_no_descriptor_of_another_mount_namespace(lab):
    a = await lab.create("a", sidecars=False)
    own = set(re.findall(r"^(\d+) ", inside(a, "cat /proc/1/mountinfo"), re.MULTILINE))
    held = set(re.findall(r"mnt_id:\s*(\d+)", inside(a, "cat /proc/1/fdinfo/[012]")))
    assert held <= own


async def test_the_pids_of_two_pods_come_from_disjoint_blocks(lab):
    a, b = [await lab.create(name, sidecars=False) for name in ("a", "b")]
    pid_max = int(inside(a, "cat /proc/sys/kernel/pid_max"))
    assert first_pid(1, pid_max) <= int(inside(a, "sh -c 'echo $$'")) < first_pid(2, pid_max)
    assert first_pid(2, pid_max) <= int(inside(b, "sh -c 'echo $$'")) < first_pid(3, pid_max)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_pods_and_the_host_reach_each_other(lab, family):
    a, b = [await lab.create(name, sidecars=False) for name in ("a", "b")]
    address = a.address if family == socket.AF_INET else a.address6
    with in_network(a, lambda: socket.create_server((address, 80), family=family)) as listener:
        from_b = in_network(b, lambda: socket.create_connection((address, 80), timeout=30))
        from_host = socket.create_connection((address, 80), timeout=30)
        for client, expected in ((from_b, b.address if family == socket.AF_INET else b.address6), (from_host, None)):
            accepted, peer = listener.accept()
            assert expected in (None, peer[0])
            accepted.close()
            client.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_who_had_talked_to_a_pod_reaches_its_successor_at_once(lab, family):
    b = await lab.create("b", sidecars=False)
    addresses = set()
    for _ in range(2):
        a = await lab.create("a", sidecars=False)
        address = a.address if family == socket.AF_INET else a.address6
        addresses.add(address)
        with in_network(a, lambda at=address: socket.create_server((at, 80), family=family)):
            in_network(b, lambda at=address: socket.create_connection((at, 80), timeout=30)).close()
        await lab.delete("a")
    assert len(addresses) == 1


async def test_an_orphan_is_reaped(lab):
    a = await lab.create("a", sidecars=False)
    start_inside(a, "exec true")
    for _ in range(100):
        if "Z" not in inside(a, "cut -d ' ' -f 3 /proc/[0-9]*/stat 2>/dev/null; true"):
            return
        await asyncio.sleep(0.01)
    pytest.fail("there is still a zombie")


async def test_nothing_of_a_pod_stays_whatever_runs_in_it(lab, home):
    a = await lab.create("a", sidecars=False)
    start_inside(a, 'trap "" TERM; while :; do sleep 1; done')
    start_inside(a, "kill -STOP $$")
    inside(a, f"touch {a.images}/pages-1.img")
    await lab.delete("a")
    assert not a.alive
    assert not home.exists()
    assert not Path(a.images).parent.exists()
    assert a.link not in links()


async def test_the_bridge_goes_with_the_last_pod(lab, home):
    a, _ = [await lab.create(name, sidecars=False) for name in ("a", "b")]
    bridge = a.link.rpartition("-")[0]
    await lab.delete("a")
    assert bridge in links()
    await lab.delete("b")
    assert bridge not in links()


async def test_what_is_kept_in_the_home_stays_there(lab, home):
    await lab.create("a", sidecars=False)
    (home / "migrations").mkdir()
    await lab.delete("a")
    assert [path.name for path in home.iterdir()] == ["migrations"]
    (home / "migrations").rmdir()
    home.rmdir()


async def test_a_dead_pod_is_listed_and_makes_room_for_a_new_one(lab):
    a = await lab.create("a", sidecars=False)
    await asyncio.to_thread(a.process.end, 0)
    assert [(pod.name, pod.alive) for pod in lab.pods()] == [("a", False)]
    with pytest.raises(errors.PodGone):
        in_network(a, lambda: None)
    again = await lab.create("a", sidecars=False)
    assert again.alive
    assert again.pid1 != a.pid1
    assert again.address == a.address


async def test_a_name_can_be_had_once(lab):
    results = await asyncio.gather(*(lab.create("a", sidecars=False) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results if isinstance(result, Exception)] == [errors.PodExists] * 2
    assert [pod.name for pod in lab.pods()] == ["a"]


async def test_pods_that_are_created_at_once_are_numbered_in_the_order_of_the_calls(lab):
    pods = await asyncio.gather(*(lab.create(name, sidecars=False) for name in ("z", "y", "x")))
    assert [pod.index for pod in pods] == [1, 2, 3]


async def test_two_labs_have_addresses_of_their_own(lab, home):
    other = Lab(home.with_name(f"{home.name}b"))
    try:
        a, b = await asyncio.gather(lab.create("a", sidecars=False), other.create("a", sidecars=False))
        assert a.address != b.address
        assert a.address6 != b.address6
        await other.delete("a")
        assert a.alive
        assert a.link in links()
    finally:
        await other.delete_all()


@pytest.mark.parametrize("milliseconds", [0, 15, 30, 50, 75, 100, 200])
async def test_a_creator_that_is_killed_leaves_what_delete_clears_away(lab, home, milliseconds):
    with subprocess.Popen([sys.executable, "-c", CREATE, str(home)], stdout=subprocess.PIPE) as creator:
        assert creator.stdout is not None
        assert creator.stdout.readline() == b"here\n"
        await asyncio.sleep(milliseconds / 1000)
        creator.kill()
    a = await lab.create("a", sidecars=False) if not any(pod.alive for pod in lab.pods()) else lab.pod("a")
    assert inside(a, "echo here") == "here"
    await lab.delete("a")
    assert not home.exists()


async def test_a_creation_that_is_cancelled_leaves_nothing(lab, home):
    creating = asyncio.create_task(lab.create("a", sidecars=False))
    await asyncio.sleep(0.02)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert not home.exists()


async def test_the_memory_limit_holds(lab):
    a = await lab.create("a", memory_bytes=64 << 20, sidecars=False)
    held = "import mmap; m = mmap.mmap(-1, 128 << 20); [m.write(bytes(1 << 20)) for _ in range(128)]"
    group = Path(a.cgroup)
    assert str(a.pid1) in (group / "cgroup.procs").read_text().split()
    limited = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {held}"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", limited], check=False)
    assert done.returncode == -signal.SIGKILL
    await lab.delete("a")
    assert not group.exists()


async def test_a_program_can_be_started_in_a_pods_network(lab):
    a = await lab.create("a", sidecars=False)
    program = spawn_in(a, ["readlink", "/proc/self/ns/net", "/proc/self/ns/pid"], stdout=subprocess.PIPE)
    output, _ = program.communicate(timeout=30)
    assert output.decode().split() == [namespace(a.pid1, "net"), namespace("self", "pid")]


async def test_what_cannot_be_is_refused_in_words(lab, home):
    with pytest.raises(errors.NoSuchPod):
        lab.pod("a")
    with pytest.raises(errors.NoSuchPod):
        await lab.delete("a")
    with pytest.raises(errors.BadName):
        await lab.create("A")
    with pytest.raises(errors.HomePathTooLong):
        await Lab(home / ("x" * 100)).create("a")
    with pytest.raises(errors.NetworkBroken):
        await asyncio.to_thread(network.remove_link, "lo")
    assert not home.exists()


async def test_a_pod_is_ready_when_its_sidecars_serve_and_they_are_restarted_when_they_die(lab):
    a = await lab.create("a")
    assert await healthy(a.agent_socket)
    assert await healthy(a.proxy_socket)
    before = children(a.pid1)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in range(3000):
        if len(after := children(a.pid1)) == 2 and not set(after) & set(before):
            break
        await asyncio.sleep(0.01)
    await wait_ready(a)
    log = a.log("init").read_text()
    assert "proxy (PID 2) ended with -9" in log
    assert "agent (PID 3) ended with -9" in log


async def test_the_proxy_is_confined_and_the_agent_is_not(lab):
    a = await lab.create("a")
    proxy, agent = [Path(f"/proc/{pid}/status").read_text() for pid in children(a.pid1)]
    assert re.search(rf"^Uid:\t{PROXY_UID}\t{PROXY_UID}\t{PROXY_UID}\t{PROXY_UID}$", proxy, re.MULTILINE)
    assert re.search(r"^CapEff:\t0000000000001000$", proxy, re.MULTILINE)  # CAP_NET_ADMIN and nothing else
    assert re.search(r"^Uid:\t0\t0\t0\t0$", agent, re.MULTILINE)


async def test_a_sidecar_sees_nothing_of_its_creators_environment(lab, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of the caller's")
    a = await lab.create("a")
    for pid in (a.pid1, *children(a.pid1)):
        assert "A_SECRET" not in Path(f"/proc/{pid}/environ").read_text()


def children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
