"""What is measured on, and how quiet it is."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from controller.lab.programs import CHECKOUT, criu
from tests.bench.figures import Machine

SLEEP_SECONDS = 0.001
WAKEUPS = 1000


class Usage(msgspec.Struct, frozen=True):
    """Processor seconds so far: the machine's (proc_stat(5)), and this process's with all it started and reaped."""

    total: float
    busy: float
    """In processes, the bench's own or not; interrupts are nobody's."""
    stolen: float
    own: float

    @classmethod
    def now(cls) -> Usage:
        """To be asked when no pod is there: what still runs has not been counted as ours yet (getrusage(2))."""
        ticks = os.sysconf("SC_CLK_TCK")
        words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        fields = [int(word) / ticks for word in words]
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(sum(fields), sum(fields[:3]), fields[7], sum(one.ru_utime + one.ru_stime for one in used))

    def stolen_until(self, later: Usage) -> float:
        return (later.stolen - self.stolen) / max(1e-9, later.total - self.total)

    def others_until(self, later: Usage) -> float:
        others = (later.busy - self.busy) - (later.own - self.own)
        return max(0.0, others) / max(1e-9, later.total - self.total)


def look() -> Machine:
    return Machine(
        kernel=platform.release(),
        cores=os.cpu_count() or 0,
        processor=_value("/proc/cpuinfo", "model name"),
        memory_bytes=int(_value("/proc/meminfo", "MemTotal").split()[0]) << 10,
        criu=_criu_version(),
        python=platform.python_version(),
        revision=_revision(),
        measured=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        load_before=load_average(),
        wakeups=wakeups(),
    )


def load_average() -> tuple[float, float, float]:
    return os.getloadavg()


def wakeups() -> list[float]:
    """How late a sleeper wakes up: what the machine adds to any wait."""
    late = []
    for _ in range(WAKEUPS):
        began = time.monotonic()
        time.sleep(SLEEP_SECONDS)
        late.append(round(time.monotonic() - began - SLEEP_SECONDS, 6))
    return late


def _value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "0 (unknown)"


def _criu_version() -> str:
    said = subprocess.run([criu(), "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


def _revision() -> str:
    """The commit, and whether the files measured are the commit's."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "proxy", "checkpoint", "controller")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, with changes" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
