"""The journal: written and read; what is no journal is none."""

from __future__ import annotations

import pytest

from checkpoint.core import journal as j
from checkpoint.core.custody import State


def test_what_is_written_can_be_read():
    root = j.Identity(7, 1234)
    migration = j.MigrationRecord("m", "w", "source", State.SEALED, root=root, members=[root], readdress={"a": "b"})
    full = j.Journal([j.WorkloadRecord("w", root, ["sleep"])], [migration])
    assert j.decode(j.encode(full)) == full


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"workloads": 3}', b'{"migrations": [{"migration": "m"}]}'])
def test_what_is_no_journal_is_none(raw):
    assert j.decode(raw) is None
