"""`midstream check`: gathers the facts about this machine that `controller.core.check` judges."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from controller.core.check import PROBES, CheckResult, Facts, judge
from controller.lab import cgroup, probes, programs
from controller.lab.home import IMAGES

PROGRAM_SECONDS = 30.0
"""`criu check` takes 0.1 s; whatever takes this long hangs."""

CAPABILITY_NUMBERS = {
    # linux/capability.h; only those that a rule asks for
    "CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_ADMIN": 12,
    "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_RESOURCE": 24,
}  # fmt: skip


def run_checks() -> list[CheckResult]:
    """Looks at this machine and judges it. Changes nothing: what it tries out, it tries in namespaces of its own."""
    return judge(gather())


def gather() -> Facts:
    """The facts. What cannot be found out is given as missing, never guessed."""
    criu = _criu_path()
    return Facts(
        uid=os.geteuid(),
        capabilities=capabilities(_text("/proc/self/status")),
        kernel=platform.release(),
        options=_options(),
        probes=_probes(),
        criu_path=criu,
        criu_version=criu_version(_output(criu, "--version")[1]) if criu else "",
        criu_complaint=_criu_complaint(criu) if criu else "",
        pycriu_complaint=_pycriu_complaint(criu),
        redis_path=shutil.which("redis-server") or "",
        pid_max=_number("/proc/sys/kernel/pid_max"),
        somaxconn=_number("/proc/sys/net/core/somaxconn"),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        pipe_user_pages_soft=_number("/proc/sys/fs/pipe-user-pages-soft"),
        image_filesystem=file_system(str(IMAGES), _text("/proc/self/mounts")),
        image_bytes=_free_bytes(str(IMAGES)),
        memory_controller=_memory_controller(),
        bridge_filtered=_number("/proc/sys/net/bridge/bridge-nf-call-iptables") == 1 and _has_forward_rules(),
    )


def capabilities(status: str) -> frozenset[str]:
    """The effective ones of those the rules ask for, from the text of /proc/PID/status."""
    mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return frozenset(name for name, number in CAPABILITY_NUMBERS.items() if mask >> number & 1)


def kernel_options(config: str) -> dict[str, bool]:
    """The options of a kernel's .config: on when built in or a module, off when "is not set"."""
    on = (line.removeprefix("CONFIG_").split("=") for line in config.splitlines() if line.startswith("CONFIG_"))
    return {name: value[0] in ("y", "m") for name, *value in on if value}


def criu_version(output: str) -> str:
    """The version in what `criu --version` says; "" if it is not there."""
    return next((line.split()[1] for line in output.splitlines() if line.startswith("Version: ")), "")


def file_system(point: str, mounts: str) -> str:
    """The type of the file system on top at a mount point, from the text of /proc/self/mounts; "" if none is."""
    kinds = [fields[2] for fields in map(str.split, mounts.splitlines()) if fields[1] == point]
    return kinds[-1] if kinds else ""


def _criu_path() -> str:
    path = programs.criu()
    return str(path) if path.exists() else ""


def _criu_complaint(criu: str) -> str:
    status, output = _output(criu, "check")
    return "" if status == 0 else (output.strip().splitlines() or [f"`criu check` ended with {status}"])[-1]


def _pycriu_complaint(criu: str) -> str:
    folder = Path(criu).parent / "python"
    status, output = _output(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import pycriu")
    return "" if status == 0 else (output.strip().splitlines() or ["cannot be imported"])[-1]


def _probes() -> dict[str, str]:
    """Each probe's complaint, from a process of its own: it goes into namespaces from which there is no way back."""
    status, output = _output(sys.executable, "-m", probes.__name__)
    with contextlib.suppress(ValueError):
        return {name: str(problem) for name, problem in json.loads(output.splitlines()[-1]).items()}
    return dict.fromkeys(PROBES, f"the probes ended with {status}: {output.strip()[-200:]}")


def _options() -> dict[str, bool] | None:
    with contextlib.suppress(OSError):
        return kernel_options(gzip.decompress(Path("/proc/config.gz").read_bytes()).decode())
    config = _text(f"/boot/config-{platform.release()}")
    return kernel_options(config) if config else None


def _memory_controller() -> int:
    controller = cgroup.find(_text("/proc/self/mounts"))
    return controller.version if controller else 0


def _has_forward_rules() -> bool:
    """Of nftables (and iptables on top of it), or of the older iptables, which has tables once it was used."""
    return "hook forward" in _output("nft", "list", "chains")[1] or bool(_text("/proc/net/ip_tables_names"))


def _free_bytes(path: str) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _output(*argv: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROGRAM_SECONDS,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0
