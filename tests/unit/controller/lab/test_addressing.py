"""Names, addresses and PIDs of labs and pods."""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.lab.addressing import (
    FIRST_BLOCK_PID,
    LAB_BLOCK,
    LAB_BLOCK6,
    LABS,
    MAX_PODS,
    MIN_BLOCK_PIDS,
    Addressing,
    candidates,
    check_name,
    check_socket_path,
    collides,
    first_pid,
    free_index,
)
from controller.lab.errors import BadName, HomePathTooLong, LabFull

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)


def test_the_networks_of_two_labs_never_overlap():
    networks = [Addressing(number).network for number in range(LABS)]
    assert len(set(networks)) == LABS
    assert all(network.subnet_of(LAB_BLOCK) and network.prefixlen == 24 for network in networks)
    networks6 = [Addressing(number).network6 for number in range(LABS)]
    assert len(set(networks6)) == LABS
    assert all(network.subnet_of(LAB_BLOCK6) and network.prefixlen == 64 for network in networks6)


def test_a_pod_has_its_index_in_its_address_and_the_gateway_is_no_pods():
    lab = Addressing(3)
    assert str(lab.address(1)) == "198.18.3.1"
    assert str(lab.address6(10)) == "fd6d:6964:7374:3::a"
    assert lab.gateway not in {lab.address(index) for index in range(1, MAX_PODS + 1)}
    assert lab.gateway6 not in {lab.address6(index) for index in range(1, MAX_PODS + 1)}
    assert ip_address("198.18.3.254") == lab.gateway


def test_interface_names_fit():
    assert all(len(Addressing(number).link(MAX_PODS)) <= 15 for number in range(LABS))


@given(st.text())
def test_every_lab_number_is_a_candidate_once_and_the_first_depends_on_the_home(home):
    numbers = [lab.number for lab in candidates(home)]
    assert sorted(numbers) == list(range(LABS))
    assert numbers == [lab.number for lab in candidates(home)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], False),
        (["198.18.3.0/24"], True),
        (["198.18.0.0/16"], True),
        (["198.18.3.7/32"], True),
        (["198.18.4.0/24", "10.0.0.0/8"], False),
        (["fd6d:6964:7374:3::/64"], True),
        (["fd00::/8"], True),
        (["fd6d:6964:7374:4::/64"], False),
        (["0.0.0.0/0", "::/0"], False),
    ],
)
def test_a_lab_collides_with_a_network_that_overlaps_its_own(taken, expected):
    assert collides(Addressing(3), map(ip_network, taken)) is expected


def test_the_smallest_free_index_is_taken_first():
    assert free_index(set()) == 1
    assert free_index({1, 2, 4}) == 3
    with pytest.raises(LabFull):
        free_index(set(range(1, MAX_PODS + 1)))


@given(LABEL)
def test_a_dns_label_may_be_a_name(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a.b", "a/b", "..", "a\n", "x" * 33, "ä"])
def test_anything_else_may_not(name):
    with pytest.raises(BadName):
        check_name(name)


def test_a_socket_path_has_a_longest_length():
    check_socket_path("/" + "x" * 98)
    with pytest.raises(HomePathTooLong):
        check_socket_path("/" + "ä" * 50)


@pytest.mark.parametrize(("pid_max", "disjoint"), [(32768, 31), (65536, 63), (4194304, MAX_PODS)])
def test_the_blocks_of_that_many_pods_are_disjoint_and_within_pid_max(pid_max, disjoint):
    firsts = [first_pid(index, pid_max) for index in range(1, disjoint + 1)]
    assert firsts[0] == FIRST_BLOCK_PID
    assert all(late - early >= MIN_BLOCK_PIDS for early, late in itertools.pairwise(firsts))
    assert firsts[-1] + MIN_BLOCK_PIDS <= pid_max


@given(st.integers(1, MAX_PODS), st.integers(301, 4194304))
def test_a_block_begins_above_the_low_numbers_and_below_pid_max(index, pid_max):
    assert FIRST_BLOCK_PID <= first_pid(index, pid_max) < max(pid_max, FIRST_BLOCK_PID + 1)
