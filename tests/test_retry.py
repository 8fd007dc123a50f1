"""What is retried, when, and how much of it."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, sampled_from
from tenacity import RetryCallState
from tenacity.stop import stop_after_attempt
from tenacity.wait import wait_fixed

from uid2_async import RetryBudget, RetryPolicy, errors
from uid2_async.retry import Backoff, Decision, Retries, classify

STALE = errors.ConnectError("lost", disconnected=True)
REFUSED = errors.ConnectError("refused")


def operator_error(
    cls: type[errors.OperatorError], status: int, retry_after: float | None = None
) -> errors.OperatorError:
    """Make an error of an HTTP status."""
    return cls("x", status=status, retry_after=retry_after)


def foreign_nonce() -> errors.EnvelopeError:
    """Make the error of a reply to another request."""
    error = errors.EnvelopeError()
    error.foreign_nonce = True
    return error


def clock_skew(*, corrected: bool = False, late: bool = False) -> errors.ClockSkewError:
    """Make the error of a refused time."""
    error = errors.ClockSkewError("x", status=400)
    error.corrected, error.late = corrected, late
    return error


@pytest.mark.parametrize(
    ("error", "retry", "backoff", "once"),
    [
        (REFUSED, True, Backoff.TRANSIENT, False),
        (STALE, True, Backoff.NONE, True),
        (errors.CallTimeoutError("x"), True, Backoff.TRANSIENT, False),
        (errors.TransportError("cut"), True, Backoff.TRANSIENT, False),
        (errors.CertificateError("x"), False, None, False),
        (operator_error(errors.RateLimitError, 429), True, Backoff.THROTTLING, False),
        (operator_error(errors.ServerError, 500), True, Backoff.TRANSIENT, False),
        (operator_error(errors.ServerError, 502), True, Backoff.TRANSIENT, False),
        (operator_error(errors.ServerError, 503), True, Backoff.TRANSIENT, False),
        (operator_error(errors.ServerError, 503, 3), True, Backoff.THROTTLING, False),
        (operator_error(errors.ServerError, 500, 3), True, Backoff.TRANSIENT, False),
        (
            operator_error(errors.UnexpectedStatusError, 408),
            True,
            Backoff.TRANSIENT,
            False,
        ),
        (
            operator_error(errors.UnexpectedStatusError, 425),
            True,
            Backoff.TRANSIENT,
            False,
        ),
        (operator_error(errors.UnexpectedStatusError, 404), False, None, False),
        (operator_error(errors.UnexpectedStatusError, 511), False, None, False),
        (operator_error(errors.BadRequestError, 400), False, None, False),
        (operator_error(errors.AuthError, 401), False, None, False),
        (operator_error(errors.PayloadTooLargeError, 413), False, None, False),
        (operator_error(errors.InvalidTokenError, 400), False, None, False),
        (errors.EnvelopeError(), True, Backoff.TRANSIENT, True),
        (foreign_nonce(), False, None, False),
        (errors.ProtocolError("x"), False, None, False),
        (
            errors.ProtocolError("x", unparseable_http=True),
            True,
            Backoff.TRANSIENT,
            True,
        ),
        (errors.InputError("x"), False, None, False),
        (clock_skew(corrected=True), True, Backoff.NONE, True),
        (clock_skew(late=True), True, Backoff.TRANSIENT, True),
        (clock_skew(), False, None, False),
        (errors.ClientClosedError("x"), False, None, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_table_decides(
    error: errors.UID2Error, retry: bool, backoff: Backoff | None, once: bool
) -> None:
    """Each outcome has one decision."""
    decision = classify(error)

    assert (decision.retry, decision.once) == (retry, once)
    if backoff is not None:
        assert decision.backoff is backoff


async def run_attempts(
    policy: RetryPolicy,
    attempt: Callable[[int, bool], Any],
    *,
    deadline: float = 1e9,
    now: Callable[[], float] = lambda: 0.0,
    on_retry: Callable[[int, float], object] = lambda *_: None,
) -> Any:
    """Make attempts under a policy, as a call does."""
    retries = Retries(policy, deadline=deadline, now=now, began=now())
    number = 1
    while True:
        try:
            result = await attempt(number, retries.fresh_connection)
        except errors.UID2Error as error:
            delay = retries.delay_after(error, number)
            if delay is None:
                raise
        else:
            if policy.budget is not None:
                policy.budget.succeeded(retries.last_cost)
            return result
        number += 1
        on_retry(number, delay)
        await retries.sleep(delay)


class Runner:
    """A scripted call under a policy, with time and randomness in hand."""

    def __init__(self, *script: Any, **options: Any) -> None:
        """Answer with each of *script* in turn: an error to raise, or a value."""
        self.script = list(script)
        self.now = 0.0
        self.delays: list[float] = []
        self.announced: list[tuple[int, float]] = []
        self.fresh: list[bool] = []
        options.setdefault("_random", lambda: 0.5)
        self.policy = RetryPolicy(_sleep=self.sleep, **options)

    async def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.delays.append(seconds)
        self.now += seconds

    async def attempt(self, number: int, fresh: bool) -> Any:
        """Do what the script says."""
        assert number == len(self.fresh) + 1
        self.fresh.append(fresh)
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    async def run(self, deadline: float = 30.0) -> Any:
        """Make the call."""
        return await run_attempts(
            self.policy,
            self.attempt,
            deadline=deadline,
            now=lambda: self.now,
            on_retry=lambda number, delay: self.announced.append((number, delay)),
        )


async def test_a_success_needs_no_retry() -> None:
    """The first answer is the answer."""
    runner = Runner("ok")

    assert await runner.run() == "ok"
    assert runner.delays == []


async def test_transient_failures_back_off_with_full_jitter() -> None:
    """The wait is U(0, 0.2 * 2**n) seconds, and each retry is announced."""
    runner = Runner(REFUSED, REFUSED, REFUSED, "ok")

    assert await runner.run() == "ok"
    assert runner.delays == pytest.approx([0.1, 0.2, 0.4])
    assert runner.announced == list(zip([2, 3, 4], runner.delays, strict=True))


async def test_the_backoff_is_capped() -> None:
    """However often it fails, a wait is at most 5 s, or 20 s under throttling."""
    many = 2_000
    transient = Runner(*[REFUSED] * many, attempts=many, budget=None, _random=lambda: 1)
    throttled = Runner(
        *[operator_error(errors.RateLimitError, 429)] * many,
        attempts=many,
        budget=None,
        _random=lambda: 1,
    )

    for runner, cap in ((transient, 5.0), (throttled, 20.0)):
        with pytest.raises(errors.UID2Error):
            await runner.run(deadline=1e9)
        assert len(runner.delays) == many - 1
        assert max(runner.delays) == runner.delays[-1] == cap


async def test_throttling_backs_off_with_equal_jitter() -> None:
    """A 429 without hint waits U(0.5, 1) * 2**n seconds."""
    slow = operator_error(errors.RateLimitError, 429)
    runner = Runner(slow, slow, slow, "ok")

    assert await runner.run() == "ok"
    assert runner.delays == pytest.approx([0.75, 1.5, 3.0])


async def test_a_hint_is_never_undercut() -> None:
    """The wait is at least what the operator asked for, a little spread."""
    slow = operator_error(errors.RateLimitError, 429, retry_after=7)
    runner = Runner(slow, "ok")

    await runner.run()

    assert runner.delays == pytest.approx([7 + 0.5 * 0.8])


async def test_a_zero_hint_is_no_hint() -> None:
    """``Retry-After: 0`` leaves the computed backoff."""
    runner = Runner(operator_error(errors.RateLimitError, 429, retry_after=0), "ok")

    await runner.run()

    assert runner.delays == pytest.approx([0.75])


async def test_too_long_a_hint_fails_at_once() -> None:
    """A wait of more than 20 s is the caller's decision."""
    slow = operator_error(errors.RateLimitError, 429, retry_after=21)
    runner = Runner(slow, "ok")

    with pytest.raises(errors.RateLimitError) as caught:
        await runner.run()

    assert caught.value.retry_after == 21
    assert caught.value.retryable
    assert runner.delays == []


async def test_the_last_error_comes_out_as_itself() -> None:
    """Neither tenacity's error nor an earlier one hides what happened last."""
    last = operator_error(errors.ServerError, 503)
    runner = Runner(REFUSED, REFUSED, REFUSED, last)

    with pytest.raises(errors.ServerError) as caught:
        await runner.run()

    assert caught.value is last
    assert caught.value.__cause__ is None


async def test_what_is_not_retryable_is_not_retried() -> None:
    """One attempt, and the error says so."""
    runner = Runner(operator_error(errors.AuthError, 401), "ok")

    with pytest.raises(errors.AuthError) as caught:
        await runner.run()

    assert not caught.value.retryable
    assert len(runner.fresh) == 1


@pytest.mark.parametrize("cls", [asyncio.CancelledError, KeyError, KeyboardInterrupt])
async def test_foreign_exceptions_are_never_retried(cls: type[BaseException]) -> None:
    """Cancellation above all goes straight through."""
    runner = Runner(cls(), "ok")

    with pytest.raises(cls):
        await runner.run()

    assert runner.delays == []


async def test_no_attempt_is_begun_that_cannot_end_in_time() -> None:
    """Half a second must be left after the wait."""
    tight = Runner(REFUSED, "ok")
    enough = Runner(REFUSED, "ok")

    with pytest.raises(errors.ConnectError):
        await tight.run(deadline=0.59)
    assert await enough.run(deadline=0.61) == "ok"


async def test_a_stale_connection_is_replaced_at_once() -> None:
    """The first lost connection costs no wait and no budget; the next ones do."""
    runner = Runner(STALE, STALE, STALE, "ok")
    budget = runner.policy.budget
    assert budget is not None

    assert await runner.run() == "ok"
    assert runner.delays == pytest.approx([0.0, 0.2, 0.4])
    assert runner.fresh == [False, True, True, True]
    # Two charged retries, of which the last is given back on success.
    assert budget.level == 500 - RetryBudget.TRANSIENT_COST


async def test_an_unreadable_reply_is_retried_once() -> None:
    """A second reply that cannot be opened is no accident."""
    runner = Runner(errors.EnvelopeError(), errors.EnvelopeError(), "ok")

    with pytest.raises(errors.EnvelopeError):
        await runner.run()

    assert runner.fresh == [False, True]


async def test_tenacity_objects_replace_attempts_and_backoff() -> None:
    """Stop and wait of tenacity are taken as they are."""
    runner = Runner(
        *[REFUSED] * 9, "ok", stop=stop_after_attempt(3), wait=wait_fixed(0.25)
    )

    with pytest.raises(errors.ConnectError):
        await runner.run()

    assert runner.delays == [0.25, 0.25]


async def test_a_stop_that_counts_seconds_counts_from_the_first_attempt() -> None:
    """They go by the time at which the call began."""
    begun: list[float] = []
    counted_from: list[float] = []

    async def fail(number: int, fresh: bool) -> None:
        begun.append(time.monotonic())
        raise REFUSED

    def stop(state: RetryCallState) -> bool:
        counted_from.append(state.start_time)
        return state.attempt_number == 3

    runner = Runner(stop=stop)
    with pytest.raises(errors.ConnectError):
        await run_attempts(runner.policy, fail)

    assert len(begun) == 3
    assert max(counted_from) <= begun[0]


async def test_a_policy_of_one_attempt_never_retries() -> None:
    """RetryPolicy.never() leaves everything to the caller."""
    with pytest.raises(errors.ConnectError):
        await run_attempts(RetryPolicy.never(), Runner(REFUSED, "ok").attempt)


def reused(error: errors.UID2Error) -> errors.UID2Error:
    """Let an error have come over a kept connection."""
    found = copy.copy(error)
    found.reused_connection = True
    return found


AUTH = operator_error(errors.AuthError, 401)
BUSY = operator_error(errors.RateLimitError, 429)
TOO_LONG = operator_error(errors.RateLimitError, 429, 86_400)


@pytest.mark.parametrize(
    "error",
    [
        AUTH,
        operator_error(errors.BadRequestError, 400),
        operator_error(errors.InvalidTokenError, 400),
        operator_error(errors.PayloadTooLargeError, 413),
        operator_error(errors.UnexpectedStatusError, 404),
        TOO_LONG,
        foreign_nonce(),
        clock_skew(),
        errors.ProtocolError("x"),
        errors.CallTimeoutError("x"),
        errors.ConnectError("x", disconnected=True),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_ends_a_call_counts_over_a_fresh_connection_alone(
    error: errors.UID2Error,
) -> None:
    """It is tried once more, at once, for nothing, and not counted; then it counts."""
    runner = Runner(reused(error), "ok", attempts=1)
    assert await runner.run() == "ok"
    assert runner.fresh == [False, True]
    assert runner.delays == [0.0]
    assert runner.announced == [(2, 0.0)]
    assert runner.policy.budget is not None
    assert runner.policy.budget.level == runner.policy.budget.capacity
    for first in (error, reused(error)):
        runner = Runner(first, error, "ok", attempts=1)
        with pytest.raises(type(error)):
            await runner.run()
        assert len(runner.fresh) == 1 + first.reused_connection


async def test_a_confirmation_is_no_attempt() -> None:
    """After it there are as many attempts as before."""
    failing = operator_error(errors.ServerError, 500)
    runner = Runner(reused(AUTH), *[failing] * 4, "ok")
    with pytest.raises(errors.ServerError):
        await runner.run()
    assert len(runner.fresh) == 5


async def test_a_failure_of_a_reused_connection_is_retried_over_a_fresh_one() -> None:
    """Where a retry follows anyway, it is the confirmation: no request is added."""
    failing = operator_error(errors.ServerError, 503)
    runner = Runner(reused(failing), failing, failing, failing, "ok")
    with pytest.raises(errors.ServerError):
        await runner.run()
    assert runner.fresh == [False, True, False, False]


async def test_a_busy_operator_is_not_asked_twice() -> None:
    """A caller that waits for all of its calls together gets each 429 as it comes."""
    runner = Runner(reused(BUSY), "ok", retry_throttled=False)
    with pytest.raises(errors.RateLimitError):
        await runner.run()
    assert runner.fresh == [False]
    runner = Runner(reused(TOO_LONG), "ok", retry_throttled=False)
    assert await runner.run() == "ok"


@pytest.mark.parametrize("error", [REFUSED, errors.CertificateError("x")])
async def test_without_a_connection_nothing_is_confirmed(
    error: errors.UID2Error,
) -> None:
    """Where none was made, none can have been spoiled."""
    runner = Runner(reused(error), "ok", attempts=1)
    with pytest.raises(type(error)):
        await runner.run()
    assert runner.fresh == [False]


async def test_a_confirmation_needs_time_as_every_attempt_does() -> None:
    """With less than half a second left the verdict stands."""
    runner = Runner(reused(AUTH), "ok")
    with pytest.raises(errors.AuthError):
        await runner.run(deadline=0.4)


async def test_never_is_never() -> None:
    """Only one attempt, for callers that retry themselves."""
    runner = Runner(reused(AUTH), "ok", attempts=1, confirm=False)
    with pytest.raises(errors.AuthError):
        await runner.run()
    assert runner.fresh == [False]
    assert not RetryPolicy.never().confirm


async def test_a_spent_budget_does_not_prevent_a_confirmation() -> None:
    """It costs nothing, and a spoiled connection spoils no call."""
    failing = operator_error(errors.ServerError, 503)
    budget = RetryBudget(capacity=0)
    assert await Runner(reused(failing), "ok", budget=budget).run() == "ok"


async def test_an_empty_budget_shows_the_real_error() -> None:
    """Where there is nothing left to spend, the call fails as it did."""
    budget = RetryBudget(capacity=20)
    runner = Runner(REFUSED, REFUSED, "ok", budget=budget)

    with pytest.raises(errors.ConnectError) as caught:
        await runner.run()

    assert caught.value.__notes__ == [
        caught.value.hint,
        "Not retried: the client's retry budget is exhausted.",
    ]
    assert len(runner.delays) == 1
    assert budget.level == 6
    assert repr(budget) == "RetryBudget(6/20)"


async def test_the_budget_is_charged_last() -> None:
    """A retry that will not happen costs nothing."""
    runner = Runner(REFUSED, attempts=1)

    with pytest.raises(errors.ConnectError):
        await runner.run()

    assert runner.policy.budget is not None
    assert runner.policy.budget.level == 500


async def test_an_outage_adds_no_load_once_the_budget_is_spent() -> None:
    """500 tokens buy 35 transient retries, whatever the number of calls."""
    budget = RetryBudget()
    retries = 0
    for _ in range(100):
        runner = Runner(*[REFUSED] * 4, budget=budget)
        with pytest.raises(errors.ConnectError):
            await runner.run()
        retries += len(runner.delays)

    assert retries == 500 // RetryBudget.TRANSIENT_COST


@given(lists(sampled_from(["gain", "refund", "transient", "throttled", "free"])))
def test_the_budget_stays_within_its_bounds(steps: list[str]) -> None:
    """0 <= level <= capacity, whatever happens in which order."""
    budget = RetryBudget(capacity=30)
    paid: int | None = None
    charges: dict[str, Decision] = {
        "transient": Decision(retry=True),
        "throttled": Decision(retry=True, backoff=Backoff.THROTTLING),
        "free": Decision(retry=True, free=True),
    }
    for step in steps:
        if step in charges:
            paid = budget.charge(charges[step])
        else:
            budget.succeeded(paid if step == "refund" else None)
        assert 0 <= budget.level <= budget.capacity


@given(integers(1, 6))
async def test_policies_do_not_mix_up_concurrent_calls(attempts: int) -> None:
    """Each call has its own state, however many run under one policy."""
    policy = attrs.evolve(Runner().policy, attempts=attempts, budget=None)

    def failing(failures: int) -> Callable[[int, bool], Any]:
        left = [failures]

        async def attempt(number: int, fresh: bool) -> int:
            await asyncio.sleep(0)
            if left[0]:
                left[0] -= 1
                raise errors.ConnectError(str(failures))
            return failures

        return attempt

    results = await asyncio.gather(
        *(run_attempts(policy, failing(n)) for n in range(8)),
        return_exceptions=True,
    )

    for n, result in enumerate(results):
        if n < attempts:
            assert result == n
        else:
            assert isinstance(result, errors.ConnectError)
            assert result.message == str(n)
