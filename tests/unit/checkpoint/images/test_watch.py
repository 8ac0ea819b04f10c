from __future__ import annotations

from checkpoint.images.watch import FolderWatch
from checkpoint.kernel import IN_CLOSE_WRITE, IN_MODIFY, Kernel


async def test_what_happens_to_each_file_is_told_once_in_a_while_and_at_once_when_asked(tmp_path, wait_until):
    told: list[dict[str, int]] = []
    watch = FolderWatch(Kernel(), tmp_path, IN_MODIFY | IN_CLOSE_WRITE, lambda masks: told.append(dict(masks)))
    watch.look()
    assert told == [], "nothing has happened"
    with (tmp_path / "grows").open("wb", buffering=0) as file:
        file.write(b"1")
        await wait_until(lambda: told)
        assert told == [{"grows": IN_MODIFY}]
        (tmp_path / "whole").touch()
        watch.look()
        assert told[1:] == [{"whole": IN_CLOSE_WRITE}]
    await wait_until(lambda: len(told) == 3)
    assert told[2] == {"grows": IN_CLOSE_WRITE}
    watch.close()
    watch.look()
    watch.close()


async def test_whoever_is_told_may_close_it(tmp_path, wait_until):
    told = []

    def seen(masks):
        told.append(masks)
        watch.close()

    watch = FolderWatch(Kernel(), tmp_path, IN_CLOSE_WRITE, seen)
    (tmp_path / "one").touch()
    await wait_until(lambda: told)
    (tmp_path / "two").touch()
    watch.look()
    assert len(told) == 1
