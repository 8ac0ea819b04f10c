"""Go through the steps of the freeze once, at the agent's start, on images made up for it.

The first time is slow: protobuf builds its tables, msgspec its decoders, Python specialises its bytecode. Measured with
64 connections, the first adopt and seal took 20 ms longer than the second. What fails here would fail inside a freeze.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint.core import flows, manifest, options, readdress
from checkpoint.core.journal import Journal
from checkpoint.images import files, gmac
from checkpoint.images.folder import Images
from checkpoint.images.pb import Message, Messages
from checkpoint.images.store import Store, listing, read
from checkpoint.sockets import adopt

_NAME = "rehearsal"
_ROUNDS = 8
"""Python specialises a function after a few calls (PEP 659)."""
_MAGIC = bytes(8)
_PID, _FILES = 2, 1
_ADDRESS, _OTHER = [0x0100007F], [0x0200007F]


async def rehearse(messages: Messages, images: Store) -> None:
    """Raises AgentError when CRIU's images would not be understood or written."""
    folders = images.make(_NAME)
    try:
        for _ in range(_ROUNDS):
            _make(folders.images, messages)
            await _seal(folders.images, messages, images)
        msgspec.json.decode(msgspec.json.encode(Journal()), type=Journal)
        messages.request(type=messages.DUMP, opts=messages.options(**options.dump(1, "", 0, 0))).SerializeToString()
        messages.request(type=messages.RESTORE, opts=messages.options(**options.restore("", 0))).SerializeToString()
    finally:
        images.remove(_NAME)


def _make(folder: Path, messages: Messages) -> None:
    sockets = [socket_entry(messages, 1, readdress.ESTABLISHED, 5), socket_entry(messages, 2, readdress.LISTEN, 0)]
    places = [messages.fdinfo(id=one, flags=0, type=messages.INETSK, fd=one) for one in (1, 2)]
    stream = messages.tcp_stream(
        inq_len=1, inq_seq=1, outq_len=1, outq_seq=1, opt_mask=0, snd_wscale=0, mss_clamp=0, rcv_wnd=0, rcv_wup=0
    )
    _write(folder, "pstree", [messages.pstree(pid=_PID, ppid=0, pgid=_PID, sid=_PID, threads=[_PID])])
    _write(folder, f"ids-{_PID}", [messages.ids(vm_id=1, files_id=_FILES, fs_id=1, sighand_id=1)])
    _write(folder, f"fdinfo-{_FILES}", places)
    _write(folder, "files", sockets)
    _write(folder, "tcp-stream-1", [stream], b"ab")
    _write(folder, "pages-1", [], bytes(4096))


def socket_entry(messages: Messages, number: int, state: int, peer_port: int) -> Message:
    """A file_entry that holds a TCP socket, with every field that CRIU requires."""
    one = messages.file(type=messages.INETSK, id=number)
    isk = one.isk
    isk.id = isk.ino = number
    isk.family, isk.type, isk.proto, isk.state = 2, flows.SOCK_STREAM, flows.IPPROTO_TCP, state
    isk.src_port, isk.dst_port, isk.flags, isk.backlog = 1, peer_port, 0, 0
    isk.src_addr[:], isk.dst_addr[:] = _ADDRESS, _OTHER
    isk.fown.uid = isk.fown.euid = isk.fown.signum = isk.fown.pid_type = isk.fown.pid = 0
    options_of = isk.opts
    options_of.so_sndbuf = options_of.so_rcvbuf = 0
    options_of.so_snd_tmo_sec = options_of.so_snd_tmo_usec = 0
    options_of.so_rcv_tmo_sec = options_of.so_rcv_tmo_usec = 0
    return one


def _write(folder: Path, name: str, messages: list[Message], tail: bytes = b"") -> None:
    raw = [one.SerializeToString() for one in messages]
    framed = b"".join(len(one).to_bytes(4, "little") + one for one in raw)
    files.write(f"{folder}/{name}.img", _MAGIC + framed + tail)


async def _seal(folder: Path, messages: Messages, store: Store) -> None:
    images = Images(folder, messages)
    found = flows.sort(images.sockets(), {1, 2})
    streams = {one.socket.ino: images.stream(one.socket.ino) for one in found.flows}
    msgspec.json.encode([adopt.describe(one, streams.get(one.socket.ino)) for one in (*found.flows, *found.listeners)])
    for stream in streams.values():
        stream.write(readdress.without_unsent(readdress.without_fins(readdress.ESTABLISHED, stream.numbers)))
    images.edit_sockets({"127.0.0.1": "127.0.0.3"}, [])
    key = secrets.token_bytes(manifest.KEY_BYTES)
    dumped = listing(folder)
    proved = await store.prove(folder, key, dumped, filter(manifest.is_pages, dumped))
    for ino, stream in streams.items():
        proved[stream.name] = gmac.proof(AESGCM(key), manifest.place_of_stream(ino), stream.raw)
    sealed, digest = await store.seal(folder, key, dumped, proved)
    manifest.compare(read(folder, digest), await store.survey(folder, key, listing(folder)))
    assert sealed.image_bytes
