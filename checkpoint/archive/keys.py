"""Keys: read from a file or a command, kept in memory that is zeroed afterwards, never printed, never in argv or JSON.

Zeroed as far as Python lets one: the bytes are in bytearrays of ours. The libraries' own copies (OpenSSL's key
schedules) are freed by them, and neither is kept out of swap.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import stat
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.api import KeySource
from checkpoint.core.errors import AgentError, Code

KEY_BYTES = 32
_NONCE_BYTES = 12
_MAX_TEXT_BYTES = 2 * KEY_BYTES + 2
"""64 hex digits and the end of a line."""
COMMAND_SECONDS = 30.0
_COMMAND = "Run it by hand, as root: it has to print 32 bytes or 64 hex digits, and end with status 0."


class Secret:
    """Key bytes that know not to be shown. A context manager: zeroed when it ends."""

    def __init__(self, raw: bytearray) -> None:
        self.raw = raw

    @classmethod
    def fresh(cls) -> Secret:
        """32 bytes of the kernel's randomness."""
        return cls(bytearray(secrets.token_bytes(KEY_BYTES)))

    def zero(self) -> None:
        for at in range(len(self.raw)):
            self.raw[at] = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.zero()

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written down")


def load(source: KeySource) -> Secret:
    """The key-encryption key: 32 bytes, or 64 hex digits. Blocks while a command runs.

    Raises AgentError KEY_UNREADABLE.
    """
    if bool(source.file) == bool(source.command):
        raise AgentError(Code.KEY_UNREADABLE, "say where the key is: one file or one command")
    if source.file:
        return _parsed(_of_file(source.file), source.file)
    return _of_command(source.command)


def make(path: Path) -> str:
    """A new key in a new file of mode 0600; gives its id. Raises AgentError KEY_UNREADABLE."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        hint = "Name a file that is not there yet, in a folder that is."
        message = f"the key file {path} cannot be made: {error.strerror}"
        raise AgentError(Code.KEY_UNREADABLE, message, hint=hint) from error
    try:
        with Secret.fresh() as key:
            os.write(fd, key.raw)
            os.fsync(fd)
            return key_id(key)
    finally:
        os.close(fd)


def key_id(key: Secret) -> str:
    """A name for a key that tells nothing of it: 16 hex digits."""
    return hmac.digest(key.raw, b"midstream key id", "sha256").hex()[:16]


def wrap(kek: Secret, key: Secret, bound: bytes) -> str:
    """`key` sealed with `kek` and bound to `bound`, as hex (AES-256-GCM, a random nonce in front)."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return (nonce + AESGCM(kek.raw).encrypt(nonce, key.raw, bound)).hex()


def unwrap(kek: Secret, wrapped: str, bound: bytes) -> Secret:
    """Undo `wrap`; raises AgentError WRONG_KEY for another key, or where anything of it was changed."""
    try:
        raw = bytes.fromhex(wrapped)
        key = bytearray(KEY_BYTES)
        if len(raw) != _NONCE_BYTES + KEY_BYTES + 16:
            raise ValueError("not a wrapped key")
        AESGCM(kek.raw).decrypt_into(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound, key)
    except (InvalidTag, ValueError) as error:
        raise AgentError(Code.WRONG_KEY, "the image's key does not open: another key, or a changed marker") from error
    return Secret(key)


def _of_file(path: str) -> bytearray:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise AgentError(Code.KEY_UNREADABLE, f"the key file {path} cannot be read: {error.strerror}") from error
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or seen.st_mode & 0o077 or seen.st_uid not in (0, os.geteuid()):
            message = f"the key file {path} must be a file of root's that nobody else may read"
            raise AgentError(Code.KEY_UNREADABLE, message, hint=f"chmod 600 {path}")
        return _all_of(fd)
    finally:
        os.close(fd)


def _of_command(command: str) -> Secret:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise AgentError(Code.KEY_UNREADABLE, f"that is no key command: {error}", hint=_COMMAND) from error
    if not argv:
        raise AgentError(Code.KEY_UNREADABLE, "the key command is empty", hint=_COMMAND)
    return _parsed(_output(argv), argv[0], hint=_COMMAND)


def _output(argv: list[str]) -> bytearray:
    try:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            watch = threading.Timer(COMMAND_SECONDS, run.kill)
            watch.start()
            try:
                assert run.stdout is not None
                raw = _all_of(run.stdout.fileno())
                run.stdout.close()  # whoever says more than a key gets SIGPIPE
                status = run.wait()
            finally:
                watch.cancel()
    except OSError as error:
        raise AgentError(
            Code.KEY_UNREADABLE, f"the key command {argv[0]} cannot run: {error.strerror}", hint=_COMMAND
        ) from error
    if status != 0:
        raise AgentError(Code.KEY_UNREADABLE, f"the key command {argv[0]} ended with status {status}", hint=_COMMAND)
    return raw


def _all_of(fd: int) -> bytearray:
    """What can be read, and no more than a key may have: into memory of ours."""
    kept = bytearray(_MAX_TEXT_BYTES + 1)
    filled = 0
    while filled < len(kept) and (got := os.readv(fd, [memoryview(kept)[filled:]])):
        filled += got
    del kept[filled:]
    return kept


def _parsed(raw: bytearray, where: str, hint: str = "") -> Secret:
    if len(raw) == KEY_BYTES:
        return Secret(raw)
    try:
        if len(raw) > _MAX_TEXT_BYTES:
            raise ValueError("too long")
        key = bytearray.fromhex(raw.decode("ascii").strip())
        if len(key) != KEY_BYTES:
            raise ValueError("too short")
    except ValueError:
        # No cause attached: its words might show what was read.
        raise AgentError(Code.KEY_UNREADABLE, f"{where} does not give 32 bytes or 64 hex digits", hint=hint) from None
    finally:
        Secret(raw).zero()
    return Secret(key)
