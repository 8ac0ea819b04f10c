"""Images that were changed, another key, a PID that is taken: nothing of it survives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness.agent_rig import IMAGE_KEY, SLEEP, Rig, until


@pytest.mark.parametrize("name", ["pages-1.img", "files.img", "manifest"])
def test_one_damaged_byte_is_found_and_nothing_survives(rig: Rig, name: str) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    with open(Path(sealed["images"]) / name, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    status, code, message = rig.b.refused("POST", "/v1/inbound/m/restore", body)
    assert (status, code) == (422, "image-damaged")
    assert name in message
    until(lambda: pid not in rig.pods[1].pids())
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


def test_pages_damaged_in_a_large_image_are_found_beside_criu(rig: Rig) -> None:
    pid = rig.large(80)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    with open(Path(sealed["images"]) / "pages-1.img", "r+b") as file:
        file.seek(40 << 20)
        file.write(b"y")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusal = (422, "image-damaged", "the file pages-1.img changed after it was sealed")
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body) == refusal
    until(lambda: pid not in rig.pods[1].pids())
    rig.out("m", "release")


def test_the_agents_must_have_the_same_key_and_write_it_nowhere(rig: Rig) -> None:
    rig.run("w", SLEEP)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 30, "image_key": IMAGE_KEY}
    rig.a.ask("PUT", "/v1/outbound/m", body)
    assert rig.a.ask("PUT", "/v1/outbound/m", body)["state"] == "prepared"
    other = {**body, "image_key": "f" * 64}
    status, code, message = rig.a.refused("PUT", "/v1/outbound/m", other)
    assert (status, code) == (409, "wrong-state")
    assert "f" * 64 not in message
    for bad in ("", "f" * 63, "f" * 65, "F" * 64, "f" * 64 + "\n", "x" * 64):
        assert rig.a.refused("PUT", "/v1/outbound/n", {**body, "image_key": bad})[:2] == (400, "bad-request")
    rig.b.ask("PUT", "/v1/inbound/m", {"workload": "w", "argv": [], "image_key": "f" * 64})
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == (422, "image-damaged")
    for pod in rig.pods:
        kept = [path.read_text() for path in (pod.directory / "agent.log", pod.directory / "agent" / "state.json")]
        assert not [text for text in kept if IMAGE_KEY in text or "f" * 64 in text]
    raw = b"".join(path.read_bytes() for path in Path(sealed["images"]).iterdir())
    assert IMAGE_KEY.encode() not in raw
    assert bytes.fromhex(IMAGE_KEY) not in raw
    rig.out("m", "release")


def test_a_taken_pid_is_named(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusal = (409, "pid-taken", f"the PID {pid} is taken in this pod")
    with rig.pods[1].sleeper(pid):
        assert rig.b.refused("POST", "/v1/inbound/m/restore", body) == refusal
        assert pid in rig.pods[1].pids()  # whoever has it is none of ours
