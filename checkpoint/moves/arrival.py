"""How the images come: their folder is seen here, or they are received, or fetched from an archive."""

from __future__ import annotations

from pathlib import Path

from checkpoint.api import RestoreWorkload
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine
from checkpoint.transfer.receiving import Receiving
from checkpoint.transfer.storing import Fetching


class Arrival:
    """One migration's; `own` is its folder for what is not seen here."""

    def __init__(self, migration: str, own: Path, here: Machine) -> None:
        self._migration, self._own, self._here = migration, own, here
        self._fetching = Fetching()
        self._receiving: Receiving | None = None

    @property
    def listening(self) -> bool:
        return self._receiving is not None

    def listen(self, key: bytes, host: str) -> None:
        """Have them received. Raises AgentError."""
        self._receiving = Receiving(key, host, self._own)

    @property
    def port(self) -> int:
        """Where they are received, once it is `listening`."""
        assert self._receiving is not None
        return self._receiving.port

    async def folder(self, wanted: RestoreWorkload) -> Path:
        """Where they are; from now on nobody writes to it. Raises AgentError."""
        if wanted.images:
            return Path(wanted.images)
        if wanted.stored is not None:
            await self._fetching.fetch(self._migration, wanted.stored, self._own, self._here)
            return self._own
        if self._receiving is None:
            raise AgentError(Code.WRONG_STATE, "no images were received")
        await self._receiving.close()
        return self._own

    def stop(self) -> None:
        """Break off what is being fetched."""
        self._fetching.stop()

    async def close(self) -> None:
        if self._receiving is not None:
            await self._receiving.close()
