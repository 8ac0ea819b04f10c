"""Read and edit a folder of CRIU's images.

An image is two u32 magics, then entries: a u32 length and a protobuf message (pycriu/images/images.py). A tcp-stream
image has one entry, then the raw receive queue, then the raw send queue (criu: sk-tcp.c, dump_tcp_conn_state).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from checkpoint.core import flows, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import files
from checkpoint.images.added import Opened
from checkpoint.images.pb import Message, Messages, framed

T = TypeVar("T")

_HEADER_BYTES = 8
_LENGTH = struct.Struct("<I")
_ENDED_BY_PEER = readdress.FIN_RECEIVED | {readdress.CLOSE}
_PAGE_BYTES = 4096
_PE_LAZY, _PE_PRESENT = 2, 4  # criu: pagemap.h
_TCPI_OPT_WSCALE = 4  # linux/tcp.h, the bits of tcpi_options
_READ, _WRITE, _BOTH = 1, 2, 3  # opts.proto, sk_shutdown, the bits of the kernel's sk_shutdown


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    threads: list[int]


def entries(path: str, first: Message, others: Message | None = None) -> Iterator[Message]:
    """Decode an image's entries, the first of which may be of another kind; raises AgentError IMAGE_DAMAGED."""
    raw = files.read(path)
    at = _HEADER_BYTES
    message = first
    while at < len(raw):
        entry, at = _entry(path, raw, at, message)
        yield entry
        message = others or first


def _is_left(flags: int) -> bool:
    return flags & (_PE_LAZY | _PE_PRESENT) == _PE_LAZY


def _entry(path: str, raw: bytes, at: int, message: Message) -> tuple[Message, int]:
    try:
        (length,) = _LENGTH.unpack_from(raw, at)
        start = at + _LENGTH.size
        if start + length > len(raw):
            raise ValueError("cut short")
        entry = message()
        entry.ParseFromString(raw[start : start + length])
    except Exception as error:  # protobuf's DecodeError is no ValueError in every implementation
        raise AgentError(Code.IMAGE_DAMAGED, f"the image {path} cannot be decoded: {error}") from error
    return entry, start + length


class Stream:
    """A tcp-stream image: its entry, and the bytes the application has not read.

    Adoption waits for the entry alone; the queues, megabytes maybe, are read when they are asked for.
    """

    def __init__(self, path: str, message: Message) -> None:
        head, size = files.head(path)
        self._path = path
        self._raw = head if len(head) == size else None
        self.entry, self._queue_at = _entry(path, head, _HEADER_BYTES, message)
        one = self.entry
        self.numbers = readdress.Numbers(one.inq_seq, one.inq_len, one.outq_seq, one.outq_len, one.rcv_wnd, one.rcv_wup)
        if size < self._queue_at + one.inq_len:
            raise AgentError(Code.IMAGE_DAMAGED, f"the image {path} is cut short")

    @property
    def raw(self) -> bytes:
        """The whole file, as it is now."""
        if self._raw is None:
            self._raw = files.read(self._path)
        return self._raw

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    @property
    def unread(self) -> bytes:
        return self.raw[self._queue_at : self._queue_at + self.numbers.inq_len]

    def write(self, numbers: readdress.Numbers) -> None:
        """Write the image back with these numbers, without a send queue, and with the windows' scales, unless it is so.

        Scales of 0 where the handshake had none: of those that are not in the image CRIU says nothing, and the restored
        socket's would be what the destination's kernel likes to ask for (K: tcp_output.c, tcp_connect_init).
        """
        one = self.entry
        scaled = one.opt_mask & _TCPI_OPT_WSCALE
        if numbers == self.numbers and not numbers.outq_len and scaled:
            return
        unread = self.unread
        if not scaled:
            one.opt_mask |= _TCPI_OPT_WSCALE
            one.snd_wscale = one.rcv_wscale = 0
        one.inq_seq, one.outq_seq = numbers.inq_seq, numbers.outq_seq
        one.outq_len, one.unsq_len = numbers.outq_len, 0
        if one.HasField("rcv_wup"):
            one.rcv_wnd, one.rcv_wup = numbers.rcv_wnd, numbers.rcv_wup
        entry = framed(one)
        self._raw = b"".join((self.raw[:_HEADER_BYTES], entry, unread))
        self.numbers, self._queue_at = numbers, _HEADER_BYTES + len(entry)
        files.write(self._path, self._raw)


class Images:
    """One folder, as CRIU dumped it."""

    def __init__(self, folder: Path, messages: Messages) -> None:
        self._folder = str(folder)
        self._messages = messages
        self._files: list[Message] | None = None
        self._added_to: dict[str, bytes] = {}
        """What CRIU was not shown, for each table of descriptors, by its path."""

    def processes(self) -> list[Process]:
        """The dumped tree; the root is the first."""
        found = entries(f"{self._folder}/pstree.img", self._messages.pstree)
        return [Process(one.pid, one.ppid, list(one.threads)) for one in found]

    def sockets(self) -> list[flows.InetSocket]:
        return [_socket(one.isk) for one in self._load() if one.type == self._messages.INETSK]

    def stream(self, ino: int) -> Stream:
        """The saved state of one connection (criu: image-desc.c, tcp-stream-%x)."""
        return Stream(f"{self._folder}/tcp-stream-{ino:x}.img", self._messages.tcp_stream)

    def edit_sockets(
        self, mapping: Mapping[str, str], inside: Sequence[flows.InetSocket], hosts: Mapping[int, str] | None = None
    ) -> None:
        """Write files.img back with the destination's addresses and every connection as ESTABLISHED.

        `hosts` has the own addresses of sockets that shall get another than the mapping's, by inode.

        A connection with both ends in the tree has both ends' addresses exchanged, so that they still meet.
        """
        both, hosts = {one.ino for one in inside}, hosts or {}
        inet = self._messages.INETSK
        for one in self._load():
            if one.type == inet:
                _edit(one.isk, mapping, both, hosts)
            elif one.HasField("tfd"):
                _keep_ticking(one.tfd)
        path = f"{self._folder}/files.img"
        magic = files.read(path)[:_HEADER_BYTES]
        files.write(path, magic + b"".join(framed(one) for one in self._load()))
        for path, more in self._added_to.items():
            files.write(path, files.read(path) + more)

    def add(self, opened: Iterable[Opened]) -> None:
        """Open files that CRIU was not shown, with their descriptors; `edit_sockets` writes them. Raises AgentError
        IMAGE_DAMAGED."""
        opened = list(opened)
        if not opened:
            return
        tables: dict[int, dict[int, bytes]] = {}
        of_pid: dict[int, dict[int, bytes]] = {}
        for pid, fd, entry in (descriptor for one in opened for descriptor in one.descriptors):
            if pid not in of_pid:
                (ids,) = entries(f"{self._folder}/ids-{pid}.img", self._messages.ids)
                of_pid[pid] = tables.setdefault(ids.files_id, {})  # which several processes may have
            of_pid[pid][fd] = entry
        self._load().extend(one.entry for one in opened)
        self._added_to = {f"{self._folder}/fdinfo-{number}.img": b"".join(of.values()) for number, of in tables.items()}

    def lazy_pages(self) -> dict[int, list[tuple[int, int]]]:
        """For each process the ranges (start, end) that a lazy dump left where they were."""
        found: dict[int, list[tuple[int, int]]] = {}
        for process in self.processes():
            path = f"{self._folder}/pagemap-{process.pid}.img"
            if Path(path).exists():  # it shares another's memory, or is a zombie
                _, *maps = entries(path, self._messages.pagemap_head, self._messages.pagemap)
                found[process.pid] = [
                    (one.vaddr, one.vaddr + one.nr_pages * _PAGE_BYTES) for one in maps if _is_left(one.flags)
                ]
        return found

    def ours(self, name: str, kind: type[T], without: T) -> T:
        """What we have put among CRIU's images under that name; `without` where it is not there.

        Raises AgentError IMAGE_DAMAGED.
        """
        path = Path(self._folder) / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else without
        except (OSError, msgspec.DecodeError) as error:
            raise AgentError(Code.IMAGE_DAMAGED, f"the image {path} cannot be decoded: {error}") from error

    def close_connections(self, inodes: Iterable[int]) -> None:
        """Make these sockets unconnected and unbound ones; `edit_sockets` writes it."""
        wanted = set(inodes)
        for one in self._load():
            if one.type == self._messages.INETSK and one.isk.ino in wanted:
                isk = one.isk
                isk.state, isk.src_port, isk.dst_port, isk.backlog = readdress.CLOSE, 0, 0, 0
                isk.src_addr[:], isk.dst_addr[:] = [0] * len(isk.src_addr), [0] * len(isk.dst_addr)
                isk.ClearField("shutdown")

    def rename_files(self, mapping: Mapping[str, str]) -> None:
        """Have open files of these paths opened at others; `edit_sockets` writes it."""
        for one in self._load():
            if one.HasField("reg") and one.reg.name in mapping:
                one.reg.name = mapping[one.reg.name]

    def seconds(self, folder: Path, kind: str) -> dict[str, float]:
        """CRIU's own account of its work, from stats-dump or stats-restore, in seconds; empty where there is none: CRIU
        goes on where it cannot write that."""
        try:
            (one,) = entries(str(folder / f"stats-{kind}"), self._messages.stats)
        except (AgentError, ValueError):
            return {}
        part = getattr(one, kind)
        return {
            field.name.removesuffix("_time"): value / 1e6
            for field, value in part.ListFields()
            if field.name.endswith("_time")
        }

    def _load(self) -> list[Message]:
        if self._files is None:
            self._files = list(entries(f"{self._folder}/files.img", self._messages.file))
        return self._files


def _socket(one: Message) -> flows.InetSocket:
    return flows.InetSocket(
        ino=one.ino,
        type=one.type,
        proto=one.proto,
        state=one.state,
        source=tuple(one.src_addr),
        source_port=one.src_port,
        destination=tuple(one.dst_addr),
        destination_port=one.dst_port,
        backlog=one.backlog,
        reuse_address=bool(one.opts.reuseaddr),
    )


def _keep_ticking(one: Message) -> None:
    """A periodic timerfd whose expiry is unread stands at 0 until it is read (K: timerfd.c, timerfd_tmrproc), which
    CRIU would restore as disarmed for ever (criu: timerfd.c)."""
    if one.ticks and not (one.vsec or one.vnsec) and (one.isec or one.insec):
        one.vsec, one.vnsec = one.isec, one.insec


def _edit(one: Message, mapping: Mapping[str, str], inside: Container[int], hosts: Mapping[int, str]) -> None:
    own, ino = one.src_addr, one.ino
    host = hosts.get(ino) or mapping.get(readdress.host_of(own))
    if host is not None:
        own[:] = readdress.words_of(host, len(own))
    if ino in inside:
        one.dst_addr[:] = readdress.readdress(one.dst_addr, mapping)
        return
    if one.proto != flows.IPPROTO_TCP or not one.dst_port:
        return
    state = one.state
    if state in _ENDED_BY_PEER and one.HasField("shutdown"):
        # The app leg will deliver the FIN or the reset afresh; what the application itself shut down stays.
        if one.shutdown == _READ:
            one.ClearField("shutdown")
        elif one.shutdown == _BOTH:
            one.shutdown = _WRITE
    if state != readdress.ESTABLISHED and state in flows.MOVABLE:
        one.state = readdress.ESTABLISHED
