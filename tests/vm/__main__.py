"""`make vm ARGS='COMMAND'`: runs a command on Debian's own kernel, in a virtual machine on this one.

The machine has this one's files, as they are, read-only below a tmpfs that takes what is written; no network but its
own; and the command's output and exit status. It ends with the command, and leaves nothing.

Where the processor can virtualise, KVM runs it. Else QEMU translates its instructions, on one processor whose clock
goes by what it executes, a nanosecond each: slowly as seen from here, but in there it takes no longer than it should.
So no time-out strikes that would not have, and what is measured in there compares with itself, not with a machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from controller.lab.programs import CHECKOUT
from tests.vm.archive import initramfs

TOOLS = CHECKOUT / ".vm"
STATUS = re.compile(r"vm: exit status (\d+)")
"""As `inside.sh` writes it into the kernel's log."""
TIMED_OUT, NOT_ENDED, TERMINATED = 124, 125, 143
"""Exit statuses: it took too long; the machine ended and the command had not; somebody ended us."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="4G", help="its memory, as QEMU reads it (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3600, help="it is ended after this long (%(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="and its arguments: .venv/bin is in its PATH")
    chosen = parser.parse_args(argv)
    if not chosen.command:
        parser.error("which command? make vm ARGS='COMMAND'")
    return chosen


def main() -> int:
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with tempfile.TemporaryDirectory(prefix="midstream-vm-") as folder:
        here = Path(folder)
        (boot,) = (TOOLS / "kernel/boot").glob("vmlinuz-*")
        version = boot.name.removeprefix("vmlinuz-")
        files = {
            "init": (CHECKOUT / "tests/vm/initramfs.sh").read_bytes(),
            "command": shlex.join(chosen.command).encode(),
        }
        (here / "initramfs").write_bytes(initramfs(TOOLS / "kernel", version, TOOLS / "bin/busybox", files))
        log = here / "kernel"
        try:
            subprocess.run(qemu(boot, here / "initramfs", log, chosen.memory), check=True, timeout=chosen.seconds)
        except subprocess.TimeoutExpired:
            return _complain(log, f"ended after {chosen.seconds} s", TIMED_OUT)
        if told := STATUS.search(log.read_text(errors="replace")):
            return int(told[1])
        return _complain(log, "the machine ended before the command", NOT_ENDED)


def qemu(boot: Path, first: Path, log: Path, memory: str) -> list[str]:
    """The command line: what it boots, and where its kernel logs. The command's output goes where ours does."""
    line = f"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off CLONE={CHECKOUT}"
    return [
        "qemu-system-x86_64", *_processors(), "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", str(boot), "-initrd", str(first), "-append", line, "-serial", f"file:{log}",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", "file,id=output,path=/dev/fd/1", "-device", "virtconsole,chardev=output",
    ]  # fmt: skip


def _processors() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text().split("\n\n")[0].split()
    if {"vmx", "svm"} & set(flags) and os.access("/dev/kvm", os.W_OK):
        return ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    return ["-accel", "tcg,thread=single,tb-size=1024", "-icount", "shift=0", "-cpu", "max,la57=off"]


def _complain(log: Path, what: str, status: int) -> int:
    print(f"vm: {what}; its kernel's last words:\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
