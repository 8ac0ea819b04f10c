"""What this machine says of itself."""

from __future__ import annotations

import os

from checkpoint.inspection.machine import machine


def test_this_machine_has_a_kernel_and_features():
    here = machine("4.2.1")
    assert (here.criu_version, here.kernel, here.architecture) == ("4.2.1", os.uname().release, os.uname().machine)
    assert here.cpu_features == sorted(set(here.cpu_features))


def test_only_what_every_processor_has_counts(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu sse2 avx\nmodel name: x\n\nflags\t\t: fpu sse2\n")
    assert [one for one in machine("1", cpuinfo).cpu_features if one in ("sse2", "avx")] == ["sse2"]
    cpuinfo.write_text("nothing: here\n")
    assert machine("1", cpuinfo).cpu_features == []
