"""The pod's workloads: started, listed, ended; known by name, and across restarts by PID with start time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

from checkpoint.api import RunWorkload, Workload
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import Identity, WorkloadRecord
from checkpoint.kernel import Kernel
from checkpoint.processes import launch, stopping, tree

_LAUNCH_SECONDS = 20.0
_GONE_SECONDS = 10.0


class Workloads:
    """The registry. It changes nothing on disk: whoever changes it has the journal written."""

    def __init__(self, kernel: Kernel, directory: Path, pid_base: int) -> None:
        self._kernel = kernel
        self._directory = directory
        self._pid_base = pid_base
        self._by_name: dict[str, WorkloadRecord] = {}
        self._starting: set[str] = set()

    def records(self) -> list[WorkloadRecord]:
        return list(self._by_name.values())

    def adopt(self, record: WorkloadRecord) -> None:
        """Put a workload on the list: one that was restored here, or one of the agent's former life."""
        self._by_name[record.name] = record

    def forget(self, name: str) -> None:
        self._by_name.pop(name, None)

    def get(self, name: str) -> WorkloadRecord:
        """Raises AgentError NO_WORKLOAD."""
        if name not in self._by_name:
            raise AgentError(Code.NO_WORKLOAD, f"there is no workload {name!r} in this pod")
        return self._by_name[name]

    def require_free(self, name: str) -> None:
        """Raise AgentError WORKLOAD_EXISTS when a workload of that name runs or is being started."""
        if name in self._starting:
            raise AgentError(Code.WORKLOAD_EXISTS, f"a workload {name!r} is being started already")
        record = self._by_name.get(name)
        if record is not None and tree.is_alive(record.root.pid, record.root.start_time):
            raise AgentError(Code.WORKLOAD_EXISTS, f"there is a workload {name!r} already: process {record.root.pid}")

    async def run(self, wanted: RunWorkload) -> WorkloadRecord:
        """Start one; raises AgentError WORKLOAD_EXISTS, BAD_REQUEST or EXEC_FAILED."""
        check_name(wanted.name)
        if not wanted.argv or any("\0" in word for word in wanted.argv):
            raise AgentError(Code.BAD_REQUEST, "argv must have at least one word, and no NUL in any")
        self.require_free(wanted.name)
        self._starting.add(wanted.name)
        try:
            return await self._run(wanted)
        finally:
            self._starting.discard(wanted.name)

    async def _run(self, wanted: RunWorkload) -> WorkloadRecord:
        said = await asyncio.to_thread(self._launch, wanted)
        if "error" in said:
            raise AgentError(Code.EXEC_FAILED, str(said["error"]))
        pid = int(said["pid"])
        seen = tree.stat(pid)
        if seen is None:
            raise AgentError(Code.WORKLOAD_GONE, f"the workload {wanted.name} ended as soon as it was started")
        record = WorkloadRecord(wanted.name, Identity(pid, seen.start_time), list(wanted.argv))
        self._by_name[wanted.name] = record
        return record

    def _launch(self, wanted: RunWorkload) -> dict[str, str | int]:
        log = self._directory / f"{wanted.name}.log"
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(launch.__file__), str(log), str(self._pid_base), wanted.directory,
             json.dumps(wanted.environment), json.dumps(wanted.argv)],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_LAUNCH_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise AgentError(Code.INTERNAL, f"the launcher failed: {done.stderr.decode(errors='replace')[-300:]}")
        said: dict[str, str | int] = json.loads(done.stdout)
        return said

    async def kill(self, name: str) -> Workload:
        """End one and forget it; raises AgentError NO_WORKLOAD."""
        record = self.get(name)
        if tree.is_alive(record.root.pid, record.root.start_time):
            try:
                held = await stopping.stop(self._kernel, record.root.pid)  # first, or a child could be born meanwhile
            except AgentError as error:
                if error.code is not Code.WORKLOAD_GONE:  # it has just ended by itself
                    raise
            else:
                tree.kill(self._kernel, held)
                await tree.until_gone(held, _GONE_SECONDS)
                held.close()
        self.forget(name)
        return Workload(record.name, record.root.pid, record.argv, "exited")

    def view(self, record: WorkloadRecord, migration: str) -> Workload:
        """The workload as it is now; `migration` is the one that holds it, or ""."""
        pid, state = record.root.pid, _state(record.root)
        return Workload(record.name, pid, record.argv, state, migration, record.arrived_by, record.cpu_features)


def _state(root: Identity) -> Literal["running", "stopped", "exited"]:
    if not tree.is_alive(root.pid, root.start_time):
        return "exited"
    return "stopped" if tree.is_stopped(root.pid) else "running"


def check_name(name: str) -> None:
    """Names become file names: letters, digits, dot, dash, underscore; raises AgentError BAD_REQUEST."""
    fine = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum() and name[0] != "."
    if not fine or len(name) > 64:
        raise AgentError(
            Code.BAD_REQUEST,
            f"not a name: {name[:80]!r} (letters, digits, dot, dash, underscore; at most 64)",
            hint="Choose another name.",
        )
