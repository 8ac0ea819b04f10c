"""What this machine is, for the images that are made here or shall run here."""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.core import stored
from checkpoint.core.stored import Machine


def machine(criu_version: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Read once, at the agent's start."""
    here = os.uname()
    return Machine(criu_version, here.release, here.machine, stored.features(_flags(cpuinfo), here.machine))


def _flags(cpuinfo: Path) -> list[str]:
    """Those that every processor has (`flags` on x86, `Features` on ARM, proc_cpuinfo(5))."""
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    sets = [set(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")]
    return sorted(set.intersection(*sets)) if sets else []
