"""What CRIU was not shown, as entries of its images: decoded again by CRIU's own messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from checkpoint.core.descriptors import Epoll, Place, Target, Unconnected
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import added
from checkpoint.images.added import Entries, Opened
from checkpoint.images.folder import Images, entries
from checkpoint.images.pb import Message
from tests.harness import made_images as made

LISTENER = made.inet(5, 10, [0x0100007F], 80, [0], 0)
ONE, OTHER = Target(5, 0x19, 1 << 63, 7, 0xAE0C75, 9), Target(6, 1 << 31, 6, 0, 12, 9)


@pytest.fixture
def written() -> Entries:
    return Entries(made.MESSAGES)


def decoded(opened: Opened) -> tuple[Message, dict[Place, Message]]:
    """The open file, and what is said of it at each place."""

    def parsed(raw: bytes, kind: Message) -> Message:
        assert int.from_bytes(raw[:4], "little") == len(raw) - 4
        one = kind()
        one.ParseFromString(raw[4:])
        assert one.IsInitialized()
        return one

    found = {(one.pid, one.fd): parsed(one.entry, made.MESSAGES.fdinfo) for one in opened.descriptors}
    assert opened.entry.IsInitialized()
    return opened.entry, found


def test_the_door_is_a_file_that_criu_asks_its_caller_for(written):
    """Wherever it is open it is closed on exec: nobody is to know of it."""
    file, places = decoded(written.door(added.FIRST_ID, [(7, 5), (8, 6)]))
    assert (file.type, file.id, file.reg.id) == (made.MESSAGES.REG, added.FIRST_ID, added.FIRST_ID)
    assert file.reg.name == f"/{added.DOOR}"  # CRIU takes the slash off (criu: files-reg.c, collect_one_regfile)
    assert (file.reg.flags, file.reg.pos, file.reg.fown.uid, file.reg.fown.pid) == (0, 0, 0, 0)
    assert {place: one.flags for place, one in places.items()} == {(7, 5): 1, (8, 6): 1}  # FD_CLOEXEC
    for (_, fd), one in places.items():
        assert (one.id, one.type, one.fd) == (added.FIRST_ID, made.MESSAGES.REG, fd)


@pytest.mark.parametrize("wanted", [(ONE, OTHER), (OTHER,), ()])
def test_an_epoll_watches_what_it_watched_as_far_as_that_is_there(written, wanted):
    """The rest comes later."""
    places = {(7, 4): True, (8, 4): False}
    file, found = decoded(written.epoll(9, Epoll([*places], 0o2, [ONE, OTHER]), iter(wanted), places))
    assert (file.type, file.id, file.epfd.id, file.epfd.flags) == (made.MESSAGES.EVENTPOLL, 9, 9, 0o2)
    said = [(one.tfd, one.events, one.data, one.pos, one.inode, one.dev) for one in file.epfd.tfd]
    assert said == [tuple(getattr(one, name) for name in Target.__struct_fields__) for one in wanted]
    assert [(one.id, one.type, one.fd, one.flags) for one in found.values()] == [
        (9, made.MESSAGES.EVENTPOLL, 4, 1), (9, made.MESSAGES.EVENTPOLL, 4, 0)
    ]  # fmt: skip


SIX = Unconnected(
    ino=77, state=10, words=(0, 0, 0, 0x01000000), port=80, backlog=50, flags=0o4002, send_buffer=5000,
    receive_buffer=6000, reuse_address=True, reuse_port=True, six_only=True,
)  # fmt: skip
FOUR = msgspec.structs.replace(SIX, state=7, words=(0,), port=0, backlog=0, reuse_address=False, six_only=False)


@pytest.mark.parametrize(("one", "family"), [(SIX, socket.AF_INET6), (FOUR, socket.AF_INET)])
def test_a_socket_without_a_connection_is_a_plain_one(written, one, family):
    """What CRIU's restore asks of an entry is there, and nothing of a peer."""
    file, found = decoded(written.socket(9, one, {(7, 4): True, (8, 5): False}))
    said = file.isk
    assert (file.type, file.id, said.id, said.ino) == (made.MESSAGES.INETSK, 9, 9, 77)
    assert (said.family, said.type, said.proto, said.state) == (
        family,
        socket.SOCK_STREAM,
        socket.IPPROTO_TCP,
        one.state,
    )
    assert (tuple(said.src_addr), said.src_port) == (one.words, one.port)
    assert (list(said.dst_addr), said.dst_port) == ([0] * len(one.words), 0)
    assert (said.flags, said.backlog, said.v6only) == (one.flags, one.backlog, one.six_only)
    options = said.opts
    assert (options.so_sndbuf, options.so_rcvbuf) == (5000, 6000)
    assert (options.reuseaddr, options.so_reuseport) == (one.reuse_address, one.reuse_port)
    assert {place: (one.id, one.type, one.flags) for place, one in found.items()} == {
        (7, 4): (9, made.MESSAGES.INETSK, 1), (8, 5): (9, made.MESSAGES.INETSK, 0)
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three processes, two of which share a table of descriptors, and a listener."""
    made.write(tmp_path, "files", [LISTENER])
    for pid, table in ((7, 1), (8, 1), (9, 2)):
        ids = made.MESSAGES.ids(vm_id=1, files_id=table, fs_id=1, sighand_id=1)
        made.write(tmp_path, f"ids-{pid}", [ids])
    for table in (1, 2):
        first = made.MESSAGES.fdinfo(id=1, flags=0, type=made.MESSAGES.REG, fd=0)
        made.write(tmp_path, f"fdinfo-{table}", [first])
    return tmp_path


def tables(folder: Path) -> Iterator[list[tuple[int, int]]]:
    """File and number of each descriptor."""
    for table in (1, 2):
        found = entries(str(folder / f"fdinfo-{table}.img"), made.MESSAGES.fdinfo)
        yield [(one.id, one.fd) for one in found]


def files(folder: Path) -> list[int]:
    return [one.id for one in entries(str(folder / "files.img"), made.MESSAGES.file)]


def test_what_is_added_is_in_the_list_and_in_each_table_once(written, folder):
    images = Images(folder, made.MESSAGES)
    first = written.door(100, [(7, 5), (8, 5), (9, 6)])
    second = written.epoll(101, Epoll([(7, 4)], 2, [ONE]), [ONE], {(7, 4): False, (8, 4): False})
    images.add(iter([first, second]))
    assert files(folder) == [LISTENER.id]
    images.edit_sockets({"127.0.0.1": "10.0.0.2"}, [])
    assert files(folder) == [LISTENER.id, 100, 101]
    assert list(tables(folder)) == [[(1, 0), (100, 5), (101, 4)], [(1, 0), (100, 6)]]
    (one,) = Images(folder, made.MESSAGES).sockets()
    assert one.local == ("10.0.0.2", 80)


def test_nothing_added_leaves_the_tables_alone(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("fdinfo-*")}
    images = Images(folder, made.MESSAGES)
    images.add([])
    images.edit_sockets({}, [])
    assert {path.name: path.read_bytes() for path in folder.glob("fdinfo-*")} == before
    assert files(folder) == [LISTENER.id]


def test_a_process_of_which_the_images_say_nothing_is_named(written, folder):
    (folder / "ids-9.img").write_bytes(made.MAGIC + b"\1\0\0\0\xff")
    with pytest.raises(AgentError, match=r"ids-9\.img") as caught:
        Images(folder, made.MESSAGES).add([written.door(100, [(9, 5)])])
    assert caught.value.code is Code.IMAGE_DAMAGED
