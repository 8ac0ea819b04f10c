"""What lies in an archive beside an image's bytes: the marker that it is whole, and its manifest. Pure: JSON, checks.

    migrations/<image>/ready        `Ready`, in the clear, written last: what a list needs, the wrapped key, and the
                                    SHA-256 of the manifest's object
    migrations/<image>/manifest     `Manifest`, sealed like every object (`core.container`): it has names, addresses and
                                    the command line of the workload
    migrations/<image>/data/small   every file below `SMALL_BYTES`, one behind the other, as the manifest says
    migrations/<image>/data/file-1  one larger file, as a rule memory pages
    migrations/<image>/lease-…      somebody writes or reads the image until then: it must not be deleted

docs/images.md describes each field for whoever reads them with something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec

from checkpoint.core.errors import AgentError, Code

VERSION = 1
MAX_READY_BYTES = 64 << 10
MAX_MANIFEST_BYTES = 64 << 20
"""10,000 connections make 10,000 files with about 200 bytes each; more than this is no manifest of ours."""

SMALL_BYTES = 4 << 20
SMALL = "small"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}\Z")]
"""A file's name and nothing else: no folder, no way out of one, no hidden file."""
MAX_NAME = 64
ImageName = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}\Z")]


def require_name(image: str) -> None:
    """Raises AgentError IMAGE_MISSING for what can be no image's name; as a path it might lead anywhere."""
    try:
        msgspec.convert(image, ImageName)
    except msgspec.ValidationError as error:
        raise AgentError(Code.IMAGE_MISSING, f"{image!r} is no image's name") from error


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an image was made, or shall be restored."""

    criu_version: str
    kernel: str
    architecture: str
    cpu_features: list[str]
    """The instruction-set extensions a program may have found and be using; see `features`."""


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TCP connection of the workload's at the snapshot."""

    local: str
    peer: str
    unread_bytes: Size
    unsent_bytes: Size
    inside: bool
    """Both ends are the workload's own: a copy has it too. Any other is closed in a copy."""


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    size: Size
    sha256: Sha256
    object: Name
    """Its bytes are in this object, behind those of the files that the manifest names before it."""


class StoredObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    plain_bytes: Size
    stored_bytes: Size


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    image: ImageName
    workload: ImageName
    argv: list[str]
    created_seconds: float
    """Unix time, by the clock of the machine that made it; nothing is decided by it."""
    machine: Machine
    key: str
    """The id of the key-encryption key (`archive.keys`)."""
    addresses: list[str]
    """The pod's own at the snapshot: a restore exchanges them for its pod's."""
    edited: dict[str, str]
    """Addresses that were exchanged in the images already; a checkpoint's are as CRIU wrote them."""
    log: str
    """Where the workload's output went."""
    processes: int
    connections: list[Connection]
    files: list[StoredFile]
    objects: list[StoredObject]

    @property
    def image_bytes(self) -> int:
        return sum(one.size for one in self.files)


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    image: ImageName
    workload: ImageName
    created_seconds: float
    ttl_seconds: float
    """How long after the marker's own last-modified time, by the archive's clock, it may be collected; 0: never."""
    image_bytes: Size
    stored_bytes: Size
    manifest_bytes: Size
    manifest_sha256: Sha256
    key: str
    wrapped_key: str
    """The image's key, sealed with the key-encryption key; every other field is its associated data."""

    def bound(self) -> bytes:
        """What the wrapped key is bound to: all the rest."""
        return msgspec.json.encode(msgspec.structs.replace(self, wrapped_key=""))


_Versioned = TypeVar("_Versioned", Manifest, Ready)


class _Version(msgspec.Struct):
    version: int


def encode(value: Manifest | Ready) -> bytes:
    return msgspec.json.encode(value)


def decode_ready(raw: bytes, image: str) -> Ready:
    """Raises AgentError IMAGE_VERSION or IMAGE_DAMAGED."""
    return _decode(raw, Ready, image, MAX_READY_BYTES)


def decode_manifest(raw: bytes, image: str) -> Manifest:
    """A manifest whose files fill its objects, one behind the other. Raises AgentError IMAGE_VERSION, IMAGE_DAMAGED."""
    manifest = _decode(raw, Manifest, image, MAX_MANIFEST_BYTES)
    _check_layout(manifest)
    return manifest


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def place(sizes: Mapping[str, int]) -> list[tuple[str, list[str]]]:
    """The objects for files of these sizes: each with the names of the files in it, in their order."""
    small = sorted(name for name, size in sizes.items() if size < SMALL_BYTES)
    large = sorted(set(sizes) - set(small))
    return ([(SMALL, small)] if small else []) + [(f"file-{at}", [name]) for at, name in enumerate(large, 1)]


def check_objects(manifest: Manifest, found: Mapping[str, int]) -> None:
    """Raise AgentError IMAGE_DAMAGED, naming it, where an object is missing, extra, short or long in the archive."""
    wanted = {one.name: one.stored_bytes for one in manifest.objects}
    _compare("object", wanted, found, "in the archive")


def check_folder(manifest: Manifest, found: Mapping[str, int]) -> None:
    """The same for the files of a folder."""
    _compare("file", {one.name: one.size for one in manifest.files}, found, "among the images")


def where_started(here: Machine, cpu_features: list[str]) -> Machine:
    """This machine, as a workload knows it that found these features when it was started; none: that was here."""
    return msgspec.structs.replace(here, cpu_features=cpu_features) if cpu_features else here


def check_machine(made: Machine, here: Machine) -> None:
    """Raise AgentError OTHER_MACHINE where an image cannot run here."""
    if made.architecture != here.architecture:
        raise _other(f"it was made on {made.architecture}, this machine is {here.architecture}")
    if _numbers(made.criu_version) > _numbers(here.criu_version):
        raise _other(f"CRIU {made.criu_version} wrote it, and there is CRIU {here.criu_version} here")
    if missing := sorted(set(made.cpu_features) - set(here.cpu_features)):
        raise _other(f"its programs may be using {', '.join(missing)}, which this processor does not have")


_KNOWN = (
    *(
        "sse",
        "ssse",
        "avx",
        "amx",
        "fma",
        "bmi",
        "aes",
        "sha",
        "vaes",
        "vpclmul",
        "pclmul",
        "popcnt",
        "movbe",
        "rdrand",
    ),
    *("rdseed", "adx", "gfni", "f16c", "lzcnt", "abm", "erms", "fsrm", "xsave", "pku", "clflushopt", "clwb", "lahf"),
    *("cx16", "fsgsbase", "rdpid", "movdir", "serialize", "waitpkg", "rtm", "hle", "3dnow", "tbm", "xop", "clzero"),
)


def features(flags: Iterable[str], architecture: str) -> list[str]:
    """The instruction-set extensions among the flags of /proc/cpuinfo, sorted.

    On x86 most flags tell what the kernel does or which bugs it works around, and differ between kernels on one
    processor; elsewhere (`Features`) they are hwcaps: all of them count.
    """
    if architecture not in ("x86_64", "i686"):
        return sorted(set(flags))
    return sorted({one for one in flags if one.startswith(_KNOWN)})


def readdress(made: Sequence[str], here: Sequence[str]) -> dict[str, str]:
    """The addresses at the snapshot -> those of the same family here."""
    by_family = {":" in one: one for one in here if one}
    return {one: by_family[":" in one] for one in made if (":" in one) in by_family}


def _decode(raw: bytes, kind: type[_Versioned], image: str, limit: int) -> _Versioned:
    what = f"the {kind.__name__.lower()} of image {image}"
    try:
        if len(raw) > limit:
            raise ValueError("it is too long")
        version = msgspec.json.decode(raw, type=_Version).version
        if version != VERSION:
            raise AgentError(Code.IMAGE_VERSION, f"{what} is of version {version}; this one reads {VERSION}")
        value = msgspec.json.decode(raw, type=kind)
    except ValueError as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"{what} cannot be read: {error}") from error
    if value.image != image:
        raise AgentError(Code.IMAGE_DAMAGED, f"{what} is another image's: {value.image}")
    return value


def _check_layout(manifest: Manifest) -> None:
    filled = {one.name: 0 for one in manifest.objects}
    names = [one.name for one in manifest.files]
    if len(filled) != len(manifest.objects) or len(set(names)) != len(names):
        raise _untrue(manifest, "names something twice")
    for one in manifest.files:
        if one.object not in filled:
            raise _untrue(manifest, f"has the file {one.name} in no object")
        filled[one.object] += one.size
    for held in manifest.objects:
        if filled[held.name] != held.plain_bytes:
            raise _untrue(manifest, f"does not say what is in the object {held.name}")


def _untrue(manifest: Manifest, words: str) -> AgentError:
    return AgentError(Code.IMAGE_DAMAGED, f"the manifest of image {manifest.image} {words}")


def _compare(kind: str, wanted: Mapping[str, int], found: Mapping[str, int], where: str) -> None:
    for name in sorted(wanted.keys() - found.keys()):
        raise AgentError(Code.IMAGE_DAMAGED, f"the {kind} {name} is missing {where}")
    for name in sorted(found.keys() - wanted.keys()):
        raise AgentError(Code.IMAGE_DAMAGED, f"the {kind} {name} was added {where}")
    for name, size in sorted(wanted.items()):
        if found[name] != size:
            way = "cut short" if found[name] < size else "longer than it was"
            raise AgentError(Code.IMAGE_DAMAGED, f"the {kind} {name} is {way} {where}")


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")]


def _other(words: str) -> AgentError:
    return AgentError(Code.OTHER_MACHINE, f"the image cannot run here: {words}")
