"""Clock, faults and the log of calls."""

from __future__ import annotations

from datetime import UTC, datetime

from uid2_async.operator import Fault, RecordedCall as Call
from uid2_async.operator.state import OperatorState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = 1_767_225_600_000
FIRST, SECOND = Fault(status=500), Fault(status=503)


def make() -> OperatorState:
    """Make a state whose clock stands still."""
    return OperatorState(lambda: NOW)


def test_the_clock_is_set_forward_and_back() -> None:
    """On top of the clock that was given."""
    state = make()
    state.advance(1.5)
    state.advance(-0.5)

    assert state.now_ms() == NOW_MS + 1_000


def test_without_a_clock_the_time_is_the_real_one() -> None:
    """A sandbox runs in real time."""
    now = datetime.now(UTC).timestamp() * 1000

    assert abs(OperatorState().now_ms() - now) < 60_000


def test_faults_come_in_the_order_in_which_they_were_armed() -> None:
    """Each as often as asked for."""
    state = make()
    state.arm(FIRST, times=2, path=None)
    state.arm(SECOND, times=1, path=None)

    assert [state.take_fault("/x") for _ in range(4)] == [FIRST, FIRST, SECOND, None]


def test_a_fault_of_one_path_waits_for_it() -> None:
    """Others pass it by."""
    state = make()
    state.arm(FIRST, times=1, path="/x")
    state.arm(SECOND, times=1, path=None)

    assert state.take_fault("/y") == SECOND
    assert state.take_fault("/y") is None
    assert state.take_fault("/x") == FIRST


def test_the_log_does_not_grow_without_end() -> None:
    """The oldest calls of very many are dropped."""
    state = make()
    for status in range(10_001):
        state.record(Call(method="POST", path="/x", status=status), resets=0)

    assert len(state.calls) == 10_000
    assert state.calls[0].status == 1


def test_a_reset_forgets_everything() -> None:
    """One operator can serve many tests."""
    state = make()
    state.advance(60)
    state.arm(FIRST, times=1, path=None)
    state.record(Call(method="POST", path="/x", status=200), resets=0)

    state.reset()

    assert state.now_ms() == NOW_MS
    assert state.take_fault("/x") is None
    assert state.calls == []


def test_an_answer_under_way_during_a_reset_is_not_logged() -> None:
    """The next test does not see the state of the last one."""
    state = make()
    with state.answering() as resets:
        state.reset()
        state.record(Call(method="POST", path="/late", status=200), resets=resets)
    with state.answering() as resets:
        state.record(Call(method="POST", path="/x", status=200), resets=resets)

    assert [call.path for call in state.calls] == ["/x"]
