"""Images on the wire and in an archive beside their floors."""

from __future__ import annotations

from tests.bench import targets
from tests.bench.figures import QUICK, Figures
from tests.bench.image_figures import Carried, Damage, Pair, Store, Transfer
from tests.bench.report import render
from tests.harness.measured import MACHINE


def test_images_are_claimed_beside_their_floors_and_unnoticed_damage_makes_the_bench_fail():
    rates = ((0.8e9, 0), (0.6e9, 200 << 20))
    plain = Carried(1e9)
    pairs = [
        Pair(Carried(rate, 1 << 20, grown), plain, Carried(rate + 0.1e9), Carried(rate * 2)) for rate, grown in rates
    ]
    store = Store(1 << 20, "a server", 1e8, 2e8, 3e8, 4e8, 5e8, [Damage("one", 10, 10), Damage("other", 10, 9)])
    figures = Figures(
        plan=QUICK, sections=["transfer", "store"], machine=MACHINE, transfer=Transfer(1 << 30, pairs), store=store
    )
    assert [(row.what, row.measured, row.met) for row in targets.rows(figures)] == [
        ("direct transfer / TLS socket", "0.80", True),
        ("the same, no room taken before", "0.90", None),
        ("no room taken before / TLS socket into a file", "0.58", None),
        ("an agent's memory meanwhile", "+200 MiB", False),
        ("through the store, written", "100 MB/s", None),
        ("through the store, read", "200 MB/s", None),
        ("a damaged byte in one", "10 of 10", True),
        ("a damaged byte in other", "9 of 10", False),
    ]
    assert figures.bad == ["store: 1 damaged bytes unnoticed in other"]
    assert "300 MB/s, the same library alone; 500 MB/s, the server's own client" in render(figures)
    assert targets.rows(Figures(plan=QUICK, sections=[], machine=MACHINE, transfer=Transfer(1, []))) == []
