"""pycriu's generated protobuf classes, found beside CRIU. The one place that knows they come from there.

Only the generated modules are used: pycriu.images.load decodes to dictionaries and is ten times slower. They are
imported as they import each other, as modules of no package: the packages' own __init__ would import seventy more,
which costs an agent's start 40 ms.
"""

from __future__ import annotations

import importlib
import struct
import sys
from pathlib import Path
from typing import Any

from checkpoint.core.errors import AgentError, Code

Message = Any
"""protobuf's classes are made at run time and have no types that mypy could see."""


_LENGTH = struct.Struct("<I")


def framed(entry: Message) -> bytes:
    """As an image has it (pycriu/images/images.py)."""
    raw: bytes = entry.SerializeToString()
    return _LENGTH.pack(len(raw)) + raw


class Messages:
    """The message classes that the agent reads and writes."""

    def __init__(self, folder: Path) -> None:
        """Import them from `folder` (CRIU's python folder); raises AgentError CRIU_MISSING."""
        for place in (str(folder / "pycriu"), str(folder / "pycriu" / "images")):
            if place not in sys.path:
                sys.path.append(place)
        try:
            rpc = importlib.import_module("rpc_pb2")
            images = {
                name: importlib.import_module(f"{name}_pb2")
                for name in ("core", "core_x86", "fdinfo", "mm", "pagemap", "pstree", "stats", "tcp_stream")
            }
        except ImportError as error:
            raise AgentError(Code.CRIU_MISSING, f"pycriu cannot be imported from {folder}: {error}") from error
        self.request: Message = rpc.criu_req
        self.response: Message = rpc.criu_resp
        self.options: Message = rpc.criu_opts
        self.features: Message = rpc.criu_features
        self.DUMP: int = rpc.DUMP
        self.FEATURE_CHECK: int = rpc.FEATURE_CHECK
        self.PRE_DUMP: int = rpc.SINGLE_PRE_DUMP
        self.RESTORE: int = rpc.RESTORE
        self.file: Message = images["fdinfo"].file_entry
        self.fdinfo: Message = images["fdinfo"].fdinfo_entry
        self.INETSK: int = images["fdinfo"].INETSK
        self.REG: int = images["fdinfo"].REG
        self.EVENTPOLL: int = images["fdinfo"].EVENTPOLL
        self.pagemap_head: Message = images["pagemap"].pagemap_head
        self.pagemap: Message = images["pagemap"].pagemap_entry
        self.pstree: Message = images["pstree"].pstree_entry
        self.core: Message = images["core"].core_entry
        self.X86_64: int = self.core.X86_64
        self.NATIVE: int = images["core_x86"].NATIVE
        self.mm: Message = images["mm"].mm_entry
        self.ids: Message = images["core"].task_kobj_ids_entry
        self.stats: Message = images["stats"].stats_entry
        self.tcp_stream: Message = images["tcp_stream"].tcp_stream_entry
