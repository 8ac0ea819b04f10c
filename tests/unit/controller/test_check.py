"""Gathering the facts: the parsers, and what is found on this machine."""

from __future__ import annotations

import pytest

from controller import check
from controller.core.check import PROBES, REQUIRED_CAPABILITIES, REQUIRED_OPTIONS, can_move


def test_capabilities_are_read_from_the_effective_mask():
    status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000201000\nCapBnd:\t000001ffffffffff\n"
    assert check.capabilities(status) == {"NET_ADMIN", "SYS_ADMIN"}
    assert check.capabilities("") == frozenset()
    assert REQUIRED_CAPABILITIES | {"SYS_RESOURCE"} == check.CAPABILITY_NUMBERS.keys()


def test_kernel_options_are_on_when_built_in_or_a_module():
    config = '# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="y-name"\nCONFIG_E=n\nCONFIG_F\n'
    assert check.kernel_options(config) == {"B": True, "C": True, "D": False, "E": False}


def test_criu_says_its_version_in_a_line_of_its_own():
    assert check.criu_version("Warn: something\nVersion: 4.2.1\nGitID: v4.2.1\n") == "4.2.1"
    assert check.criu_version("no such file") == ""


def test_the_last_file_system_mounted_at_a_place_is_the_one_that_is_seen():
    mounts = "x /dev/shm ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\ntmpfs /dev/shm2 tmpfs rw 0 0\n"
    assert check.file_system("/dev/shm", mounts) == "tmpfs"
    assert check.file_system("/dev", mounts) == ""


@pytest.mark.parametrize("argv", [["/no/such/program"], ["false"]])
def test_a_program_that_fails_is_a_fact(argv):
    status, _ = check._output(*argv)
    assert status != 0


def test_this_machine_can_move_processes():
    facts = check.gather()
    assert facts.uid == 0
    assert facts.probes == dict.fromkeys(PROBES, "")
    assert facts.options is None or all(facts.options[option] for option in REQUIRED_OPTIONS)
    lines = check.run_checks()
    assert can_move(lines), [line for line in lines if line.status == "failed"]
