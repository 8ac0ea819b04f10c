"""The marker and the manifest of a stored image: read as written, and everything else refused before it is used."""

from __future__ import annotations

import msgspec
import pytest

from checkpoint.core import stored as s
from checkpoint.core.errors import AgentError, Code

MACHINE = s.Machine("4.2.1", "6.12", "x86_64", ["avx", "sse2"])
SHA = "0" * 64


def manifest(**changes) -> s.Manifest:
    files = [s.StoredFile("a.img", 3, SHA, "small"), s.StoredFile("b.img", 0, SHA, "small"),
             s.StoredFile("pages-1.img", 9, SHA, "file-1")]  # fmt: skip
    objects = [s.StoredObject("small", 3, 50), s.StoredObject("file-1", 9, 60)]
    made = s.Manifest(1, "i", "w", ["w", "-x"], 1.5, MACHINE, "k", ["10.0.0.1"], {}, "/w.log", 1, [], files, objects)
    return msgspec.structs.replace(made, **changes)


READY = s.Ready(1, "i", "w", 1.5, 60.0, 12, 110, 5, SHA, "k", "ab")


def code_of(call, *arguments) -> tuple[Code, str]:
    with pytest.raises(AgentError) as caught:
        call(*arguments)
    return caught.value.code, str(caught.value)


def test_they_read_back_as_written():
    assert s.decode_manifest(s.encode(manifest()), "i") == manifest()
    assert s.decode_ready(s.encode(READY), "i") == READY
    assert manifest().image_bytes == 12


def test_an_unknown_version_is_refused_as_such():
    for raw in (b'{"version": 2, "anything": []}', b'{"version": 0}'):
        assert code_of(s.decode_manifest, raw, "i")[0] is Code.IMAGE_VERSION
        assert code_of(s.decode_ready, raw, "i")[0] is Code.IMAGE_VERSION


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"version": 1}', b'{"version": "1"}', b"\xff"])
def test_anything_else_is_damage(raw):
    assert code_of(s.decode_manifest, raw, "i")[0] is Code.IMAGE_DAMAGED
    assert code_of(s.decode_ready, raw, "i")[0] is Code.IMAGE_DAMAGED


def test_what_is_too_long_is_not_even_read():
    assert "too long" in code_of(s.decode_ready, b" " * (s.MAX_READY_BYTES + 1), "i")[1]


def test_another_images_is_refused():
    assert "another image's" in code_of(s.decode_manifest, s.encode(manifest()), "j")[1]


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "/etc/passwd", "..", ".", "", ".hidden", "a\0b", "a\n", "-x", "a" * 256, "é"]
)
def test_a_name_that_leaves_the_folder_is_refused(name):
    raw = s.encode(manifest(files=[s.StoredFile(name, 12, SHA, "small")]))
    assert code_of(s.decode_manifest, raw, "i")[0] is Code.IMAGE_DAMAGED


def test_an_unknown_field_is_refused():
    raw = s.encode(manifest())[:-1] + b', "later": 1}'
    assert code_of(s.decode_manifest, raw, "i")[0] is Code.IMAGE_DAMAGED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objects": [s.StoredObject("small", 12, 1), s.StoredObject("small", 0, 1)]}, "twice"),
        ({"files": [s.StoredFile("a.img", 1, SHA, "small"), s.StoredFile("a.img", 2, SHA, "small")]}, "twice"),
        ({"files": [s.StoredFile("a.img", 1, SHA, "nowhere")]}, "in no object"),
        ({"files": [s.StoredFile("a.img", 4, SHA, "small")]}, "what is in the object"),
    ],
)
def test_files_must_fill_the_objects(changes, words):
    assert words in code_of(s.decode_manifest, s.encode(manifest(**changes)), "i")[1]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"small": 50}, "file-1 is missing"),
        ({"small": 50, "file-1": 60, "file-2": 1}, "file-2 was added"),
        ({"small": 49, "file-1": 60}, "small is cut short"),
        ({"small": 50, "file-1": 61}, "file-1 is longer"),
    ],
)
def test_the_archives_objects_are_held_against_it(found, words):
    s.check_objects(manifest(), {"small": 50, "file-1": 60})
    assert words in code_of(s.check_objects, manifest(), found)[1]


def test_the_folders_files_are_held_against_it():
    s.check_folder(manifest(), {"a.img": 3, "b.img": 0, "pages-1.img": 9})
    assert "b.img is missing" in code_of(s.check_folder, manifest(), {"a.img": 3, "pages-1.img": 9})[1]


def test_a_machine_that_can_do_more_will_do():
    s.check_machine(MACHINE, s.Machine("4.10", "5.0", "x86_64", ["avx", "avx2", "sse2"]))


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (s.Machine("4.2.1", "6.12", "aarch64", []), "made on x86_64"),
        (s.Machine("4.2", "6.12", "x86_64", ["avx", "sse2"]), "CRIU 4.2.1 wrote it"),
        (s.Machine("4.2.1", "6.12", "x86_64", ["sse2"]), "using avx"),
    ],
)
def test_another_machine_is_refused(here, words):
    code, said = code_of(s.check_machine, MACHINE, here)
    assert code is Code.OTHER_MACHINE
    assert words in said


def test_versions_are_compared_as_numbers():
    odd = msgspec.structs.replace(MACHINE, criu_version="4.x")
    s.check_machine(odd, MACHINE)
    older, newer = (msgspec.structs.replace(MACHINE, criu_version=one) for one in ("4.9", "4.10"))
    s.check_machine(older, newer)


def test_features_are_those_of_the_instruction_set():
    assert s.features(["fpu", "sse2", "pti", "avx512f", "nopl", "sse2"], "x86_64") == ["avx512f", "sse2"]
    assert s.features(["asimd", "crc32"], "aarch64") == ["asimd", "crc32"]


def test_files_are_placed_small_ones_together():
    sizes = {"b": 1, "a": 0, "pages-2": s.SMALL_BYTES, "pages-1": 1 << 30}
    assert s.place(sizes) == [("small", ["a", "b"]), ("file-1", ["pages-1"]), ("file-2", ["pages-2"])]
    assert s.place({"p": s.SMALL_BYTES}) == [("file-1", ["p"])]


def test_addresses_find_their_counterparts_by_family():
    assert s.readdress(["10.0.0.1", "fd00::1"], ["10.0.0.2", "fd00::2"]) == {
        "10.0.0.1": "10.0.0.2",
        "fd00::1": "fd00::2",
    }
    assert s.readdress(["10.0.0.1", "fd00::1"], ["10.0.0.2", ""]) == {"10.0.0.1": "10.0.0.2"}


def test_the_marker_binds_everything_but_the_wrapped_key():
    assert READY.bound() == msgspec.structs.replace(READY, wrapped_key="cd").bound()
    assert READY.bound() != msgspec.structs.replace(READY, ttl_seconds=0.0).bound()
    assert len(s.digest(b"")) == 64


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "x" * 65])
def test_what_is_no_images_name_is_told(name):
    s.require_name("redis-1")
    with pytest.raises(AgentError, match="is no image's name"):
        s.require_name(name)
