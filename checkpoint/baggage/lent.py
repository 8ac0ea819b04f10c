"""Names lent to files that a workload uses under one that is gone, while they have another: a named semaphore, which
sem_open(3) makes under a name of its own first; a program that was deleted, and is linked elsewhere.

CRIU looks for each under the name that the kernel says, with its " (deleted)", and finds it there (criu: files-reg.c,
check_path_remap). So each has that very name for as long as a move takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from checkpoint.baggage import entries
from checkpoint.processes import procfs
from checkpoint.processes.procfs import Mount

FILE = "lent-names.json"
"""A file of ours among the images: the names."""

_DELETED = " (deleted)"
_NAMELESS = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "/[aio]")


class Deleted(NamedTuple):
    """A file in use whose path is gone."""

    pid: int
    link: str
    """Leads to it, for as long as it is in use."""
    name: str
    """The path, as the kernel says it: it ends in " (deleted)"."""
    found: os.stat_result

    @property
    def path(self) -> str:
        return self.name.removesuffix(_DELETED)

    @property
    def has_names(self) -> bool:
        """Others, or the machine's below an overlay."""
        return self.found.st_nlink > 0


def deleted(pids: Iterable[int]) -> Iterator[Deleted]:
    """Each file that these processes have open or mapped and whose path is gone, once. Some 2 us a descriptor."""
    return _deleted(_in_use(pids))


def deleted_mappings(pids: Iterable[int]) -> Iterator[Deleted]:
    """Those of them that are mapped, as a semaphore is: however many descriptors there are, it takes no longer."""
    return _deleted(_mapped(pids))


def _deleted(in_use: Iterable[tuple[int, str, str]]) -> Iterator[Deleted]:
    seen = set()
    for pid, link, name in in_use:
        if not name.endswith(_DELETED) or name.startswith(_NAMELESS):
            continue
        try:
            found = Path(link).stat()
        except OSError:
            continue  # closed meanwhile
        if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            yield Deleted(pid, link, name, found)


def _in_use(pids: Iterable[int]) -> Iterator[tuple[int, str, str]]:
    for pid in pids:
        links = [f"/proc/{pid}/fd/{name}" for name in procfs.names(f"/proc/{pid}/fd")]
        yield from ((pid, link, procfs.link(link)) for link in links)
        yield from _mapped([pid])


def _mapped(pids: Iterable[int]) -> Iterator[tuple[int, str, str]]:
    return ((pid, area.link, area.path) for pid in pids for area in procfs.file_areas(pid, _DELETED))


def mount_of(name: str, mounts: Mapping[int, Mount]) -> Mount | None:
    """The one below which a path lies; the last of several in one place."""
    above = [one for one in mounts.values() if name.startswith(one.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda one: len(one.point), default=None)


def can_have_name(one: Deleted) -> bool:
    """Whether there is room for its name. An overlay lets nobody link what was deleted in it."""
    mount = mount_of(one.name, procfs.mounts(one.pid))
    if mount is None or mount.kind == "overlay":
        return False
    try:
        with _parent_of(one.name) as (folder, name):
            there = entries.status(folder, name)
    except OSError:
        return False
    return there is None or os.path.samestat(there, one.found)


def borrowers(used: Iterable[Deleted]) -> list[Deleted]:
    """Those that are to be lent their names; also one that has it already, from an agent that was killed over it."""
    return [one for one in used if one.has_names and can_have_name(one)]


def lend(one: Deleted) -> None:
    """Give a file its name. Where that cannot be, CRIU will say so."""
    with suppress(OSError), _parent_of(one.name) as (folder, name):
        os.link(one.link, name, dst_dir_fd=folder, follow_symlinks=True)


def take_back(names: Iterable[str]) -> None:
    """Some may be gone already: a copy's agent takes them away where both have the same."""
    for path in names:
        if path.endswith(_DELETED):
            with suppress(OSError), _parent_of(path) as (folder, name):
                os.unlink(name, dir_fd=folder)


@contextmanager
def _parent_of(path: str) -> Iterator[tuple[int, str]]:
    """The folder that a path's last name is in, reached without following a link: the workload's owner may have put one
    there. Raises OSError."""
    *above, name = path.strip("/").split("/")
    with ExitStack() as opened:
        folder = os.open("/", entries.FOLDER)
        opened.callback(os.close, folder)
        for one in above:
            folder = os.open(one, entries.FOLDER, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder, name
