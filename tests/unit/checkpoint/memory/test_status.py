"""What the taker leaves for the agent."""

from __future__ import annotations

import msgspec

from checkpoint.api import Memory
from checkpoint.memory.status import STATUS, Status


def test_it_is_whole_and_counts_what_has_come(tmp_path):
    status = Status(tmp_path)
    status.total_bytes, status.faults = 100, 3
    status.write("waiting", 100, status.began)
    status.write("lost", 40, status.began + 2.0, "why")
    found = msgspec.json.decode((tmp_path / STATUS).read_bytes())
    assert found == {
        "state": "lost", "reason": "why", "total_bytes": 100, "arrived_bytes": 60, "faults": 3, "seconds": 2.0,
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


def test_what_came_before_the_freeze_is_said_where_something_did(tmp_path):
    status = Status(tmp_path)
    status.early(coming=False, size=70, kept_bytes=60)
    status.write("fetching", 0, status.began)
    found = msgspec.json.decode((tmp_path / STATUS).read_bytes(), type=Memory)
    assert (found.early, found.early_bytes, found.kept_bytes) == ("there", 70, 60)
