"""When pre-copy stops, from recorded rounds; and its options, as CRIU's own parser takes them."""

from __future__ import annotations

import subprocess
from math import isfinite

import pytest

from checkpoint.api import PreDumped
from checkpoint.core.precopy import Limits, Round, after, answer, decide, pre_dump
from tests.harness.made_images import MESSAGES
from tests.harness.solo_agent import CRIU

MIB = 1 << 20
_NOBODY = (1 << 22) - 1
"""A PID that nothing has: where the kernel could do it, there is nothing to be dumped."""

LIMITS = Limits()

# A 1 GiB Redis under 20 MB/s of writes, as rounds of it would be at 300 MB/s: each copies what the last let be written.
CALM = [Round(1024 * MIB, 3.4), Round(70 * MIB, 0.24), Round(5 * MIB, 0.02)]
BUSY = [Round(1024 * MIB, 3.4), Round(1000 * MIB, 3.3)]
SLOWLY = [Round(1024 * MIB, 3.4), Round(800 * MIB, 2.7), *[Round(600 * MIB, 2.0)] * 6]


def test_after_one_round_nothing_is_known_and_there_is_another():
    found = decide(CALM[:1], LIMITS)
    assert found.what == "another-round"
    assert found.freeze_seconds > 3


def test_a_calm_workload_is_stopped_as_soon_as_the_rest_is_short():
    found = decide(CALM[:2], LIMITS)
    assert (found.what, found.freeze_seconds < 0.25) == ("freeze", True)
    assert decide(CALM, LIMITS).freeze_seconds < found.freeze_seconds


def test_one_that_writes_as_fast_as_it_is_copied_is_given_up():
    found = decide(BUSY, LIMITS)
    assert (found.what, "writes about as fast" in found.reason) == ("fall-back", True)


def test_between_the_two_the_rounds_decide():
    ratios = Limits(dirty_ratio=1.5)
    assert decide(SLOWLY[:3], ratios).what == "another-round"
    assert decide(SLOWLY, ratios).what == "fall-back"
    helped = [*SLOWLY[:2], *[Round(300 * MIB, 1.0)] * 6]
    found = decide(helped, ratios)
    assert (found.what, found.reason) == ("freeze", "after 8 rounds, that is all that can be had")


def test_what_a_round_takes_besides_copying_is_no_sign_of_a_slow_copy():
    """As 28 MB of a Redis went in two rounds, each of which began a process."""
    found = decide([Round(28195005, 0.301), Round(104907, 0.270)], LIMITS)
    assert found.what == "freeze"
    assert found.freeze_seconds < LIMITS.base_seconds + 0.01


def test_the_answer_is_about_the_last_round():
    found = answer(CALM, LIMITS)
    assert found == PreDumped(3, 5 * MIB, 0.02, "freeze", "what is left is short enough", found.freeze_seconds)


def test_rounds_that_took_no_time_or_wrote_nothing_are_no_trouble():
    assert decide([Round(0, 0.0)], LIMITS).what == "another-round"
    assert decide([Round(MIB, 1.0), Round(0, 0.01)], LIMITS).what == "freeze"
    assert decide([Round(MIB, 0.0), Round(MIB, 0.2)], LIMITS).what == "fall-back"
    assert all(isfinite(decide(some, LIMITS).freeze_seconds) for some in ([Round(0, 0.0)], [Round(MIB, 0.0)] * 2))


@pytest.mark.parametrize("wanted", [pre_dump(1, "/x", 3), pre_dump(1, "/x", 3, "../1"), after("../1")])
def test_the_request_is_one_that_crius_protocol_has(wanted):
    made = MESSAGES.options(**{"images_dir_fd": -1, **wanted})
    assert made.track_mem
    made.SerializeToString()


def command_line(options):
    """The same as a command line of `criu`, whose parser is asked."""
    flags = {"pid": "--tree", "images_dir": "--images-dir", "parent_img": "--prev-images-dir", "log_file": "--log-file"}
    words = []
    for name, value in options.items():
        if name in flags:
            words += [flags[name], str(value)]
        elif value is True:
            words.append("--" + name.replace("_", "-"))
    return words


@pytest.mark.parametrize("parent", ["", "../1"])
def test_crius_own_parser_takes_every_option(tmp_path, parent):
    words = command_line(pre_dump(_NOBODY, str(tmp_path), -1, parent))
    assert ("--prev-images-dir" in words) == bool(parent)
    done = subprocess.run([CRIU, "pre-dump", *words], capture_output=True, text=True, cwd=tmp_path)
    said = done.stderr + "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "unrecognized option" not in said
    assert "invalid option" not in said


def test_the_parser_would_say_so():
    done = subprocess.run([CRIU, "pre-dump", "--no-such-thing"], capture_output=True, text=True)
    assert "unrecognized option" in done.stderr
