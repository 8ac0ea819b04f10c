"""What the agent asks of whatever saves and restores processes. CRIU on a process tree is the first
(`checkpoint.criu.engine`).

An OCI runtime can be a second: it stops, dumps and restores a container instead of a tree, behind the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from checkpoint.api import MemoryFeatures
from checkpoint.processes.tree import Tree


@dataclass(frozen=True)
class Folders:
    """Where one migration's files are: the images, and beside them logs and statistics."""

    images: Path
    work: Path


class Asking(Enum):
    """Which questions of a helper's somebody answers (`Helper.questions`)."""

    NOTHING = auto()
    START = auto()
    """Whether it may begin with a dump that was asked for."""
    DESCRIPTORS = auto()
    """And which descriptors there are; in a lazy dump which pages, too."""


@dataclass(frozen=True)
class DumpReport:
    processes: int
    criu_seconds: dict[str, float]


@dataclass(frozen=True)
class RestoreReport:
    pid: int
    tree: Tree
    criu_seconds: dict[str, float]


class Helper(Protocol):
    """Something started ahead of time so that the freeze does not pay for its start."""

    pid: int

    def abort(self) -> None:
        """Kill it; whoever waits for it is told that it failed. For a restore only: see `Engine.break_off`."""

    async def questions(self) -> int | None:
        """A descriptor over which it asks what is to be kept from it (`checkpoint.criu.questions`), the caller's from
        now on; None: it asks nobody. The dump waits for the answers."""

    async def close(self) -> None: ...


class Engine(Protocol):
    """Each method raises AgentError; after a failed dump the tree stands still and is whole, after a failed restore
    no process of it is left."""

    async def version(self) -> str: ...

    async def features(self) -> MemoryFeatures:
        """Which ways of carrying memory work here."""

    async def prepare(
        self, root: int | None = None, *, asking: Asking = Asking.NOTHING, lazily: bool = False,
        inherited: Mapping[str, int] = MappingProxyType({}),
    ) -> Helper:  # fmt: skip
        """Start what a later dump of the tree under `root`, or a restore, needs. `asking`: which of its `questions`
        somebody answers. `inherited`: descriptors of ours that
        a restore may give to its processes, by the keys that the images have for them."""

    async def stop(self, root: int) -> Tree:
        """Stop the tree; returns when no instruction of it runs."""

    async def pre_dump(self, helper: Helper, root: int, folders: Folders, parent: str) -> None:
        """Write what the tree under `root`, which runs on, has written into its memory since the pre-dump in the folder
        `parent`, relative to the images; everything where that is ""."""

    async def dump(
        self, helper: Helper, root: int, folders: Folders, *, ghost_limit_bytes: int, lazily: bool = False,
        parent: str = "",
    ) -> DumpReport:  # fmt: skip
        """Write the images of the stopped tree under `root`, which is being stopped again when this returns. A helper
        that asks whether it may begin can be told so of a tree that runs. `lazily`: without its private memory.
        `parent`: without what is in the pre-dump there. A deleted file of more than `ghost_limit_bytes` that is still
        open is refused."""

    def break_off(self, pid: int) -> None:
        """Have the helper with that PID, which may be an earlier agent's, fail at its next write. It is not killed: one
        that dumps has to undo first what it has done to the tree."""

    async def restore(
        self, helper: Helper, folders: Folders, *, lazily: bool = False, inherited: Sequence[str] = ()
    ) -> RestoreReport:
        """Make the tree of the images; it is stopped, and a child of PID 1. `lazily`: `checkpoint.memory.taker`, in the
        work folder, has its private memory come. `inherited`: the keys of what the helper is to give to it."""

    def resume(self, tree: Tree) -> None:
        """Let a stopped tree run."""

    def kill(self, tree: Tree) -> None:
        """End a tree: when this returns, no instruction of it runs any more."""

    def discard(self, tree: Tree) -> None:
        """End a copy that never ran, so that nobody hears of it."""

    def release(self, tree: Tree, reuse_address: dict[int, bool], backlogs: dict[int, int]) -> None:
        """Undo what a dump did to the stopped tree (its sockets' repair mode) and let it run again.

        `reuse_address` and `backlogs` say by socket inode what was set before, as far as it is known.
        """
