"""Images: places, sockets, the edits of each state, and what a broken one is called."""

from __future__ import annotations

import pytest

from checkpoint.core import readdress as tcp
from checkpoint.core.errors import AgentError, Code
from checkpoint.images.folder import Images
from tests.harness import made_images as made

READ, WRITE, BOTH = 1, 2, 3
POD, PEER = [0x0100000A], [0x0900000A]  # 10.0.0.1, 10.0.0.9
MAP = {"10.0.0.1": "10.0.0.2"}


@pytest.fixture
def images(tmp_path):
    return Images(tmp_path, made.MESSAGES)


def edited(images, folder, entry, inside=()):
    made.write(folder, "files", [entry])
    images.edit_sockets(MAP, [one for one in images.sockets() if one.ino in inside])
    (again,) = Images(folder, made.MESSAGES)._load()
    return again.isk


@pytest.mark.parametrize(
    ("state", "before", "after"),
    [
        (tcp.CLOSE_WAIT, READ, None),
        (tcp.CLOSE, READ, None),
        (tcp.LAST_ACK, BOTH, WRITE),
        (tcp.FIN_WAIT2, WRITE, WRITE),
        (tcp.ESTABLISHED, READ, READ),
        (tcp.ESTABLISHED, None, None),
        (tcp.CLOSE_WAIT, WRITE, WRITE),
    ],
)
def test_what_a_fin_shut_down_is_open_again_and_what_the_application_did_stays(images, tmp_path, state, before, after):
    entry = made.inet(1, state, POD, 80, PEER, 9)
    if before is not None:
        entry.isk.shutdown = before
    found = edited(images, tmp_path, entry)
    assert found.state == tcp.ESTABLISHED
    assert (found.shutdown if found.HasField("shutdown") else None) == after


def test_a_listener_gets_the_new_address_and_stays_a_listener(images, tmp_path):
    found = edited(images, tmp_path, made.inet(1, tcp.LISTEN, POD, 80, [0], 0))
    assert (tcp.host_of(found.src_addr), found.state) == ("10.0.0.2", tcp.LISTEN)


def test_a_connection_inside_the_tree_changes_at_both_ends(images, tmp_path):
    found = edited(images, tmp_path, made.inet(1, tcp.ESTABLISHED, POD, 80, POD, 9), inside={1})
    assert (tcp.host_of(found.src_addr), tcp.host_of(found.dst_addr)) == ("10.0.0.2", "10.0.0.2")


def test_an_image_without_windows_gets_none(images, tmp_path):
    entry = made.stream({"inq_seq": 1, "inq_len": 0, "outq_seq": 1, "outq_len": 0})
    made.write(tmp_path, "tcp-stream-1", [entry])
    stream = images.stream(1)
    stream.write(stream.numbers)
    assert not images.stream(1).entry.HasField("rcv_wnd")


WSCALE = 4


@pytest.mark.parametrize(("agreed", "scales"), [(0, (0, 0)), (WSCALE, (7, 9))])
def test_the_windows_scales_are_always_said(images, tmp_path, agreed, scales):
    entry = made.stream({"inq_seq": 1, "inq_len": 2, "outq_seq": 1, "outq_len": 0})
    entry.opt_mask |= agreed
    entry.snd_wscale, entry.rcv_wscale = (7, 9)
    made.write(tmp_path, "tcp-stream-1", [entry], b"ab")
    stream = images.stream(1)
    stream.write(stream.numbers)
    found = images.stream(1)
    assert found.entry.opt_mask & WSCALE
    assert (found.entry.snd_wscale, found.entry.rcv_wscale) == scales
    assert found.unread == b"ab"


@pytest.mark.parametrize("raw", [b"", made.MAGIC + b"\x01", made.MAGIC + b"\xff\0\0\0x", made.MAGIC + b"\1\0\0\0\xff"])
def test_a_broken_image_is_named(images, tmp_path, raw):
    (tmp_path / "tcp-stream-1.img").write_bytes(raw)
    with pytest.raises(AgentError, match=r"tcp-stream-1\.img") as caught:
        images.stream(1)
    assert caught.value.code is Code.IMAGE_DAMAGED


def test_a_queue_that_is_cut_short_is_named(images, tmp_path):
    made.write(
        tmp_path, "tcp-stream-1", [made.stream({"inq_seq": 1, "inq_len": 5, "outq_seq": 1, "outq_len": 0})], b"abc"
    )
    with pytest.raises(AgentError, match="cut short"):
        images.stream(1)


def test_criu_s_account_is_given_in_seconds(images, tmp_path):
    account = made.MESSAGES.stats()
    numbers = {"freezing_time": 500, "frozen_time": 2_000_000, "memdump_time": 1, "memwrite_time": 1}
    for name, value in numbers.items():
        setattr(account.dump, name, value)
    account.dump.pages_scanned = account.dump.pages_skipped_parent = account.dump.pages_written = (
        account.dump.pages_lazy
    ) = 0
    made.write(tmp_path, "stats", [account])
    (tmp_path / "stats.img").rename(tmp_path / "stats-dump")
    assert images.seconds(tmp_path, "dump") == {"freezing": 0.0005, "frozen": 2.0, "memdump": 1e-6, "memwrite": 1e-6}
    assert images.seconds(tmp_path, "restore") == {}


@pytest.mark.parametrize("raw", [b"", made.MAGIC, made.MAGIC + b"\xff\0\0\0x"])
def test_an_account_that_found_no_room_is_none(images, tmp_path, raw):
    (tmp_path / "stats-restore").write_bytes(raw)
    assert images.seconds(tmp_path, "restore") == {}


@pytest.mark.parametrize(
    ("ticks", "value", "interval", "after"),
    [
        (2, (0, 0), (1, 5), (1, 5)),
        (0, (0, 0), (1, 5), (0, 0)),
        (2, (0, 7), (1, 5), (0, 7)),
        (2, (0, 0), (0, 0), (0, 0)),
    ],
)
def test_a_periodic_timer_whose_expiry_is_unread_stays_armed(images, tmp_path, ticks, value, interval, after):
    one = made.MESSAGES.file(type=made.MESSAGES.INETSK, id=7)
    types = one.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_name
    one.type = types["TIMERFD"].number
    one.tfd.id, one.tfd.flags, one.tfd.clockid, one.tfd.ticks, one.tfd.settime_flags = 7, 0, 1, ticks, 0
    one.tfd.fown.uid = one.tfd.fown.euid = one.tfd.fown.signum = one.tfd.fown.pid_type = one.tfd.fown.pid = 0
    (one.tfd.vsec, one.tfd.vnsec), (one.tfd.isec, one.tfd.insec) = value, interval
    made.write(tmp_path, "files", [one])
    images.edit_sockets(MAP, [])
    (again,) = Images(tmp_path, made.MESSAGES)._load()
    assert (again.tfd.vsec, again.tfd.vnsec) == after
