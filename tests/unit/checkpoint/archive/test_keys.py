"""Keys: from a file or a command, never shown, zeroed; a wrapped one opens with its own key and for its own marker."""

from __future__ import annotations

import pickle
import sys

import pytest

from checkpoint.api import KeySource
from checkpoint.archive import keys
from checkpoint.archive.keys import Secret
from checkpoint.core.errors import AgentError, Code

RAW = bytes(range(32))


def key_file(folder, content: bytes = RAW, mode: int = 0o600):
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return KeySource(file=str(path))


@pytest.mark.parametrize("content", [RAW, RAW.hex().encode(), RAW.hex().upper().encode() + b"\n"])
def test_a_file_is_bytes_or_hex(tmp_path, content):
    assert keys.load(key_file(tmp_path, content)).raw == RAW


@pytest.mark.parametrize("content", [b"", RAW[:31], RAW + b"x", b"zz" * 32, RAW.hex().encode()[:-2], bytes(5000)])
def test_nothing_else_is_a_key_and_none_of_it_is_told(tmp_path, content):
    with pytest.raises(AgentError) as caught:
        keys.load(key_file(tmp_path, content))
    assert caught.value.code is Code.KEY_UNREADABLE
    assert "zz" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    with pytest.raises(AgentError, match="nobody else may read"):
        keys.load(key_file(tmp_path, mode=mode))


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(AgentError):
            keys.load(KeySource(file=str(path)))


def test_a_command_prints_it():
    command = f"{sys.executable} -c 'print(bytes(range(32)).hex())'"
    assert keys.load(KeySource(command=command)).raw == RAW


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *(("/nowhere/program", "cannot run"), ("false", "status 1"), ("true", "does not give"), ("yes", "status -13")),
        *(("'print", "no key command: No closing quotation"), (" ", "is empty")),
    ],
)
def test_a_command_that_does_not_is_refused(command, words):
    with pytest.raises(AgentError, match=words):
        keys.load(KeySource(command=command))


@pytest.mark.parametrize("source", [KeySource(), KeySource("a", "b")])
def test_one_source_and_no_more(source):
    with pytest.raises(AgentError, match="one file or one command"):
        keys.load(source)


def test_a_new_key_is_the_owners_alone(tmp_path):
    path = tmp_path / "key"
    made = keys.make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made == keys.key_id(keys.load(KeySource(file=str(path))))
    with pytest.raises(AgentError, match="exists"):
        keys.make(path)


def test_a_secret_is_not_shown_and_not_written_down():
    with Secret(bytearray(RAW)) as secret:
        assert RAW.hex()[:8] not in repr(secret)
        with pytest.raises(TypeError):
            pickle.dumps(secret)
    assert secret.raw == bytes(32)


def test_a_wrapped_key_opens_for_what_it_is_bound_to():
    kek, key = Secret(bytearray(RAW)), Secret.fresh()
    wrapped = keys.wrap(kek, key, b"marker")
    assert keys.unwrap(kek, wrapped, b"marker").raw == key.raw
    assert keys.wrap(kek, key, b"marker") != wrapped
    changed = ("0" if wrapped[40] != "0" else "1").join((wrapped[:40], wrapped[41:]))
    other = Secret.fresh()
    for one, text, bound in (
        (other, wrapped, b"marker"), (kek, wrapped, b"another"), (kek, changed, b"marker"), (kek, "x", b"marker"),
        (kek, wrapped[:-2], b"marker"),
    ):  # fmt: skip
        with pytest.raises(AgentError) as caught:
            keys.unwrap(one, text, bound)
        assert caught.value.code is Code.WRONG_KEY


def test_a_keys_id_tells_keys_apart():
    assert keys.key_id(Secret(bytearray(RAW))) != keys.key_id(Secret(bytearray(32)))
    assert len(keys.key_id(Secret(bytearray(32)))) == 16
