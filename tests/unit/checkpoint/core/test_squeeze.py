"""Compression: on where the wire is slower than the compressor and the memory gives way, off elsewhere."""

from __future__ import annotations

import pytest

from checkpoint.core.squeeze import LEARN_CHUNKS, PROBE_EVERY, Mode, Squeeze

CHUNK = 1 << 20


def run(squeeze: Squeeze, chunks: int, *, ratio: float, compress_seconds: float, wire_seconds: float) -> list[bool]:
    decided = []
    for _ in range(chunks):
        wanted = squeeze.wanted()
        decided.append(wanted)
        size = int(CHUNK * ratio) if wanted else CHUNK
        if wanted:
            squeeze.compressed(CHUNK, size, compress_seconds)
        else:
            squeeze.stored(CHUNK)
        squeeze.carried(size, wire_seconds * size / CHUNK)
    return decided


@pytest.mark.parametrize(("mode", "wanted"), [(Mode.ON, True), (Mode.OFF, False)])
def test_it_does_as_it_is_told(mode, wanted):
    assert set(run(Squeeze(mode), 100, ratio=0.5, compress_seconds=1, wire_seconds=0)) == {wanted}


def test_a_slow_wire_gets_compressed_chunks():
    decided = run(Squeeze(), 200, ratio=0.3, compress_seconds=0.001, wire_seconds=0.01)
    assert all(decided[LEARN_CHUNKS:])


def test_a_fast_wire_does_not():
    decided = run(Squeeze(), 200, ratio=0.3, compress_seconds=0.01, wire_seconds=0.001)
    assert sum(decided[LEARN_CHUNKS:]) == sum(at % PROBE_EVERY == 0 for at in range(LEARN_CHUNKS, 200))


def test_a_wire_that_is_never_waited_for_does_not():
    assert not any(run(Squeeze(), PROBE_EVERY, ratio=0.1, compress_seconds=0.001, wire_seconds=0)[LEARN_CHUNKS:])


def test_what_does_not_shrink_is_not_compressed():
    assert not any(run(Squeeze(), PROBE_EVERY, ratio=1.0, compress_seconds=0.001, wire_seconds=1)[LEARN_CHUNKS:])


def test_memory_that_changes_its_nature_is_noticed():
    squeeze = Squeeze()
    run(squeeze, 2 * PROBE_EVERY, ratio=1.0, compress_seconds=0.001, wire_seconds=0.01)
    decided = run(squeeze, 20 * PROBE_EVERY, ratio=0.1, compress_seconds=0.001, wire_seconds=0.01)
    assert all(decided[-10:])


def test_both_rates_are_learned_first():
    decided = run(Squeeze(), LEARN_CHUNKS, ratio=0.5, compress_seconds=1, wire_seconds=1)
    assert sum(decided) == LEARN_CHUNKS // 2


def test_the_report_says_what_was_measured():
    squeeze = Squeeze(Mode.ON)
    squeeze.compressed(1000, 400, 0.5)
    squeeze.compressed(0, 0, 0.0)
    squeeze.compressed(1, 1, 0.0)  # a clock too coarse to tell
    squeeze.carried(400, 0.1)
    found = squeeze.report()
    assert (found.mode, found.plain_bytes, found.packed_bytes) == ("on", 1001, 401)
    assert (found.compressed_chunks, found.plain_chunks) == (3, 0)
    assert found.compress_bytes_per_second == 2000
    assert found.wire_bytes_per_second == 4000
    assert Squeeze().report().wire_bytes_per_second == 0


def test_with_a_rate_assumed_nothing_is_compressed_to_learn_where_the_wire_is_faster():
    assert not any(run(Squeeze(assumed=0.5e9), 300, ratio=0.3, compress_seconds=0.002, wire_seconds=0.001))


def test_with_a_rate_assumed_a_slow_wire_is_met_at_once():
    decided = run(Squeeze(assumed=0.5e9), 200, ratio=0.3, compress_seconds=0.002, wire_seconds=0.1)
    assert not any(decided[:4])  # nothing is known of it yet
    assert all(decided[5:])


def test_with_a_rate_assumed_what_does_not_shrink_is_tried_now_and_then():
    decided = run(Squeeze(assumed=0.5e9), 200, ratio=1.0, compress_seconds=0.002, wire_seconds=0.1)
    assert sum(decided) == 1 + 200 // PROBE_EVERY  # the first of them is how it finds out
