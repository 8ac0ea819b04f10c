"""Packing and unpacking by GNU tar: it keeps owners, modes, times, extended attributes, ACLs, holes and hard links.

What is packed is named to it, path by path. What it unpacks goes into a folder that nobody else enters; afterwards that
is compared with the list, so that an archive that holds something else is noticed before anything of it is used.
Without CAP_MKNOD it makes no device.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from checkpoint.baggage import scan
from checkpoint.core.baggage import Entry, Kind
from checkpoint.core.errors import AgentError, Code

_TAR = "/usr/bin/tar"
_COMMON = [
    "--format=posix", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.overlay.*", "--acls", "--sparse",
    "--numeric-owner",
]  # fmt: skip
_WITH_US = ["/usr/bin/setpriv", "--pdeathsig", "KILL"]
"""It ends with the agent: the next one clears away what it makes."""
_NO_DEVICES = ["--bounding-set", "-mknod", "--inh-caps", "-mknod"]
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

STUCK_SECONDS = 60.0
"""A file system that answers nothing for so long will not (a server that is gone); what works is waited for."""
KILLED_SECONDS = 5.0

_SOME_DIFFER = 1
"""tar's exit status when a file changed while it was read, and nothing worse (tar(1), RETURN VALUE)."""
_NO_ROOM = ("No space left", "Disk quota exceeded", "Wrote only")
"""What it says of a disk that is full. The last: of a write that fell short, of which it knows no reason."""


class Brake:
    """Breaks off what has been given it, from another thread: tar that is at work, or is to be started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tar: subprocess.Popen[bytes] | None = None
        self._why: AgentError | None = None

    def pull(self, why: AgentError) -> None:
        """Whoever waits is told that, or would wait later."""
        with self._lock:
            self._why = self._why or why
            if self._tar is not None:
                self._tar.kill()

    @contextlib.contextmanager
    def on(self, tar: subprocess.Popen[bytes]) -> Iterator[None]:
        """Raises why it was pulled, at the end: tar has ended by then."""
        with self._lock:
            self._tar = tar
            if self._why is not None:
                tar.kill()
        try:
            yield
        finally:
            with self._lock:
                self._tar = None
        if self._why is not None:
            raise self._why


def pack(source: Path, wanted: Iterable[Entry], archive: Path, *, loosely: bool, brake: Brake | None = None) -> None:
    """Write the wanted entries of `source` to `archive`. Blocks.

    `loosely`: what is gone or changing meanwhile is none's fault: it is sent again. Raises AgentError.
    """
    names = b"".join(os.fsencode(one.path) + b"\0" for one in wanted)
    # times of access and of the inode are the reader's and the kernel's own: not worth a header each
    argv = [
        *_WITH_US,
        "--",
        _TAR,
        *_COMMON,
        "--pax-option=delete=atime,delete=ctime",
        "-C",
        str(source),
        "-cf",
        str(archive),
    ]
    argv += ["--no-recursion", "--null", "--verbatim-files-from", "-T", "-", *(["--ignore-failed-read"] * loosely)]
    _run(argv, names, {0, _SOME_DIFFER}, brake or Brake())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into `folder`. Blocks. Raises AgentError."""
    argv = [
        *_WITH_US,
        *_NO_DEVICES,
        "--",
        _TAR,
        *_COMMON,
        "-C",
        str(folder),
        "-xpf",
        str(archive),
        "--same-owner",
        "--delay-directory-restore",
    ]
    _run(argv, b"", {0}, Brake(), hint="Free space there: in the pod's folder, where its root is, or below --with.")


def _run(argv: list[str], given: bytes, fine: set[int], brake: Brake, hint: str = "") -> None:
    """`hint`: what to do where there is no room."""
    try:
        tar = subprocess.Popen(
            argv, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise AgentError(Code.FILES, f"{argv[0]} cannot be started: {error.strerror}") from error
    with brake.on(tar):
        said = _attended(tar, given).decode(errors="replace").strip().splitlines()
    if tar.returncode not in fine:
        words = said[0] if said else f"exit status {tar.returncode}"
        if any(reason in line for line in said for reason in _NO_ROOM):
            raise AgentError(Code.NO_SPACE, f"there is no room for the workload's files: {words}", hint=hint)
        raise AgentError(Code.FILES, f"the workload's files: {words}")


def _attended(tar: subprocess.Popen[bytes], given: bytes) -> bytes:
    """What it said until its end, however long it works. Raises AgentError FILES when it only stands there."""
    left: bytes | None = given
    before = None
    while True:
        try:
            return tar.communicate(left, timeout=STUCK_SECONDS)[1]
        except subprocess.TimeoutExpired:
            left, now = None, _work_done(tar.pid)
            if now == before:
                tar.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel's hands
                    tar.communicate(timeout=KILLED_SECONDS)
                words = f"tar has neither read nor written anything for {STUCK_SECONDS:.0f} s"
                raise AgentError(Code.FILES, f"the workload's files: {words}") from None
            before = now


def _work_done(pid: int) -> object:
    """What a child has read and written so far (proc_pid_io(5)), and the time it ran (proc_pid_stat(5))."""
    try:
        moved = Path(f"/proc/{pid}/io").read_text()
        return moved, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:  # at its end
        return object()


def compare(folder: Path, wanted: Mapping[str, Entry]) -> None:
    """Raise AgentError IMAGE_DAMAGED unless `folder` has what is wanted, and nothing else."""
    there = {one.path: one for one in scan.look(str(folder), folder).entries}
    for path, one in there.items():
        if path not in wanted:
            raise AgentError(Code.IMAGE_DAMAGED, f"{path!r} came with the workload's files, and is not on their list")
        _compare(wanted[path], one)
    for path, one in wanted.items():
        if path not in there and one.kind is not Kind.GONE:
            raise AgentError(Code.FILES, f"{path!r} is on the list of the workload's files, and did not come")


def _compare(wanted: Entry, there: Entry) -> None:
    if wanted.kind is not there.kind:
        raise AgentError(Code.IMAGE_DAMAGED, f"{wanted.path!r}, of the workload's files, is a {there.kind.value} now")
    # A link's mode is nobody's, and its size is its target's.
    theirs, ours = ((one.uid, one.gid, one.size, one.mtime_ns) for one in (wanted, there))
    if theirs != ours or (wanted.kind is not Kind.LINK and wanted.mode != there.mode):
        message = f"{wanted.path!r} changed while it was packed: another process of the pod writes to it"
        raise AgentError(Code.FILES, message)
