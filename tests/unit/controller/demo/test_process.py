"""A child that is no good load: it says nonsense, dies, or is silent. (A good one: tests/system/test_load_alone.py.)"""

from __future__ import annotations

import pytest

from controller.demo import process
from controller.demo.options import Options
from controller.demo.process import LoadError, LoadProcess
from controller.demo.report import Tick

OPTIONS = Options(host="127.0.0.1", port=1, ready_seconds=0.1, drain_seconds=0.1)


async def child(script: str, ticks: list[Tick] | None = None) -> LoadProcess:
    """A shell script in the load's place; the load's own command line is its arguments."""
    return await LoadProcess.start(OPTIONS, (ticks if ticks is not None else []).append, ("/bin/sh", "-c", script))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo nonsense", "no event"),
        ("exit 7", "ended with status 7"),
        ("""echo '{"event":"failed","message":"no server"}'; cat""", "no server"),
    ],
)
async def test_what_it_cannot_do_it_says(script: str, message: str) -> None:
    async with await child(script) as load:
        with pytest.raises(LoadError, match=message):
            await load.ready()
        with pytest.raises(LoadError, match=message):
            await load.stop()


async def test_ticks_are_passed_on() -> None:
    ticks: list[Tick] = []
    tick = '{"event":"tick","at":1,"requests":2,"wrong":0,"open":5,"lost":0,"silence_seconds":0.1,'
    tick += '"probes":3,"probes_failed":0,"bulk_bytes":9}'
    async with await child(f"""echo '{tick}'; echo '{{"event":"ready","at":1,"connections":5}}'; cat""", ticks) as load:
        assert (await load.ready()).connections == 5
    assert [each.requests for each in ticks] == [2]


async def test_a_silent_one_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SPARE_SECONDS", 0.05)
    async with await child("cat >/dev/null") as load:
        with pytest.raises(LoadError, match="said nothing"):
            await load.ready()
        with pytest.raises(LoadError, match="said nothing"):
            await load.stop()


async def test_a_stubborn_one_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SPARE_SECONDS", 0.05)
    load = await child("exec sleep 60")
    await load.close()
    assert load.process.returncode == -9
