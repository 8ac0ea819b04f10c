"""Silence: only while a reply is due, from the last byte heard."""

from controller.demo.report import Silent
from controller.demo.silence import KEPT, Silence


def test_what_is_owed_nothing_is_idle_not_silent() -> None:
    silence = Silence()
    silence.heard(5.0)
    assert silence.current(9.0) == 0.0
    assert silence.longest() == []


def test_a_silence_lasts_from_the_request_to_the_first_byte() -> None:
    silence = Silence()
    silence.asked(1.0, 8)
    assert silence.current(1.25) == 0.25
    silence.heard(1.5)
    assert silence.longest() == [Silent(1.0, 1.5)]


def test_the_next_one_begins_with_the_last_byte() -> None:
    silence = Silence()
    silence.asked(1.0, 2)
    silence.heard(1.5)
    silence.answered(1)
    silence.heard(3.5)
    silence.answered(1)
    assert silence.current(9.0) == 0.0
    assert silence.longest() == [Silent(1.5, 3.5), Silent(1.0, 1.5)]


def test_asking_more_while_waiting_does_not_begin_anew() -> None:
    silence = Silence()
    silence.asked(1.0, 1)
    silence.asked(1.9, 1)
    assert silence.outstanding == 2
    assert silence.current(2.0) == 1.0


def test_uninvited_replies_do_not_make_it_owe_less_than_nothing() -> None:
    silence = Silence()
    silence.answered(3)
    assert silence.outstanding == 0


def test_an_end_is_the_end_of_the_silence() -> None:
    silence = Silence()
    silence.asked(1.0, 1)
    silence.ended(4.0)
    assert silence.longest() == [Silent(1.0, 4.0)]
    assert silence.current(9.0) == 0.0


def test_the_longest_are_kept() -> None:
    silence = Silence()
    for number in range(100):
        silence.asked(10.0 * number, 1)
        silence.heard(10.0 * number + (number * 37 % 100) / 100)
        silence.answered(1)
    kept = [round(each.seconds * 100) for each in silence.longest()]
    assert kept == list(range(99, 99 - KEPT, -1))


def test_what_came_before_the_run_is_forgotten() -> None:
    silence = Silence()
    silence.asked(1.0, 1)
    silence.heard(8.0)
    silence.forget()
    assert silence.longest() == []
    silence.heard(8.5)
    assert silence.longest() == [Silent(8.0, 8.5)]
