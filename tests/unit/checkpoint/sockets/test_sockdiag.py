"""The twin of checkpoint/sockets/sockdiag.py; what the kernel itself says is asked for in test_unkept.py."""

from __future__ import annotations

import struct

from checkpoint.sockets import sockdiag


def test_the_attributes_of_a_message():
    raw = struct.pack("=HH1s3x", 5, 8, b"x") + struct.pack("=HHI", 8, 18, 0)
    assert sockdiag.attributes(raw) == {8, 18}


def test_garbage_has_an_end():
    assert sockdiag.attributes(bytes(8)) == {0}
    assert sockdiag.attributes(b"abc") == set()
