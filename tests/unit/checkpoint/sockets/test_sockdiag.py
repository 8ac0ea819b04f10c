"""The twin of checkpoint/sockets/sockdiag.py; what the kernel itself says is asked for in test_unkept.py."""

from __future__ import annotations

import os
import socket
import struct

from checkpoint.sockets import sockdiag


def test_the_attributes_of_a_message():
    raw = struct.pack("=HH1s3x", 5, 8, b"x") + struct.pack("=HHI", 8, 18, 0)
    assert sockdiag.attributes(raw) == {8: b"x", 18: bytes(4)}


def test_garbage_has_an_end():
    assert sockdiag.attributes(bytes(8)) == {0: b""}
    assert sockdiag.attributes(b"abc") == {}


def test_unix_sockets_and_their_partners():
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_UNIX) as alone:
        inodes = [os.fstat(each.fileno()).st_ino for each in (one, other, alone)]
        found = sockdiag.partners()
    assert [found.get(inode) for inode in inodes] == [inodes[1], inodes[0], None]
