"""The twin of checkpoint/images/cores.py."""

from __future__ import annotations

from checkpoint.images import cores
from checkpoint.images.folder import entries
from tests.harness.made_images import MESSAGES, core, write

POLL, EINTR = 7, -4 % (1 << 64)


def test_waits_go_on_and_only_the_root_forgets_its_parent(tmp_path):
    for tid in (7, 8, 9):
        write(tmp_path, f"core-{tid}", [core(pdeath_sig=15, orig_ax=POLL, ax=EINTR, ip=1002)])
    untouched = (tmp_path / "core-10.img", [core(orig_ax=POLL, ax=0)])
    write(tmp_path, "core-10", untouched[1])
    before = untouched[0].stat()
    cores.edit(tmp_path, MESSAGES, [7, 8])
    found = {tid: next(entries(str(tmp_path / f"core-{tid}.img"), MESSAGES.core)) for tid in (7, 8, 9)}
    assert {tid: one.thread_core.pdeath_sig for tid, one in found.items()} == {7: 0, 8: 0, 9: 15}
    assert {one.thread_info.gpregs.ip for one in found.values()} == {1000}
    assert untouched[0].stat() == before


def test_another_machines_threads_stay(tmp_path):
    other, older = core(orig_ax=POLL, ax=EINTR), core(orig_ax=POLL, ax=EINTR, mode=MESSAGES.NATIVE + 1)
    other.mtype = MESSAGES.X86_64 + 2
    for tid, one in ((7, other), (8, older)):
        write(tmp_path, f"core-{tid}", [one])
        cores.edit(tmp_path, MESSAGES, [])
        assert next(entries(str(tmp_path / f"core-{tid}.img"), MESSAGES.core)).thread_info.gpregs.ax == EINTR
