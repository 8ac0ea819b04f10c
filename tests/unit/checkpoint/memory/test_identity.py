"""The identity of a migration: both agents make the same, and no clock decides about it."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509

from checkpoint.memory import identity
from controller.lab.programs import ENVIRONMENT

TOP = Path(__file__).parents[4]


def test_both_ends_make_the_same_and_another_key_or_purpose_makes_another():
    one = identity.make(bytes(32))
    assert identity.make(bytes(32)) == one
    assert one not in (identity.make(b"k" * 32), identity.make(bytes(32), "images"))


def test_machines_whose_clocks_differ_by_years_know_each_other():
    pem = identity.make(bytes(32))
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    for year in (2001, 2026, 2099):  # a board without a battery wakes up in the past
        there = datetime.datetime(year, 6, 1, tzinfo=datetime.UTC)
        assert certificate.not_valid_before_utc < there < certificate.not_valid_after_utc


def test_an_agent_that_needs_none_does_not_wait_for_x509():
    program = "import sys, checkpoint.main; sys.exit('cryptography.x509' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=TOP, env=os.environ | ENVIRONMENT)
