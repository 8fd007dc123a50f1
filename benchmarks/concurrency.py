"""Token calls under load: 1,000 at once, and 200 that begin in each second.

In the second table calls begin when they are due, whether or not those before have
ended, and a call's time counts from when it was due: what waits is not left out. The
operator is canned and runs in a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from statistics import quantiles

import attrs

from benchmarks.canned import Canned
from benchmarks.canned_tokens import canned_token_operator
from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from benchmarks.token_calls import Call, Callers

AT_ONCE = 1_000
PER_SECOND = 200
BARE = "bare POST"


async def all_at_once(call: Call, times: list[float]) -> None:
    """Make 1,000 calls at once, and note how long each took, in ms."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        began = loop.time()
        await call()
        times.append((loop.time() - began) * 1000)

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))


async def as_they_come(call: Call, times: list[float], calls: int) -> None:
    """Begin 200 calls a second, and note how long after it was due each one ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(due: float) -> None:
        await call()
        times.append((loop.time() - due) * 1000)

    async with asyncio.TaskGroup() as tasks:
        for number in range(calls):
            due = began + number / PER_SECOND
            await asyncio.sleep(due - loop.time())
            tasks.create_task(one(due))


def percentiles(times: list[float]) -> dict[str, float]:
    """Give p50 and p99 in ms."""
    cuts = quantiles(times, n=100)
    return {"p50 ms": cuts[49], "p99 ms": cuts[98]}


def measure_rush(loop: asyncio.Runner, canned: Canned, call: Call) -> Measure:
    """Make a measurement of 1,000 calls at once."""

    def measure() -> Sample:
        times: list[float] = []
        found = canned.rate(lambda: loop.run(all_at_once(call, times)), AT_ONCE)
        return Sample(found.value, {**percentiles(times), **found.also})

    return measure


def measure_stream(
    loop: asyncio.Runner, canned: Canned, call: Call, calls: int
) -> Measure:
    """Make a measurement of 200 calls a second."""

    def measure() -> Sample:
        times: list[float] = []
        found = canned.rate(lambda: loop.run(as_they_come(call, times, calls)), calls)
        seen = percentiles(times)
        return Sample(seen.pop("p99 ms"), {**seen, **found.also})

    return measure


def with_added(lines: Mapping[str, list[Sample]]) -> dict[str, list[Sample]]:
    """Say beside each p99 how much it adds to the bare POST's of the same round."""
    return {
        name: [
            attrs.evolve(
                sample, also={"p99 added ms": sample.value - bare.value, **sample.also}
            )
            for sample, bare in zip(samples, lines[BARE], strict=True)
        ]
        for name, samples in lines.items()
    }


async def open_callers(url: str) -> Callers:
    """Open the callers on the running loop."""
    return Callers.open(url, None)


def run(effort: Effort) -> Iterator[Table]:
    """Measure both loads."""
    with canned_token_operator() as canned, asyncio.Runner() as loop:
        callers = loop.run(open_callers(canned.url))
        calls = callers.generate()
        yield Table(
            title="1,000 at once, over 100 connections",
            unit="calls/s",
            better=Better.MORE,
            baseline=BARE,
            ours=("uid2_async",),
            lines=interleave(
                {
                    name: measure_rush(loop, canned, call)
                    for name, call in calls.items()
                },
                rounds=effort.pick(5, 7),
                warm_up=2,
            ),
        )
        seconds = effort.pick(2, 3, 20)
        found = interleave(
            {
                name: measure_stream(loop, canned, call, seconds * PER_SECOND)
                for name, call in calls.items()
            },
            rounds=effort.pick(2, 3),
        )
        yield Table(
            title="200 calls a second, p99 from when a call was due",
            unit="ms",
            baseline=BARE,
            ours=(),
            lines=with_added(found),
        )
        loop.run(callers.aclose())
