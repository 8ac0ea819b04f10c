"""Clients of the two control APIs: typed JSON over HTTP on unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

import checkpoint.api as agent_api
import proxy.api as proxy_api
from controller.core.errors import Answered, Unreachable
from controller.lab.pod import Pod

if TYPE_CHECKING:
    from controller.session import Session

T = TypeVar("T")

ANSWER_SECONDS = 30.0


class _AnyProblem(msgspec.Struct, frozen=True):
    """A problem of either sidecar's: they differ only in whose fault it may be."""

    code: str
    message: str
    fault: str
    hint: str = ""


class _AnyErrorBody(msgspec.Struct, frozen=True):
    error: _AnyProblem
    criu_log: agent_api.CriuLog | None = None


class SidecarClient:
    """One sidecar's control API, over its unix socket."""

    def __init__(self, name: str, socket: Path) -> None:
        self.name, self.socket = name, socket
        self._session: Session | None = None

    async def __aenter__(self) -> Self:
        from controller.session import Session  # here: it takes 0.1 s, and many a command finds no sidecar to call

        self._session = Session(self.name, self.socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: str, path: str, answer: type[T], body: Any = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> T:
        """Says `body` and returns the answer as `answer`.

        Raises:
            Answered: the sidecar refused, in its own words.
            Unreachable: there was no answer in `timeout_seconds`; whether the call was carried out is not known.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        assert self._session is not None, "used outside `async with`"
        status, payload = await self._session.exchange(method, path, data, timeout_seconds)
        if status >= 400:
            raise self._refusal(status, payload)
        try:
            return msgspec.json.decode(payload, type=answer)
        except msgspec.MsgspecError as error:
            raise Unreachable("bad-answer", f"{self.name} answered {path} with something else: {error}") from error

    def _refusal(self, status: int, payload: bytes) -> Answered:
        try:
            body = msgspec.json.decode(payload, type=_AnyErrorBody)
        except msgspec.MsgspecError:
            return Answered(status, "bad-answer", f"{self.name} answered with status {status}", "midstream")
        problem, message = body.error, f"{self.name}: {body.error.message}"
        return Answered(status, problem.code, message, problem.fault, problem.hint, body.criu_log)


class AgentClient(SidecarClient):
    """A pod's agent. One method a call; see `checkpoint.api` for what each takes and gives."""

    async def health(self) -> agent_api.Health:
        return await self.call("GET", "/healthz", agent_api.Health)

    async def room(self) -> agent_api.Room:
        return await self.call("GET", "/v1/room", agent_api.Room)

    async def workloads(self) -> list[agent_api.Workload]:
        return await self.call("GET", "/v1/workloads", list[agent_api.Workload])

    async def run(self, workload: agent_api.RunWorkload) -> agent_api.Workload:
        return await self.call("POST", "/v1/workloads", agent_api.Workload, workload)

    async def inspect(self, name: str, named: Sequence[str] = ()) -> agent_api.Inspection:
        """`named`: folders that would travel too."""
        query = "?" + urlencode([("with", folder) for folder in named]) if named else ""
        return await self.call("GET", f"/v1/workloads/{name}{query}", agent_api.Inspection)

    async def kill(self, name: str) -> agent_api.Workload:
        return await self.call("DELETE", f"/v1/workloads/{name}", agent_api.Workload)

    async def migrations(self) -> list[agent_api.Custody]:
        return await self.call("GET", "/v1/migrations", list[agent_api.Custody])

    async def outbound(
        self, migration: str, verb: str, answer: type[T], body: Any = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> T:
        return await self.call("POST", f"/v1/outbound/{migration}/{verb}", answer, body, timeout_seconds)

    async def inbound(
        self, migration: str, verb: str, answer: type[T], body: Any = None, timeout_seconds: float = ANSWER_SECONDS
    ) -> T:
        return await self.call("POST", f"/v1/inbound/{migration}/{verb}", answer, body, timeout_seconds)

    async def prepare_outbound(self, migration: str, body: agent_api.PrepareOutbound) -> agent_api.Custody:
        return await self.call("PUT", f"/v1/outbound/{migration}", agent_api.Custody, body)

    async def prepare_inbound(self, migration: str, body: agent_api.PrepareInbound) -> agent_api.Custody:
        return await self.call("PUT", f"/v1/inbound/{migration}", agent_api.Custody, body)

    async def memory(self, migration: str) -> agent_api.Memory:
        return await self.call("GET", f"/v1/inbound/{migration}/memory", agent_api.Memory)

    async def forget(self, side: str, migration: str) -> agent_api.Custody:
        return await self.call("DELETE", f"/v1/{side}/{migration}", agent_api.Custody)

    async def checkpoint(
        self, image: str, body: agent_api.StoreCheckpoint, timeout_seconds: float
    ) -> agent_api.StoredCheckpoint:
        path = f"/v1/checkpoints/{quote(image, safe='')}"
        return await self.call("POST", path, agent_api.StoredCheckpoint, body, timeout_seconds)

    async def clone(self, migration: str, body: agent_api.StartClone, timeout_seconds: float) -> agent_api.Cloned:
        return await self.call(
            "POST", f"/v1/clones/{quote(migration, safe='')}", agent_api.Cloned, body, timeout_seconds
        )


class ProxyClient(SidecarClient):
    """A pod's proxy. One method a call; see `proxy.api` for what each takes and gives."""

    async def health(self) -> proxy_api.Health:
        return await self.call("GET", "/healthz", proxy_api.Health)

    async def flows(self) -> list[proxy_api.FlowView]:
        return await self.call("GET", "/v1/flows", list[proxy_api.FlowView])

    async def listeners(self) -> list[proxy_api.ListenerView]:
        return await self.call("GET", "/v1/listeners", list[proxy_api.ListenerView])

    async def switch(self, body: proxy_api.Switch) -> proxy_api.Switched:
        return await self.call("POST", "/v1/switch", proxy_api.Switched, body)

    async def prepare_outbound(self, migration: str, body: proxy_api.PrepareOutbound) -> proxy_api.Prepared:
        """However many links it has to dial."""
        links = body.links + body.spare_links
        patience = ANSWER_SECONDS + proxy_api.DIAL_SECONDS + links * proxy_api.DIAL_SECONDS_EACH
        return await self.call("PUT", f"/v1/outbound/{migration}", proxy_api.Prepared, body, patience)

    async def prepare_inbound(self, migration: str, body: proxy_api.PrepareInbound) -> proxy_api.Prepared:
        return await self.call("PUT", f"/v1/inbound/{migration}", proxy_api.Prepared, body)

    async def build_legs(
        self, migration: str, legs: msgspec.Raw, paired: msgspec.Raw, timeout_seconds: float
    ) -> proxy_api.LegsBuilt:
        path, body = f"/v1/inbound/{migration}/legs", {"legs": legs, "paired": paired}
        return await self.call("POST", path, proxy_api.LegsBuilt, body, timeout_seconds)

    async def build_ahead(self, migration: str, legs: msgspec.Raw, timeout_seconds: float) -> proxy_api.LegsBuilt:
        path = f"/v1/inbound/{migration}/ahead"
        return await self.call("POST", path, proxy_api.LegsBuilt, {"legs": legs}, timeout_seconds)

    async def resume(self, migration: str) -> proxy_api.Resumed:
        return await self.call("POST", f"/v1/inbound/{migration}/resume", proxy_api.Resumed)

    async def orphan(self, migration: str, source: str) -> proxy_api.Orphaned:
        return await self.call("POST", f"/v1/inbound/{migration}/orphan", proxy_api.Orphaned, proxy_api.Orphan(source))

    async def take_over(self, migration: str, token: str) -> proxy_api.TakenOver:
        path, body = f"/v1/inbound/{migration}/takeover", proxy_api.TakeOver(token)
        return await self.call("POST", path, proxy_api.TakenOver, body)

    async def repoint(self, migration: str) -> proxy_api.Repointed:
        return await self.call("POST", f"/v1/outbound/{migration}/repoint", proxy_api.Repointed)

    async def ledger(self, side: str, migration: str) -> list[proxy_api.LedgerLine]:
        return await self.call("GET", f"/v1/{side}/{migration}/ledger", list[proxy_api.LedgerLine])

    async def release(self, side: str, migration: str) -> proxy_api.Released:
        return await self.call("DELETE", f"/v1/{side}/{migration}", proxy_api.Released)


async def unless_unknown(call: Awaitable[T]) -> T | None:
    """None where the migration is unknown: undoing what was never begun is done already."""
    try:
        return await call
    except Answered as error:
        if error.status != 404:
            raise
        return None


async def unless_gone(pod: Pod, call: Awaitable[T]) -> T | None:
    """None, too, where the pod is no more: nobody there will ever know of it."""
    try:
        return await unless_unknown(call)
    except Unreachable:
        if pod.alive:
            raise
        return None


async def gather_named(**calls: Any) -> dict[str, Any]:
    """Runs the calls together; the first error cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(call, name=name) for name, call in calls.items()}
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return {name: task.result() for name, task in tasks.items()}
