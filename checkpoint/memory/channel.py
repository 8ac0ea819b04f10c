"""TLS 1.3 between the two ends of a migration: giver and taker of its memory, or its two agents. Standard library only:
giver and taker start within the hour of need, and a small program starts fast.
"""

from __future__ import annotations

import os
import socket
import ssl

HANDSHAKE_SECONDS = 5.0

_LIVELINESS = {
    socket.TCP_KEEPIDLE: 3,
    socket.TCP_KEEPINTVL: 3,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 12_000,
}
"""A machine that has vanished is noticed within 12 s (tcp(7)); processes wait for their memory meanwhile."""


def context(identity: bytes, *, server: bool) -> ssl.SSLContext:
    """A context for one side. `identity` is what `identity.make` gives: ours, and the only one the peer may have."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if server:
        made.num_tickets = 0  # nobody resumes a session; and what is there to be read is something that the peer says
    made.check_hostname = False  # the certificate names the migration, not a machine
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=identity[identity.index(b"-----BEGIN CERTIFICATE") :].decode())
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)  # load_cert_chain takes a path alone; this one is in memory
    try:
        os.write(fd, identity)
        made.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return made


def listen(host: str) -> socket.socket:
    """A listening socket on a free port of `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=16)


def accept(listener: socket.socket, secured: ssl.SSLContext) -> ssl.SSLSocket:
    """The next connection whose other end has shown the identity. Raises OSError (ssl.SSLError is one)."""
    raw, _ = listener.accept()
    return secure(raw, secured, server=True)


def connect(host: str, port: int, secured: ssl.SSLContext) -> ssl.SSLSocket:
    """Raises OSError (ssl.SSLError is one)."""
    return secure(socket.create_connection((host, port), HANDSHAKE_SECONDS), secured, server=False)


def secure(raw: socket.socket, secured: ssl.SSLContext, *, server: bool) -> ssl.SSLSocket:
    """Shake hands, and own `raw` from now on. Raises OSError (ssl.SSLError is one)."""
    try:
        raw.settimeout(HANDSHAKE_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = secured.wrap_socket(raw, server_side=server)
    except BaseException:
        raw.close()
        raise
    made.settimeout(None)
    for option, value in _LIVELINESS.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return made
