"""What a copy gets that CRIU has not given it, and what is said of the rest."""

from __future__ import annotations

import os

import msgspec

from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.moves.restoring import Restoring
from checkpoint.moves.surroundings import Surroundings
from checkpoint.processes import attributes
from checkpoint.processes.attributes import TaskAttributes
from checkpoint.processes.tree import hold_all
from checkpoint.sockets import sockopts


def carried(folder) -> list[str]:
    """With this process as the copy."""
    around = Surroundings(Kernel(), None, None, None, "", lambda: None, None, lambda name: None)
    restoring = Restoring(around, "m", folder, None, None)
    copy = hold_all(Kernel(), [os.getpid()])
    restoring._carry_over(copy, Images(folder, None))
    copy.close()
    return restoring.not_carried


def test_what_cannot_be_set_is_remembered(tmp_path):
    wanted = [TaskAttributes(os.getpid(), {"CPU affinity": "4000"})]
    (tmp_path / attributes.FILE).write_bytes(msgspec.json.encode(wanted))
    (tmp_path / sockopts.FILE).write_bytes(b"[]")
    assert carried(tmp_path) == [f"CPU affinity 4000 of thread {os.getpid()}: Invalid argument"]


def test_images_of_a_time_that_knew_of_none(tmp_path):
    assert carried(tmp_path) == []
