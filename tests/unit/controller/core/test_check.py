"""The rules of `midstream check`: for each, a machine that passes and one that does not."""

from __future__ import annotations

import msgspec
import pytest

from controller.core.check import PROBES, REQUIRED_CAPABILITIES, REQUIRED_OPTIONS, Facts, can_move, judge, version_of

GOOD = Facts(
    uid=0,
    capabilities=REQUIRED_CAPABILITIES | {"SYS_RESOURCE"},
    kernel="6.18.44-fc",
    options=dict.fromkeys([*REQUIRED_OPTIONS, "MEM_SOFT_DIRTY", "USERFAULTFD"], True),
    probes=dict.fromkeys(PROBES, ""),
    criu_path="/x/.criu/criu",
    criu_version="4.2.1",
    criu_complaint="",
    pycriu_complaint="",
    redis_path="/usr/bin/redis-server",
    pid_max=4194304,
    somaxconn=4096,
    open_files=20000,
    pipe_user_pages_soft=0,
    image_filesystem="tmpfs",
    image_bytes=1 << 30,
    memory_controller=2,
    bridge_filtered=False,
)


def verdict(name: str, **changes: object):
    """The rule's line for the good machine with some facts changed."""
    return next(line for line in judge(msgspec.structs.replace(GOOD, **changes)) if line.name == name)


def test_a_good_machine_passes_every_rule_and_needs_no_remedy():
    lines = judge(GOOD)
    assert {line.status for line in lines} == {"ok"}
    assert all(line.detail and not line.remedy for line in lines)
    assert len({line.name for line in lines}) == len(lines)
    assert can_move(lines)


@pytest.mark.parametrize(
    ("name", "changes", "status", "says"),
    [
        ("root", {"uid": 1000}, "failed", "user 1000"),
        ("capabilities", {"capabilities": frozenset()}, "failed", "NET_ADMIN"),
        ("capabilities", {"capabilities": REQUIRED_CAPABILITIES}, "warning", "SYS_RESOURCE"),
        ("kernel", {"kernel": "5.9.16"}, "failed", "5.9.16"),
        ("kernel", {"kernel": "strange"}, "failed", "strange"),
        ("kernel options", {"options": None}, "warning", "does not tell"),
        ("kernel options", {"options": {}}, "failed", "CHECKPOINT_RESTORE"),
        ("CRIU", {"criu_path": ""}, "failed", "not found"),
        ("CRIU", {"criu_version": "4.1.1"}, "failed", "4.1.1"),
        ("CRIU", {"criu_version": ""}, "failed", "unknown"),
        ("CRIU", {"criu_complaint": "Looks bad."}, "failed", "Looks bad."),
        ("pycriu", {"pycriu_complaint": "No module named pycriu"}, "failed", "No module"),
        ("redis-server", {"redis_path": ""}, "warning", "not found"),
        ("/dev/shm", {"image_filesystem": ""}, "failed", "nothing is mounted"),
        ("/dev/shm", {"image_filesystem": "ext4"}, "warning", "ext4"),
        ("/dev/shm", {"image_bytes": 64 << 20}, "warning", "64 MiB"),
        ("memory limits", {"memory_controller": 0}, "warning", "no memory controller"),
        ("open files", {"open_files": 1024}, "warning", "1024"),
        ("somaxconn", {"somaxconn": 128}, "warning", "128"),
        ("pid_max", {"pid_max": 4096}, "warning", "4096"),
        ("bridge filter", {"bridge_filtered": True}, "warning", "forward rules"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(name, changes, status, says):
    line = verdict(name, **changes)
    assert line.status == status
    assert says in line.detail
    assert line.remedy
    lines = judge(msgspec.structs.replace(GOOD, **changes))
    assert can_move(lines) is (status != "failed")
    assert [other.name for other in lines if other.status != "ok"] == [name]


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_that_fails_or_was_not_tried_fails_its_line(probe):
    name = PROBES[probe][0]
    failed = verdict(name, probes={**GOOD.probes, probe: "Operation not permitted"})
    assert (failed.status, failed.detail, failed.remedy) == ("failed", "Operation not permitted", PROBES[probe][2])
    untried = verdict(name, probes={other: "" for other in PROBES if other != probe})
    assert (untried.status, untried.detail) == ("failed", "was not tried")


@pytest.mark.parametrize(
    ("options", "says"),
    [(None, "not known"), ({}, "MEM_SOFT_DIRTY off, USERFAULTFD off"), (GOOD.options, "MEM_SOFT_DIRTY on")],
)
def test_memory_tracking_is_information_only(options, says):
    line = verdict("memory tracking", options=options)
    assert line.status == "ok"
    assert says in line.detail


def test_a_pipe_limit_is_information_only():
    assert verdict("pipe-user-pages-soft", pipe_user_pages_soft=16384).detail == "16384 pages"
    assert verdict("pipe-user-pages-soft").detail == "no limit"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("6.18.44-fc-v595", (6, 18, 44)),
        ("4.2", (4, 2)),
        ("5.10.0-28-amd64", (5, 10, 0)),
        ("6.1rc3.7", (6, 1)),
        ("4..2", (4,)),
        ("", ()),
        ("v4.2", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text, numbers):
    assert version_of(text) == numbers
