"""The plan: what is carried over from what the agents said, and every obstacle by its name."""

import msgspec
import pytest

from checkpoint.api import Inspection, Problem, ReserveRoom, Room, Workload
from controller.core.choose import Choice
from controller.core.errors import Refused
from controller.core.plan import (
    LEAST_LINKS,
    SPARE_DESCRIPTORS,
    SPARE_LINKS,
    PodFacts,
    links_that_fit,
    make_plan,
    refuse_what_cannot_move,
    room_to_reserve,
    spare_links,
    too_few_descriptors,
    too_little_room_for_images,
)
from proxy.api import Endpoint, ListenerView

A = PodFacts("a", "198.18.0.1", "fd00::1")
B = PodFacts("b", "198.18.0.2", "fd00::2")
GIB = 1 << 30


def inspection(**changes):
    values = {
        "workload": Workload("redis", 1001, ["redis-server"], "running"),
        "pids": [1001, 1002],
        "memory_bytes": 8 << 20,
        "connections": 64,
        "listening_ports": [6379],
        "problems": [],
    }
    return Inspection(**{**values, **changes})


def room(**changes):
    values = {"memory_bytes": GIB, "image_bytes": GIB, "pids": [1, 2], "listening_ports": [15008]}
    return Room(**{**values, **changes})


def codes(plan):
    return [problem.code for problem in plan.problems]


def test_a_plan_without_obstacles():
    plan = make_plan(A, B, inspection(), room())
    assert plan.problems == []
    assert plan.readdress == {"198.18.0.1": "198.18.0.2", "fd00::1": "fd00::2"}
    refuse_what_cannot_move(plan)


def test_huge_pages_are_wanted_by_their_size():
    wanted = inspection(huge_bytes={2 << 20: 8 << 20, 1 << 30: 1 << 30})
    assert codes(make_plan(A, B, wanted, room(huge_bytes={2 << 20: 8 << 20, 1 << 30: 2 << 30}))) == []
    (found,) = make_plan(A, B, wanted, room(huge_bytes={2 << 20: 6 << 20, 1 << 30: 1 << 30})).problems
    assert found.message == "pod b has too little memory in huge pages of 2048 kB: 8.0 MiB needed, 6.0 MiB there"


def test_the_highest_descriptor_must_be_below_the_limit():
    assert codes(make_plan(A, B, inspection(highest_descriptor=99), room(most_descriptors=100))) == []
    (found,) = make_plan(A, B, inspection(highest_descriptor=100), room(most_descriptors=100)).problems
    assert found.message == "a descriptor of the workload is number 100, and in pod b that must be less than 100"


def test_what_cannot_be_kept_stands_in_the_way_unless_it_may_be_lost():
    loss = Problem("unsupported-socket", "the connection x has kernel TLS", "workload")
    assert codes(make_plan(A, B, inspection(losses=[loss]), room())) == ["unsupported-socket"]
    plan = make_plan(A, B, inspection(losses=[loss]), room(), allow_loss=True)
    assert (plan.problems, plan.losses) == ([], [loss])


@pytest.mark.parametrize(
    ("there", "code", "words"),
    [
        (room(memory_bytes=1 << 20), "no-room", "pod b has too little memory: 8.0 MiB needed, 1.0 MiB there"),
        (room(pids=[1, 1002]), "pids-taken", "process ids 1002 of the workload are in use in pod b"),
        (room(listening_ports=[6379]), "ports-taken", "pod b already listens on port 6379"),
        (
            room(pid_max=1002),
            "pid-too-large",
            "process id 1002 of the workload is too large for pod b, where 1002 is the",
        ),
    ],
)
def test_each_obstacle_has_its_name(there, code, words):
    plan = make_plan(A, B, inspection(), there)
    assert codes(plan) == [code]
    with pytest.raises(Refused) as refused:
        refuse_what_cannot_move(plan)
    assert refused.value.code == code
    assert words in refused.value.message


MIB = 1 << 20
COPY = Choice("stop-and-copy", 0.1, 0.4)
STRAIGHT = Choice("stop-and-copy", 0.1, 0.4, straight=True)
LATER = Choice("post-copy", 0.1, 0.4)


@pytest.mark.parametrize(
    ("way", "direct", "needed"),
    [(COPY, True, 12), (COPY, False, 12), (STRAIGHT, False, 12), (STRAIGHT, True, 7), (LATER, False, 7)],
)
def test_room_for_images_is_needed_for_what_goes_by_them(way, direct, needed):
    wanted = inspection(shared_bytes=3 * MIB)
    assert too_little_room_for_images("b", wanted, room(image_bytes=needed * MIB), way, direct=direct) == []
    (found,) = too_little_room_for_images("b", wanted, room(image_bytes=needed * MIB - 1), way, direct=direct)
    words = f"pod b has too little room for images: {needed}.0 MiB needed, {needed}.0 MiB there"
    assert (found.code, found.message) == ("no-room", words)


@pytest.mark.parametrize(
    ("way", "reserved"),
    [
        (Choice("stop-and-copy", 1, 1), ReserveRoom(256 * MIB, 320 * MIB)),
        (Choice("stop-and-copy", 1, 1, straight=True), ReserveRoom(48 * MIB, 320 * MIB)),
        (Choice("stop-and-copy", 1, 1, straight=True, early_limit_bytes=GIB), ReserveRoom(48 * MIB, 576 * MIB)),
        (Choice("post-copy", 1, 1, early_limit_bytes=GIB), ReserveRoom(48 * MIB, 320 * MIB)),
        (Choice("pre-copy", 1, 1), None),
    ],
)
def test_room_is_kept_for_what_goes_by_the_images_beside_the_copy_s_own_memory(way, reserved):
    found = make_plan(A, B, inspection(memory_bytes=256 * MIB, shared_bytes=48 * MIB), room())
    assert room_to_reserve(msgspec.structs.replace(found, memory=way)) == reserved
    little = msgspec.structs.replace(found, memory=way, memory_bytes=31 * MIB, shared_bytes=31 * MIB)
    assert room_to_reserve(little) is None


def test_the_agents_own_problems_come_first_and_the_rest_is_counted():
    own = Problem("fd-outside", "fd 0 was opened outside the pod", "workload", "start it with clean descriptors")
    plan = make_plan(A, B, inspection(problems=[own]), room(listening_ports=[6379]))
    assert codes(plan) == ["fd-outside", "ports-taken"]
    with pytest.raises(Refused, match="and 1 more"):
        refuse_what_cannot_move(plan)


@pytest.mark.parametrize(
    ("workload", "code"),
    [
        (Workload("redis", 1001, ["redis-server"], "stopped", "redis-123456"), "already-migrating"),
        (Workload("redis", 1001, ["redis-server"], "exited"), "exited"),
    ],
)
def test_a_workload_that_is_not_there_to_be_moved(workload, code):
    assert codes(make_plan(A, B, inspection(workload=workload), room())) == [code]


def test_many_taken_ids_are_not_all_listed():
    plan = make_plan(A, B, inspection(pids=list(range(100, 110))), room(pids=list(range(100, 110))))
    assert "100, 101, 102, 103, 104, …" in plan.problems[0].message


def test_a_family_that_one_pod_lacks_is_not_readdressed():
    plan = make_plan(A, PodFacts("b", "198.18.0.2", ""), inspection(), room())
    assert plan.readdress == {"198.18.0.1": "198.18.0.2"}


def test_the_port_of_its_own_listener_is_no_obstacle_to_a_workload_that_comes_home():
    held = [ListenerView("redis-1", "redis-2", Endpoint("0.0.0.0", 6379))]
    moved = Workload("redis", 1001, ["redis-server"], "running", arrived_by="redis-2")
    assert codes(make_plan(A, B, inspection(workload=moved), room(listening_ports=[6379]), held)) == []
    other = Workload("redis", 1001, ["redis-server"], "running", arrived_by="redis-9")
    assert codes(make_plan(A, B, inspection(workload=other), room(listening_ports=[6379]), held)) == ["ports-taken"]
    assert codes(make_plan(A, B, inspection(), room(listening_ports=[6379]), held)) == ["ports-taken"]


@pytest.mark.parametrize(("port", "hint"), [(6379, "midstream status redis-2"), (80, "stop what listens there")])
def test_whose_a_port_is_that_our_own_proxy_has(port, hint):
    held = [ListenerView("redis-1", "redis-2", Endpoint("0.0.0.0", 6379))]
    wanted = inspection(listening_ports=[port])
    (problem,) = make_plan(A, B, wanted, room(listening_ports=[80, 6379]), held).problems
    assert hint in problem.hint


def test_each_proxy_needs_a_descriptor_a_connection_and_some_to_lend():
    needed = 1000 + 2 * SPARE_LINKS + LEAST_LINKS + SPARE_DESCRIPTORS
    assert too_few_descriptors("a", 1000, needed) == []
    (problem,) = too_few_descriptors("a", 1000, needed - 1)
    assert problem.code == "no-descriptors"
    assert problem.message == "the proxy of pod a has descriptors for 999 connections more, and 1000 are to be moved"
    assert "for 0 connections more" in too_few_descriptors("a", 1, 5)[0].message


def test_where_the_workload_waits_for_its_memory_more_may_come_before_it_answers():
    links = spare_links("post-copy")
    assert links > spare_links("stop-and-copy") == SPARE_LINKS
    needed = 1000 + 2 * links + LEAST_LINKS + SPARE_DESCRIPTORS
    assert too_few_descriptors("a", 1000, needed, links) == []
    assert too_few_descriptors("a", 1000, needed - 1, links) != []


@pytest.mark.parametrize(("room", "links"), [(2 * SPARE_LINKS + 10, 10), (20_000, 1000), (3, 0)])
def test_no_more_links_are_made_than_fit_beside_the_legs(room, links):
    assert links_that_fit(1000, room) == links
