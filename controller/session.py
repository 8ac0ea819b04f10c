"""HTTP to a sidecar, on its unix socket: bytes to a path, and the status and bytes that come back.

A connection is kept open from the first exchange on, so that one inside the freeze costs one round trip and no more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from controller.core.errors import Refused, Unreachable


@contextlib.contextmanager
def _no_authorities() -> Iterator[None]:
    """Inside it OpenSSL finds no certificate authorities of the machine's (SSL_CTX_load_verify_locations(3))."""
    name = "SSL_CERT_FILE"
    known = os.environ.get(name)
    os.environ[name] = os.devnull
    try:
        yield
    finally:
        del os.environ[name]
        if known is not None:
            os.environ[name] = known


with _no_authorities():
    # It loads them twice when it is imported: 70 ms of each command, and what is called here are unix sockets.
    import aiohttp

MAX_ANSWER_BYTES = 64 << 20
"""10,000 legs are about 4 MB; nothing a sidecar says is longer than this."""


class Session:
    """Made inside a running event loop; to be closed."""

    def __init__(self, name: str, socket: Path) -> None:
        self._name, self._socket = name, socket
        connector = aiohttp.UnixConnector(path=str(socket), keepalive_timeout=300)
        self._http = aiohttp.ClientSession(connector=connector, base_url="http://sidecar")

    async def close(self) -> None:
        await self._http.close()

    async def exchange(self, method: str, path: str, data: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        """The status and the body of the answer.

        Raises:
            Refused: whoever asks may not.
            Unreachable: there was no answer in `timeout_seconds`; whether the call was carried out is not known.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._http.request(method, path, data=data, timeout=timeout) as response:
                payload = await response.content.read(MAX_ANSWER_BYTES + 1)
                while not response.content.at_eof() and len(payload) <= MAX_ANSWER_BYTES:
                    payload += await response.content.read(MAX_ANSWER_BYTES)
        except TimeoutError as error:
            message = f"{self._name} did not answer {path} within {timeout_seconds:g} s"
            raise Unreachable("timeout", message, "pod", f"see the log beside {self._socket}") from error
        except (aiohttp.ClientError, OSError) as error:
            cause = getattr(error, "os_error", error)
            if isinstance(cause, PermissionError):
                message = f"only root may talk to the {self._name}"
                raise Refused("not-permitted", message, "request", "run it as root") from error
            message = f"{self._name} cannot be reached at {self._socket}: {getattr(cause, 'strerror', None) or error}"
            raise Unreachable("unreachable", message, "pod", "is the pod running? midstream pod list") from error
        if len(payload) > MAX_ANSWER_BYTES:
            raise Unreachable("bad-answer", f"{self._name} answered {path} with more than {MAX_ANSWER_BYTES} bytes")
        return response.status, payload
