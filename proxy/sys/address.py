"""Addresses as the proxy compares them: literal, and IPv4 wherever the packets are IPv4."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError

_MAPPED = "::ffff:"


def plain(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address its packets carry; any other as it is."""
    if host.startswith(_MAPPED) and "." in host:
        return host[len(_MAPPED) :]
    return host


def unmapped(endpoint: Endpoint) -> Endpoint:
    """The endpoint as packets have it."""
    host = plain(endpoint.host)
    return endpoint if host is endpoint.host else Endpoint(host, endpoint.port)


def family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def require_literal(host: str) -> None:
    """Raises BAD_REQUEST when it is a name, or no address at all: nothing here asks a resolver."""
    try:
        socket.inet_pton(family(host), host)
    except (OSError, ValueError) as error:
        raise ProxyError(Code.BAD_REQUEST, f"{host!r} is not an address") from error


def readdressed(endpoint: Endpoint, readdress: Mapping[str, str]) -> Endpoint:
    """Where the endpoint is after the move; one that the map does not name (127.0.0.1) stays."""
    host = plain(endpoint.host)
    return Endpoint(readdress.get(host, host), endpoint.port)


def host_of(text: str) -> str:
    """The address in what `str(Endpoint)` says."""
    return plain(text.rpartition(":")[0].strip("[]"))


def endpoint(address: tuple[object, ...]) -> Endpoint:
    """Of what accept() or getsockname() give."""
    return Endpoint(plain(str(address[0])), int(str(address[1])))
