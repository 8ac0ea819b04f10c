"""Whether one pod's images can be read, and run, in the other, whether their proxies can speak to each other, and we to
all of them.

Pure: takes what their agents and proxies say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import proxy.api as proxy_api
from checkpoint.api import Health, Problem
from controller.core.check import MIN_CRIU, version_of

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By their numbers, linux/capability.h."""

SAME_CLOCK_SECONDS = 1.0
"""Two pods of one machine are asked one after the other."""


def unlike(
    source: str, ours: Health, destination: str, theirs: Health, cpu_features: Sequence[str] = ()
) -> list[Problem]:  # fmt: skip
    """What makes the two pods' machines too different for a move; empty when nothing does. `cpu_features`: what the
    workload found of the processor when it was started, which may have been elsewhere."""
    return [
        *_too_old(source, ours),
        *_too_old(destination, theirs),
        *_different(source, ours, destination, theirs, cpu_features),
    ]


def _too_old(pod: str, health: Health) -> list[Problem]:
    if version_of(health.criu_version) >= MIN_CRIU:
        return []
    message = f"pod {pod} has CRIU {health.criu_version or '?'}; {'.'.join(map(str, MIN_CRIU))} or later is needed"
    return [Problem("criu-too-old", message, "machine", "see: midstream check")]


def _different(
    source: str, ours: Health, destination: str, theirs: Health, cpu_features: Sequence[str]
) -> list[Problem]:  # fmt: skip
    found = []
    if version_of(theirs.criu_version) < version_of(ours.criu_version):
        message = f"CRIU {theirs.criu_version} in pod {destination} is older than {ours.criu_version} in pod {source}"
        found.append(Problem("criu-differs", message, "machine", "install the same CRIU on both machines"))
    if ours.architecture != theirs.architecture:
        message = f"pod {source} runs on {ours.architecture}, pod {destination} on {theirs.architecture}"
        found.append(Problem("architecture-differs", message, "machine", "choose another pod"))
    elif missing := sorted(set(cpu_features) - set(theirs.cpu_features)):
        message = f"the workload may be using {_some(missing)}, which pod {destination}'s processor does not have"
        hint = "choose a pod whose processor can do all that the one could where the workload was started"
        found.append(Problem("processor-differs", message, "machine", hint))
    return [*found, *_other_clocks(source, ours, destination, theirs)]


def _other_clocks(source: str, ours: Health, destination: str, theirs: Health) -> list[Problem]:
    """CLOCK_MONOTONIC counts from the start of a machine. A workload must not see it jump: back, its timers would wait
    for days, and forward, all of them would be over."""
    apart = theirs.uptime_seconds - ours.uptime_seconds
    if theirs.keeps_clocks or abs(apart) <= SAME_CLOCK_SECONDS:
        return []
    jump = f"{abs(apart):.0f} s {'forward' if apart > 0 else 'back'}"
    message = (
        f"the clocks that count from a machine's start would jump {jump}: pod {destination}'s kernel has no time"
        f" namespaces, and its machine was started {'before' if apart > 0 else 'after'} that of pod {source}"
    )
    return [Problem("clocks-differ", message, "machine", "choose a pod whose kernel has CONFIG_TIME_NS (Linux 5.6)")]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def too_few_capabilities(pod: str, capabilities: int, theirs: Health) -> list[Problem]:
    """What the workload has, a bit each, and the agent of its destination cannot give to the copy."""
    missing = capabilities & ~theirs.capabilities
    if not missing:
        return []
    names = [f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if missing >> bit & 1]
    message = f"the workload has {_some(names)}, which the agent of pod {pod} has not and cannot give to it"
    hint = "run that agent with all capabilities (privileged), or the workload with fewer: setpriv(1), --bounding-set"
    return [Problem("capabilities-differ", message, "machine", hint)]


def unlike_versions(here: str, parts: Mapping[str, str]) -> list[Problem]:
    """`here` is our own version, `parts` has each sidecar's by its name. What is said to each other is the same for one
    minor version: a word that is not understood would be noticed inside the freeze."""
    other = {part: version for part, version in parts.items() if version_of(version)[:2] != version_of(here)[:2]}
    if not other:
        return []
    words = ", ".join(f"the {part} is {version or '?'}" for part, version in other.items())
    hint = "move with the midstream that made the pods, or make them anew with this one"
    return [Problem("version-differs", f"this midstream is {here}; {words}", "pod", hint)]


def unlike_links(source: str, ours: proxy_api.Health, destination: str, theirs: proxy_api.Health) -> list[Problem]:
    """One proxy that wants TLS and one that speaks in the clear never agree."""
    if ours.cleartext_links == theirs.cleartext_links:
        return []
    clear, encrypted = (source, destination) if ours.cleartext_links else (destination, source)
    message = f"the links of pod {clear} are in cleartext, those of pod {encrypted} are TLS"
    hint = f"move to another pod, or make pod {clear} without --cleartext-links: midstream pod list shows what each has"
    return [Problem("links-differ", message, "pod", hint)]
