"""The operator's clock, estimated, and what follows from it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists

from uid2_async.clock import NS_PER_MS, ClockReading, ClockSkew
from uid2_async.errors import ClockSkewError

START_MS = 1_767_225_600_000


class Clocks:
    """A wall clock that is off, a loop's clock, and an operator's that is right."""

    def __init__(self, off_s: float = 0.0) -> None:
        """Start all of them; the wall clock is ahead by *off_s* seconds."""
        self.off_s = off_s
        self.monotonic_s = 1_000.0
        self.skew = ClockSkew(
            lambda: (self.true_ms + round(self.off_s * 1000)) * NS_PER_MS,
            lambda: self.monotonic_s,
        )

    @property
    def true_ms(self) -> int:
        """The operator's time."""
        return START_MS + round(self.monotonic_s * 1000)

    @property
    def now(self) -> ClockReading:
        """This machine's time."""
        return self.skew.read()

    def exchange(self, *, there: float = 0.05, back: float = 0.05) -> None:
        """Let a sealed reply come."""
        sent = self.now
        self.monotonic_s += there
        server_ms = self.true_ms
        self.monotonic_s += back
        self.skew.observe(sent, self.now, server_ms)

    def refuse(self, *, date_off_s: float | None = None) -> ClockSkewError:
        """Let the operator refuse a request that is sent now."""
        sent, error = self.now, ClockSkewError()
        self.monotonic_s += 0.1
        off = date_off_s
        date_ms = None if off is None else self.true_ms - 50 + round(off * 1000)
        self.skew.on_time_rejected(error, sent, self.now, date_ms)
        return error

    @property
    def error_s(self) -> float:
        """By how much the next request's time is wrong."""
        return (self.now.operator_ms - self.true_ms) / 1000


def assert_unknown(error: ClockSkewError) -> None:
    """Nothing is known about the clocks."""
    assert (error.corrected, error.late, error.offset) == (False, False, None)


def test_nothing_is_corrected_before_anything_is_known() -> None:
    """A clock is taken as it is."""
    clocks = Clocks(off_s=300)

    assert clocks.error_s == 300


@pytest.mark.parametrize("off_s", [-300, -6, 6, 300])
def test_an_offset_that_matters_is_corrected(off_s: float) -> None:
    """From the first sealed reply on."""
    clocks = Clocks(off_s)
    clocks.exchange()

    assert clocks.error_s == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("off_s", [-4.9, 0, 4.9])
def test_a_small_offset_is_left_alone(off_s: float) -> None:
    """Two clocks are never quite the same."""
    clocks = Clocks(off_s)
    clocks.exchange()

    assert clocks.error_s == off_s


def test_a_slow_reply_says_less() -> None:
    """What could be the way alone is no offset; the shortest way counts."""
    clocks = Clocks(off_s=7)
    clocks.exchange(there=6, back=0)
    assert clocks.error_s == 7

    clocks.exchange()
    clocks.exchange(there=0, back=6)
    assert clocks.error_s == pytest.approx(0, abs=0.06)


@given(
    floats(-1_000, 1_000),
    floats(0, 5),
    floats(0, 5),
    integers(min_value=1, max_value=9),
)
def test_the_error_is_at_most_half_of_the_way(
    off_s: float, there: float, back: float, count: int
) -> None:
    """However unevenly the way is shared; and what is left is below what matters."""
    clocks = Clocks(off_s)
    for _ in range(count):
        clocks.exchange(there=there, back=back)

    corrected = clocks.now.operator_ms != clocks.now.wall_ms
    half_way = (there + back) / 2
    bound = half_way if corrected else 5 + 2 * half_way
    assert abs(clocks.error_s) <= bound + 0.003


def test_a_drifting_clock_is_followed() -> None:
    """Only the last samples count: 2 s a minute for an hour never add up."""
    clocks = Clocks()
    for _ in range(60):
        clocks.off_s += 2
        clocks.monotonic_s += 60
        clocks.exchange()
        assert abs(clocks.error_s) < 60


def test_a_clock_that_was_set_is_believed_again() -> None:
    """An old offset must not spoil a clock that is right by now."""
    clocks = Clocks(off_s=-600)
    clocks.exchange()
    clocks.off_s = 0

    assert clocks.error_s == 0


def test_a_clock_that_was_set_wrong_is_found_out() -> None:
    """The loop's clock still knows the operator's time when it refuses."""
    clocks = Clocks()
    clocks.exchange()
    clocks.off_s = 600
    assert clocks.error_s == 600

    assert clocks.refuse().corrected
    assert clocks.error_s == pytest.approx(0, abs=0.06)


def test_a_refusal_is_corrected_by_its_date() -> None:
    """Where nothing else is known; the correction is kept."""
    clocks = Clocks(off_s=-300)
    remedy = clocks.refuse(date_off_s=0)

    assert remedy.corrected
    assert remedy.offset == pytest.approx(300, abs=1)
    clocks.monotonic_s += 3_600
    assert abs(clocks.error_s) < 1


def test_a_sealed_reply_replaces_what_a_date_said() -> None:
    """A header is no witness beside it."""
    clocks = Clocks(off_s=-300)
    clocks.refuse(date_off_s=90)
    clocks.exchange(there=1, back=1)

    assert abs(clocks.error_s) < 1


@pytest.mark.parametrize("off_s", [25 * 3600.0, -25 * 3600.0, 1e9])
def test_an_absurd_date_is_not_believed(off_s: float) -> None:
    """A forger gains no more than a day."""
    clocks = Clocks()
    remedy = clocks.refuse(date_off_s=off_s)

    assert not remedy.corrected
    assert remedy.offset == pytest.approx(off_s, abs=1)
    assert clocks.error_s == 0


def test_without_any_witness_nothing_is_corrected() -> None:
    """Nobody knows by how much."""
    assert_unknown(Clocks(off_s=300).refuse())


@pytest.mark.parametrize("date_off_s", [None, 0])
def test_a_right_time_that_is_refused_was_late(date_off_s: float | None) -> None:
    """Then the request was too slow, and no clock is wrong."""
    clocks = Clocks()
    clocks.exchange()
    remedy = clocks.refuse(date_off_s=date_off_s)

    assert (remedy.corrected, remedy.late) == (False, True)


def test_an_old_sample_does_not_excuse_a_refusal() -> None:
    """After ten minutes a clock may have gone wrong."""
    clocks = Clocks()
    clocks.exchange()
    clocks.monotonic_s += 601

    assert_unknown(clocks.refuse())


def test_what_is_known_outlives_a_suspended_machine() -> None:
    """Its monotonic clock continues: no request is rejected or mistrusted."""
    clocks = Clocks(off_s=-300)
    clocks.exchange()
    clocks.monotonic_s += 86_400

    assert clocks.error_s == pytest.approx(0, abs=0.1)


def test_a_clock_that_is_far_off_is_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By how much, and no more often."""
    clocks = Clocks(off_s=-300)
    with caplog.at_level(logging.WARNING):
        clocks.exchange()
        clocks.exchange()

    assert [one.getMessage() for one in caplog.records] == [
        "This machine's clock is off by -300 s"
    ]


@given(lists(integers(1, 20), min_size=1, max_size=40))
def test_the_shortest_way_of_the_last_eight_counts(trips: list[int]) -> None:
    """The best sample that is kept is what choosing anew each time would give."""
    clocks = Clocks(off_s=60)
    for trip in trips:
        # All of the way is the way there: what is learned is off by half of it.
        clocks.exchange(there=trip / 10, back=0)

    assert clocks.error_s == pytest.approx(min(trips[-8:]) / 20, abs=0.002)
