"""Can this machine move processes? Rules over facts: no I/O here, `controller.check` gathers the facts.

A rule that fails says what cannot be done without it and what to do. A warning is a limit that somebody may meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Status = Literal["ok", "warning", "failed"]

MIN_KERNEL = (5, 10)
"""pidfd_getfd is of 5.6, clone3's set_tid of 5.5, CAP_CHECKPOINT_RESTORE of 5.9; 5.10 is the long-term one after."""

MIN_CRIU = (4, 2)
"""4.1.1 cannot dump a TCP socket of a kernel from 6.16 on (SO_PASSCRED); 4.2 can."""

REQUIRED_CAPABILITIES = frozenset(
    {
        "SYS_ADMIN",
        "NET_ADMIN",
        "SYS_PTRACE",
        "SYS_CHROOT",
        "KILL",
        "SETUID",
        "SETGID",
        "SETPCAP",
        "DAC_OVERRIDE",
        "CHOWN",
    }
)

REQUIRED_OPTIONS = ("CHECKPOINT_RESTORE", "PID_NS", "NET_NS", "IPC_NS", "UTS_NS", "UNIX_DIAG", "INET_DIAG", "FHANDLE")
"""Kernel options that CRIU and the pods cannot do without; those the probes try out are not repeated here."""

MIN_OPEN_FILES = 4096
"""A flow costs a proxy three descriptors while it is held and joined: a thousand connections fit."""

MIN_BACKLOG = 1024
"""An adopted listener completes at most this many new connections during the hold."""

MIN_PID_MAX = 32768
MIN_IMAGE_BYTES = 256 << 20

PROBES: dict[str, tuple[str, str, str]] = {
    "namespaces": (
        "namespaces",
        "net, pid, mnt, ipc and uts can be made",
        "run on a host, or in a privileged container",
    ),
    "links": ("bridge and veth", "can be made", "load the modules bridge and veth, or use a kernel that has them"),
    "nft": ("nftables", "sets and route chains can be made", "apt-get install libnftables1; kernel option NF_TABLES"),
    "tcp_repair": (
        "TCP_REPAIR",
        "allowed",
        "it needs CAP_NET_ADMIN in the initial user namespace, and CHECKPOINT_RESTORE",
    ),
    "transparent": ("IP_TRANSPARENT", "allowed", "it needs CAP_NET_ADMIN"),
    "pidfd_getfd": ("pidfd_getfd(2)", "allowed", "it needs Linux 5.6, and a seccomp filter that lets it through"),
}
"""Probe -> what it is called, what is so when it worked, what to do when it did not."""


class CheckResult(msgspec.Struct, frozen=True):
    """One line of `midstream check`."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What was found on the machine."""

    uid: int
    capabilities: frozenset[str]
    kernel: str
    """As uname -r says it."""
    options: dict[str, bool] | None
    """Kernel options without their CONFIG_; None when this kernel does not tell its configuration."""
    probes: dict[str, str]
    """Probe -> "" when it worked, else what went wrong."""
    criu_path: str
    """Empty: there is none."""
    criu_version: str
    criu_complaint: str
    """Empty when `criu check` passed."""
    pycriu_complaint: str
    redis_path: str
    pid_max: int
    somaxconn: int
    open_files: int
    pipe_user_pages_soft: int
    image_filesystem: str
    """The type of file system at /dev/shm; empty when nothing is mounted there."""
    image_bytes: int
    memory_controller: int
    """The version of the control groups that can limit memory; 0: none can."""
    bridge_filtered: bool
    """Whether a bridge's packets pass the host's forward rules, and there are such rules."""


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "6.18.44-fc" -> (6, 18, 44); () when it does not begin with one."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            numbers.append(int(digits))
        if digits != part or not digits:
            break
    return tuple(numbers)


def judge(facts: Facts) -> list[CheckResult]:
    """Every rule's verdict, in the order in which a person would look."""
    probed = [_probe(facts, name) for name in PROBES]
    return [rule(facts) for rule in _MACHINE] + probed + [rule(facts) for rule in _PROGRAMS + _LIMITS]


def can_move(results: list[CheckResult]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(result.status != "failed" for result in results)


def _ok_if(good: bool, name: str, detail: str, otherwise: Status, problem: str, remedy: str) -> CheckResult:
    return CheckResult(name, "ok", detail) if good else CheckResult(name, otherwise, problem, remedy)


def _root(facts: Facts) -> CheckResult:
    return _ok_if(facts.uid == 0, "root", "yes", "failed", f"running as user {facts.uid}", "run it as root")


def _capabilities(facts: Facts) -> CheckResult:
    missing = sorted(REQUIRED_CAPABILITIES - facts.capabilities)
    if missing:
        return CheckResult(
            "capabilities", "failed", f"missing: {', '.join(missing)}", "run on a host, or in a privileged container"
        )
    if "SYS_RESOURCE" not in facts.capabilities:
        detail = "SYS_RESOURCE is missing: limits cannot be raised"
        return CheckResult(
            "capabilities", "warning", detail, "harmless, unless you need more open files than there may be"
        )
    return CheckResult("capabilities", "ok", "all that are needed")


def _kernel(facts: Facts) -> CheckResult:
    wanted = ".".join(map(str, MIN_KERNEL))
    good = version_of(facts.kernel) >= MIN_KERNEL
    return _ok_if(good, "kernel", facts.kernel, "failed", facts.kernel, f"use Linux {wanted} or newer")


def _options(facts: Facts) -> CheckResult:
    if facts.options is None:
        detail = "this kernel does not tell its configuration"
        return CheckResult("kernel options", "warning", detail, "the lines below tried out what matters most")
    missing = [option for option in REQUIRED_OPTIONS if not facts.options.get(option)]
    problem = f"off: {', '.join(missing)}"
    return _ok_if(not missing, "kernel options", "all that are needed", "failed", problem, "use a kernel that has them")


def _memory_tracking(facts: Facts) -> CheckResult:
    """Information only: without them memory goes inside the freeze."""
    if facts.options is None:
        return CheckResult("memory tracking", "ok", "not known (pre-copy and post-copy need it)")
    on = {option: "on" if facts.options.get(option) else "off" for option in ("MEM_SOFT_DIRTY", "USERFAULTFD")}
    return CheckResult(
        "memory tracking",
        "ok",
        ", ".join(f"{name} {state}" for name, state in on.items()) + " (for pre-copy and post-copy)",
    )


def _probe(facts: Facts, probe: str) -> CheckResult:
    name, good, remedy = PROBES[probe]
    problem = facts.probes.get(probe, "was not tried")
    return _ok_if(not problem, name, good, "failed", problem, remedy)


def _criu(facts: Facts) -> CheckResult:
    wanted = ".".join(map(str, MIN_CRIU))
    if not facts.criu_path:
        return CheckResult("CRIU", "failed", "not found", "run `make setup`")
    if version_of(facts.criu_version) < MIN_CRIU:
        problem = f"{facts.criu_path} is version {facts.criu_version or 'unknown'}"
        return CheckResult("CRIU", "failed", problem, f"run `make setup`: it must be {wanted} or newer")
    detail = f"{facts.criu_version} at {facts.criu_path}, `criu check` passes"
    remedy = f"see `{facts.criu_path} check`: this kernel, or this container, lacks something"
    return _ok_if(not facts.criu_complaint, "CRIU", detail, "failed", facts.criu_complaint, remedy)


def _pycriu(facts: Facts) -> CheckResult:
    good = not facts.pycriu_complaint
    return _ok_if(good, "pycriu", "beside CRIU", "failed", facts.pycriu_complaint, "run `make setup`")


def _redis(facts: Facts) -> CheckResult:
    good, remedy = bool(facts.redis_path), "run `make setup`, or apt-get install redis-server"
    return _ok_if(good, "redis-server", facts.redis_path, "warning", "not found: the demo needs it", remedy)


def _images(facts: Facts) -> CheckResult:
    name, free = "/dev/shm", f"{facts.image_bytes >> 20} MiB free"
    if not facts.image_filesystem:
        return CheckResult(name, "failed", "nothing is mounted there", "mount a tmpfs at /dev/shm")
    if facts.image_filesystem != "tmpfs":
        problem = f"a {facts.image_filesystem}: writing images makes the freeze longer"
        return CheckResult(name, "warning", problem, "mount a tmpfs at /dev/shm")
    good, remedy = facts.image_bytes >= MIN_IMAGE_BYTES, "a move needs as much as its processes have memory"
    return _ok_if(good, name, f"tmpfs, {free}", "warning", f"tmpfs, only {free}", remedy)


def _memory_limit(facts: Facts) -> CheckResult:
    detail, problem = f"cgroup version {facts.memory_controller}", "no memory controller: pods cannot have a limit"
    return _ok_if(bool(facts.memory_controller), "memory limits", detail, "warning", problem, "only --memory needs it")


def _open_files(facts: Facts) -> CheckResult:
    return _at_least("open files", facts.open_files, MIN_OPEN_FILES, f"ulimit -n {MIN_OPEN_FILES * 16}")


def _backlog(facts: Facts) -> CheckResult:
    return _at_least("somaxconn", facts.somaxconn, MIN_BACKLOG, "sysctl -w net.core.somaxconn=4096")


def _pid_max(facts: Facts) -> CheckResult:
    return _at_least("pid_max", facts.pid_max, MIN_PID_MAX, "sysctl -w kernel.pid_max=4194304")


def _pipes(facts: Facts) -> CheckResult:
    """CRIU passes memory through pipes; without CAP_SYS_RESOURCE they shrink past this many pages (pipe(7))."""
    detail = "no limit" if facts.pipe_user_pages_soft == 0 else f"{facts.pipe_user_pages_soft} pages"
    return CheckResult("pipe-user-pages-soft", "ok", detail)


def _bridge_filter(facts: Facts) -> CheckResult:
    problem = "the host's forward rules see what crosses a bridge, and may drop what pods say to each other"
    remedy = "if pods cannot reach each other: sysctl -w net.bridge.bridge-nf-call-iptables=0"
    return _ok_if(not facts.bridge_filtered, "bridge filter", "off", "warning", problem, remedy)


def _at_least(name: str, value: int, least: int, remedy: str) -> CheckResult:
    return _ok_if(value >= least, name, str(value), "warning", f"{value}, less than {least}", remedy)


_Rule = Callable[[Facts], CheckResult]
_MACHINE: tuple[_Rule, ...] = (_root, _capabilities, _kernel, _options, _memory_tracking)
_PROGRAMS: tuple[_Rule, ...] = (_criu, _pycriu, _redis)
_LIMITS: tuple[_Rule, ...] = (_images, _memory_limit, _open_files, _backlog, _pid_max, _pipes, _bridge_filter)
