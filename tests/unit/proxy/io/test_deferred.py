from __future__ import annotations

import asyncio

from proxy.io.deferred import Deferred
from tests.harness import proxy_parts as parts


async def test_work_is_done_later_and_in_order() -> None:
    later, done = Deferred(asyncio.get_running_loop()), list[int]()
    for number in range(3):
        later.add(lambda number=number: done.append(number))  # type: ignore[misc]
    later.do_in(0.01)
    later.do_in(60)  # as was said before
    assert not done
    await parts.eventually(lambda: done == [0, 1, 2])
    later.add(lambda: done.append(3))
    later.do_in(0)
    await parts.eventually(lambda: done[-1] == 3)


async def test_or_when_it_is_asked_for() -> None:
    later, done = Deferred(asyncio.get_running_loop()), list[int]()
    later.add(lambda: done.append(0))
    later.add(later.do)  # what it does may ask for it as well
    later.add(lambda: done.append(1))
    later.do_in(60)
    later.do()
    assert done == [0, 1]
    later.do()
    assert done == [0, 1]
