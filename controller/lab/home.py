"""A lab's folder, and the lock that makes its changes one after the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from controller.lab.addressing import Addressing
from controller.lab.errors import BadHome, BadShare, UnsafeFolder

_TRIES = 100
"""Who deletes the last pod removes the folder: as often as nobody does it while one is made."""

IMAGES = Path("/dev/shm")
"""tmpfs: every image file is written while the workload is frozen, and a disk would make that longer."""


class Home:
    """MIDSTREAM_HOME: `lab.json` (the lab's number), `pods/` and `ca/` (`controller.lab.certificates`).

    There while a pod is, or something else in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods = path / "pods"
        self.ca = path / "ca"
        self._record = path / "lab.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Holds the lab for one change and gives the lock's descriptor. Blocks while another process has it.

        The kernel lets go of it when we have died, and whoever has inherited the descriptor (flock(2)).
        """
        descriptor = self._lock()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self) -> int:
        while True:
            self._make()
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_still(descriptor, self.path):  # whoever had it before us may have removed the folder
                    return descriptor
                os.close(descriptor)

    def _make(self) -> None:
        """It may come and go while we look; where it cannot come, that is BadHome."""
        for _ in range(_TRIES):
            try:
                return self.path.mkdir(parents=True)
            except FileExistsError:
                if self.path.is_dir():
                    return None
                last: OSError = NotADirectoryError(0, "it is no folder")
            except FileNotFoundError as error:
                last = error
            except OSError as error:
                raise BadHome(f"{self.path} cannot be used: {error.strerror}") from error
        raise BadHome(f"{self.path} cannot be used: {last.strerror}") from last

    def addressing(self) -> Addressing | None:
        """The lab's number, if it has one already."""
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Addressing)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def record(self, lab: Addressing) -> None:
        """Writes the number down, before anything is made in its name: so whatever is left behind is found again."""
        fresh = self._record.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(lab))
        fresh.rename(self._record)

    def forget(self, lab: Addressing | None) -> None:
        """Removes what the last pod leaves: the number and the empty folders.

        The last thing to do under the lock, which goes with the folder: who waits for it makes a new one.
        """
        self._record.unlink(missing_ok=True)
        remove_tree(self.ca)
        for folder in ([images_root(lab)] if lab else []) + [self.pods, self.path]:
            with contextlib.suppress(OSError):  # not there, or somebody keeps something else in it
                folder.rmdir()


def images_root(lab: Addressing) -> Path:
    return IMAGES / f"midstream-{lab.number}"


def check_shared(path: str) -> str:
    """The path as it is, if pods may share it. Raises BadShare."""
    if os.path.realpath(path) != path or path == "/" or not Path(path).is_dir():
        raise BadShare(f"{path} cannot be shared with a pod")
    return path


def make_private(folder: Path) -> None:
    """Makes a folder that only root may enter, below one that everybody may write to. Raises UnsafeFolder."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not (folder.is_dir() and not folder.is_symlink() and status.st_uid == 0 and status.st_mode & 0o077 == 0):
        raise UnsafeFolder(f"{folder} is not a folder of root's alone")


def remove_tree(folder: Path) -> None:
    """Removes a folder and what is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
