"""Jobs under limiters and outages, in virtual time: nothing lost, little wasted.

The figures are per 400 batches at 20 in flight, with replies after 0.2 to 0.6 s.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import attrs
import pytest

from uid2_async import MappedUID, errors
from uid2_async.bulk import BulkMapper
from uid2_async.bulk.limit import ConcurrencyLimit
from uid2_async.bulk.private_files import System

BATCHES = 400
SEEDS = [1, 2, 3]


@attrs.frozen
class Run:
    """What a job cost."""

    rows: int
    mapped: int
    requests: int
    seconds: float


def run_job(virtual: Any, operator: Any, seed: int) -> Run:
    """Map 400 batches of five."""
    dice = random.Random(seed)  # noqa: S311 - jitter
    items = [f"person{number}@example.com" for number in range(BATCHES * 5)]

    async def main() -> Run:
        mapper = BulkMapper(
            operator.client(), batch_size=5, _system=System(random=dice.random)
        )
        results = []
        async with mapper.map(items) as records:
            async for record in records:
                results.append(record.result)  # noqa: PERF401 - the block is the point
        return Run(
            rows=len(results),
            mapped=sum(isinstance(one, MappedUID) for one in results),
            requests=operator.requests,
            seconds=asyncio.get_running_loop().time(),
        )

    return virtual(main())


def token_bucket(rate: float, refuse: Any, **headers: str) -> Any:
    """Let *rate* requests a second pass, and as many at once."""
    state = {"tokens": rate, "at": 0.0}

    def respond(texts: list[str]) -> Any:
        now = asyncio.get_running_loop().time()
        state["tokens"] = min(rate, state["tokens"] + (now - state["at"]) * rate)
        state["at"] = now
        if state["tokens"] < 1:
            return refuse(429, **headers)
        state["tokens"] -= 1
        return None

    return respond


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_operator_is_used_fully(
    virtual: Any, make_operator: Any, seed: int
) -> None:
    """Slow start costs about a second; nothing is sent twice."""
    run = run_job(virtual, make_operator(), seed)

    assert run.mapped == run.rows == BATCHES * 5
    assert run.requests == BATCHES
    assert run.seconds <= 11


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limiter_without_a_hint_costs_no_row(
    virtual: Any, make_operator: Any, refuse: Any, seed: int
) -> None:
    """At 10 requests a second: at most 1.15 requests a batch, 1.1 of the ideal time."""
    run = run_job(virtual, make_operator(token_bucket(10, refuse)), seed)

    assert run.mapped == run.rows == BATCHES * 5
    assert run.requests <= 1.15 * BATCHES
    assert run.seconds <= 1.1 * (BATCHES - 10) / 10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("hint", "share"), [("2", 1.3), ("5", 1.95)])
def test_a_limiter_with_a_hint_is_obeyed(
    virtual: Any, make_operator: Any, refuse: Any, seed: int, hint: str, share: float
) -> None:
    """Retry-After loses no row, and its limit is not tried out again and again.

    The bucket holds one second's requests, so each further second of waiting is lost.
    """
    respond = token_bucket(10, refuse, retry_after=hint)
    run = run_job(virtual, make_operator(respond), seed)

    assert run.mapped == run.rows == BATCHES * 5
    assert run.requests <= 1.15 * BATCHES
    assert run.seconds <= share * (BATCHES - 10) / 10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("share", "seconds"), [(0.05, 13), (0.2, 18)])
def test_random_failures_cost_no_row(
    virtual: Any, make_operator: Any, refuse: Any, seed: int, share: float, seconds: int
) -> None:
    """5 % and 20 % of 503 are retried, without slowing down."""
    dice = random.Random(seed + 100)  # noqa: S311 - the operator's whims
    respond = lambda texts: refuse(503) if dice.random() < share else None  # noqa: E731 - one line says it
    run = run_job(virtual, make_operator(respond), seed)

    assert run.mapped == run.rows == BATCHES * 5
    assert run.requests <= BATCHES / (1 - share) * 1.1
    assert run.seconds <= seconds


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_costs_no_row(
    virtual: Any, make_operator: Any, refuse: Any, seed: int
) -> None:
    """30 s without the operator: few requests, and quickly back."""

    def respond(texts: list[str]) -> Any:
        down = 3 <= asyncio.get_running_loop().time() < 33
        return refuse(503) if down else None

    run = run_job(virtual, make_operator(respond), seed)

    assert run.mapped == run.rows == BATCHES * 5
    assert run.requests <= BATCHES + 80
    assert run.seconds <= 55


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("status", [503, 429])
def test_a_permanent_outage_ends_the_job(
    virtual: Any, make_operator: Any, refuse: Any, seed: int, status: int
) -> None:
    """At most 50 requests, and an end within the stall time-out and 10 s."""
    operator = make_operator(lambda texts: refuse(status))
    ended = []

    async def main() -> None:
        dice = random.Random(seed)  # noqa: S311 - jitter
        mapper = BulkMapper(
            operator.client(), batch_size=5, _system=System(random=dice.random)
        )
        items = [f"person{number}@example.com" for number in range(BATCHES * 5)]
        with pytest.raises(errors.StalledError):
            async with mapper.map(items) as records:
                await anext(records)
        ended.append(asyncio.get_running_loop().time())

    virtual(main())

    assert operator.requests <= 50
    assert 120 <= ended[0] <= 130


def test_too_long_a_hint_ends_the_job(
    virtual: Any, make_operator: Any, refuse: Any
) -> None:
    """Retry-After: 86400 is not waited out."""
    operator = make_operator(lambda texts: refuse(429, retry_after="86400"))

    async def main() -> float:
        with pytest.raises(errors.StalledError, match="RateLimitError"):
            async with BulkMapper(operator.client()).map(["a@b.c"]) as records:
                await anext(records)
        return asyncio.get_running_loop().time()

    assert virtual(main()) <= 130
    assert operator.requests == 1


@pytest.mark.parametrize("count", [1, 40])
def test_a_bearable_hint_is_waited_out(
    virtual: Any, make_operator: Any, refuse: Any, count: int
) -> None:
    """Five minutes that the operator asked for are not a stall.

    This includes a request that was in flight and succeeds while the others wait.
    """
    answers = [refuse(429, retry_after="290")]

    async def main() -> float:
        operator = make_operator(lambda texts: answers.pop() if answers else None)
        mapper = BulkMapper(operator.client(), batch_size=1)
        items = [f"person{number}@example.com" for number in range(count)]
        async with mapper.map(items) as records:
            assert all([isinstance(one.result, MappedUID) async for one in records])
        return asyncio.get_running_loop().time()

    assert 290 <= virtual(main()) <= 300


class Bench:
    """A limit with time in hand."""

    def __init__(self, most: int = 20) -> None:
        """Start at zero, without jitter."""
        self.now = 0.0
        self.limit = ConcurrencyLimit(
            most, now=lambda: self.now, sleep=self.sleep, random=lambda: 1.0
        )

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def test_the_limit_grows_fast_until_the_first_cut() -> None:
    """Plus one for each success, then plus one for each round of them."""
    bench = Bench()
    for _ in range(10):
        bench.limit.succeeded()
    assert bench.limit.limit == 14
    bench.limit.throttle(0, None)
    assert bench.limit.limit == 7
    for _ in range(7):
        bench.limit.succeeded()
    assert 7.8 < bench.limit.limit < 8
    for _ in range(999):
        bench.limit.succeeded()
    assert bench.limit.limit == 20


def test_one_generation_is_cut_once() -> None:
    """Twenty refusals of requests that were under way together are one message."""
    bench = Bench()
    for _ in range(20):
        bench.limit.throttle(0, None)
    assert (bench.limit.limit, bench.limit.generation) == (2, 1)
    assert bench.limit.throttled == 20
    for _ in range(9):
        bench.limit.throttle(bench.limit.generation, None)
    assert bench.limit.limit == 1


def test_few_failures_cut_nothing() -> None:
    """At least five outcomes, and half of them, are a sign."""
    bench = Bench()
    for _ in range(4):
        bench.limit.failed(0)
    assert bench.limit.generation == 0
    bench.limit.failed(0)
    assert bench.limit.generation == 1


async def test_the_gate_is_shut_longer_each_time() -> None:
    """0.5 s, doubled up to 10 s, however often; a success resets it."""
    bench = Bench()
    waits = []
    for _ in range(1_000):
        before = bench.now
        bench.limit.throttle(bench.limit.generation, None)
        await bench.limit.pass_gate()
        waits.append(round(bench.now - before - 0.05, 6))
    assert waits[:6] == [0.5, 1, 2, 4, 8, 10]
    assert set(waits[6:]) == {10}
    bench.limit.succeeded()
    assert bench.limit.longest_hint == 0


async def test_a_permit_waits_for_the_gate() -> None:
    """No request starts while the operator asks to wait."""
    bench = Bench()
    bench.limit.throttle(0, 7)
    await bench.limit.acquire()
    assert bench.now >= 7
    assert bench.limit.in_flight == 1
