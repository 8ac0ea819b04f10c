"""Only who has the migration's key is spoken to, and the two understand each other."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from checkpoint.memory import channel, identity

KEY, OTHER = bytes(32), b"\x01" * 32


def meet(server_key: bytes, client_key: bytes | None) -> tuple[bytes, list[Exception]]:
    """One connection over the loopback; what the server got, and what went wrong at its end."""
    got, errors = [b""], []
    with channel.listen("127.0.0.1") as listener:
        listener.settimeout(30)

        def serve() -> None:
            try:
                with channel.accept(listener, channel.context(identity.make(server_key), server=True)) as sock:
                    got[0] = sock.recv(100)
            except (OSError, ssl.SSLError) as error:
                errors.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = listener.getsockname()[1]
            if client_key is None:
                with socket.create_connection(("127.0.0.1", port)) as raw:
                    raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            else:
                with channel.connect(
                    "127.0.0.1", port, channel.context(identity.make(client_key), server=False)
                ) as sock:
                    assert sock.version() == "TLSv1.3"
                    assert "AES_256_GCM" in sock.cipher()[0], "either end may know others"
                    sock.sendall(b"hello")
        except OSError:
            pass
        thread.join(10)
    return got[0], errors


def test_the_same_key_makes_the_same_identity_and_another_another():
    assert identity.make(KEY) == identity.make(KEY)
    assert identity.make(KEY) != identity.make(OTHER)


def test_two_with_the_key_understand_each_other():
    assert meet(KEY, KEY) == (b"hello", [])


@pytest.mark.parametrize("client_key", [OTHER, None])
def test_nobody_else_is_heard(client_key):
    got, errors = meet(KEY, client_key)
    assert got == b""
    assert len(errors) == 1
