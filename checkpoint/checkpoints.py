"""Checkpoints into an archive, of a workload that runs on; and copies out of one.

A checkpoint stops the workload, dumps it and lets it go on: that is the freeze. What it wrote is sent afterwards, from
tmpfs. A copy is fetched, proved, edited (`checkpoint.images.copies`), and only then made, by the steps of a move.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from pathlib import Path

import msgspec

from checkpoint.api import (
    Cloned,
    PrepareInbound,
    PrepareOutbound,
    Restored,
    RestoreWorkload,
    StartClone,
    StoreCheckpoint,
    StoredCheckpoint,
)
from checkpoint.archive import archivist
from checkpoint.archive.orders import Read, Try, Write, WriteDone
from checkpoint.core import manifest as tags
from checkpoint.core import stored
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code, from_problem
from checkpoint.core.stored import Machine, Manifest
from checkpoint.custodian import Custodian
from checkpoint.images import copies, store
from checkpoint.images.folder import Images
from checkpoint.images.pb import Messages
from checkpoint.inspection import locks
from checkpoint.inspection.workload import inspect
from checkpoint.moves.outbound import Outbound
from checkpoint.processes import procfd
from checkpoint.processes.tree import descendants
from checkpoint.processes.workloads import check_name

_FETCHED = ".fetched"
"""Folders of ours among the images of moves; an agent that starts takes away what one before it left."""


class Checkpoints:
    """Every call is done when it answers, and whole or not at all; it goes on when its caller has gone."""

    def __init__(self, custodian: Custodian, messages: Messages, here: Machine, directory: Path) -> None:
        """`directory` is the pod's, where its workloads' output goes."""
        self._custodian, self._messages, self._here, self._directory = custodian, messages, here, directory
        self._store = custodian.store
        self._restoring = asyncio.Lock()
        """Two copies of one image have the same PIDs, and a failed restore ends whoever has them: one at a time."""

    def tidy(self) -> None:
        """At the agent's start."""
        for left in self._store.root.glob(f"*{_FETCHED}"):
            shutil.rmtree(left, ignore_errors=True)

    async def checkpoint(self, image: str, wanted: StoreCheckpoint) -> StoredCheckpoint:
        """Store a checkpoint; raises AgentError. Whatever fails, the workload runs."""
        self._refuse_what_cannot_be_saved(wanted.workload)
        await archivist.carry_out(Try(wanted.archive, wanted.key, image, "alone"), type(None))
        key = secrets.token_hex(tags.KEY_BYTES)
        prepare = PrepareOutbound(wanted.workload, {}, wanted.max_hold_seconds, key)
        await self._custodian.prepare_outbound(image, prepare, "checkpoint")
        try:
            outbound = self._custodian.outbound(image)
            freeze_seconds = await _dump(outbound)
            folder = self._store.folders(image).images
            draft = await asyncio.to_thread(self._draft, image, wanted, outbound, folder)
            began = time.monotonic()
            order = Write(
                wanted.archive, wanted.key, str(folder), draft, wanted.ttl_seconds, wanted.deadline_seconds,
                wanted.compression,
            )  # fmt: skip
            done = await archivist.carry_out(order, WriteDone)
        finally:
            await self._custodian.forget_outbound(image)
        return StoredCheckpoint(
            image, wanted.workload, done.key, draft.processes, len(draft.connections), done.files, done.image_bytes,
            done.stored_bytes, freeze_seconds, time.monotonic() - began, done.compression,
        )  # fmt: skip

    async def clone(self, migration: str, wanted: StartClone) -> Cloned:
        """Start a copy; raises AgentError. Whatever fails, nothing of it is left."""
        check_name(migration)
        check_name(wanted.workload)
        self._custodian.require_free(wanted.workload)
        folder = self._store.root / f"{migration}{_FETCHED}"
        began = time.monotonic()
        order = Read(
            wanted.archive, wanted.key, wanted.image, str(folder), self._here, wanted.wait_seconds,
            wanted.deadline_seconds,
        )  # fmt: skip
        try:
            manifest = await archivist.carry_out(order, Manifest)
            fetched = time.monotonic()
            closed = await asyncio.to_thread(self._edit, folder, wanted, manifest)
            async with self._restoring:
                restored = await self._restore(migration, wanted.workload, manifest, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return Cloned(
            wanted.workload, restored.pid, restored.processes, closed, manifest.image_bytes, fetched - began,
            time.monotonic() - fetched,
        )  # fmt: skip

    def _refuse_what_cannot_be_saved(self, workload: str) -> None:
        record = self._custodian.workloads.get(workload)
        found = inspect(self._custodian.view(record))
        if found.problems:
            raise from_problem(found.problems[0])
        for lock in locks.exclusive(file for pid in descendants(record.root.pid) for file in procfd.open_files(pid)):
            if lock.point != "/" or not self._custodian.own_root:
                raise AgentError(
                    Code.LOCK_HELD, f"the process holds a lock ({lock.kind}) on {lock.file}, which other pods share"
                )

    def _draft(self, image: str, wanted: StoreCheckpoint, outbound: Outbound, folder: Path) -> Manifest:
        images = Images(folder, self._messages)
        machine = stored.where_started(self._here, outbound.record.cpu_features)
        return Manifest(
            stored.VERSION, image, wanted.workload, outbound.record.argv, time.time(), machine, "",
            [one for one in wanted.addresses if one], {}, self._log(wanted.workload), len(images.processes()),
            copies.connections(images), [], [],
        )  # fmt: skip

    def _edit(self, folder: Path, wanted: StartClone, manifest: Manifest) -> int:
        log = self._log(wanted.workload)
        os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        images = Images(folder, self._messages)
        readdress = stored.readdress(manifest.addresses, wanted.addresses)
        return copies.make_copy(folder, images, readdress, {manifest.log: log})

    async def _restore(self, migration: str, workload: str, made: Manifest, folder: Path) -> Restored:
        self._refuse_pids_on_their_way(folder)
        key = secrets.token_hex(tags.KEY_BYTES)
        prepare = PrepareInbound(workload, made.argv, key, cpu_features=made.machine.cpu_features)
        await self._custodian.prepare_inbound(migration, prepare, "clone")
        try:
            _, digest = await self._store.seal(folder, bytes.fromhex(key), store.listing(folder), {})
            inbound = self._custodian.inbound(migration)
            restored = await inbound.restore(RestoreWorkload(str(folder), digest))
            await inbound.resume()
        finally:
            await self._custodian.forget_inbound(migration)
        record = self._custodian.workloads.get(workload)
        # No flow of anybody's follows it, as those of a move would.
        self._custodian.keep(msgspec.structs.replace(record, arrived_by=""))
        return restored

    def _refuse_pids_on_their_way(self, folder: Path) -> None:
        """CRIU refuses a PID that is taken; one that a move is about to make is not seen yet."""
        ours = {one.pid for one in Images(folder, self._messages).processes()}
        if taken := sorted(ours & self._custodian.pids_on_their_way()):
            raise AgentError(Code.PID_TAKEN, f"the PIDs {taken} belong to a workload that is just arriving")

    def _log(self, workload: str) -> str:
        return str(self._directory / f"{workload}.log")


async def _dump(outbound: Outbound) -> float:
    """Stop, dump, go on; how long the workload stood still."""
    try:
        began = time.monotonic()
        await outbound.stop()
        await outbound.dump()
    finally:
        if outbound.state is not State.RELEASED:
            await outbound.release("it was checkpointed")
    return time.monotonic() - began
