"""A web site with TLS, and what it is asked for."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
from pathlib import Path

NGINX = """
daemon off; master_process on; worker_processes 2; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 8443 ssl; root {folder}; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        keepalive_timeout 60;
    }}
}}
"""


def make_site(folder: Path) -> bytes:
    """A certificate, a configuration, and 24 MB that nobody can guess; gives their digest."""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/key.pem", "-out",
         f"{folder}/cert.pem", "-days", "2", "-subj", "/CN=site", "-addext", "subjectAltName=DNS:site"],
        check=True, capture_output=True,
    )  # fmt: skip
    content = random.Random(os.urandom(8)).randbytes(24 << 20)
    (folder / "big").write_bytes(content)
    return hashlib.sha256(content).digest()


def get(sock: socket.socket, path: str) -> int:
    """Asks for a path; gives the length of what follows."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 200"), head
    return int(head.lower().split(b"content-length:")[1].split()[0])


def digest_of(sock: socket.socket, length: int, digest=None):
    digest = digest or hashlib.sha256()
    while length and (data := sock.recv(min(length, 65536))):
        digest.update(data)
        length -= len(data)
    return digest
