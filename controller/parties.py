"""Who has a part in one migration: the agents and the proxies of two pods."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from controller.clients import AgentClient, ProxyClient
from controller.lab.pod import Pod


class Parties:
    """Clients of the four. An async context manager: it owns them."""

    def __init__(self, source: Pod, destination: Pod) -> None:
        self.source, self.destination = source, destination
        self.source_agent = AgentClient(f"agent of pod {source.name}", source.agent_socket)
        self.source_proxy = ProxyClient(f"proxy of pod {source.name}", source.proxy_socket)
        self.destination_agent = AgentClient(f"agent of pod {destination.name}", destination.agent_socket)
        self.destination_proxy = ProxyClient(f"proxy of pod {destination.name}", destination.proxy_socket)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        clients = (self.source_agent, self.source_proxy, self.destination_agent, self.destination_proxy)
        for client in clients:
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
