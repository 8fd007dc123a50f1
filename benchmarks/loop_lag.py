"""How long the event loop is held up while 20 batches are in flight.

A ticker wants to run every 10 ms; its lag is how much later it does. Beside it: the
same job by hand on the same loop, the official SDK in 20 threads, and nothing at all,
which tells how late the machine itself is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from statistics import quantiles
from typing import Any

from benchmarks.canned import Canned, canned_operator
from benchmarks.map_throughput import BATCH, bare, official, ours, stream
from benchmarks.runner import Effort, Measure, Sample, Table, interleave

TICK = 0.01


async def tick(lags: list[float]) -> None:
    """Note the lag of each tick, in ms."""
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - due) * 1000)


async def watch(job: Coroutine[Any, Any, object], identities: int) -> Sample:
    """Run *job* beside the ticker."""
    lags: list[float] = []
    ticker = asyncio.create_task(tick(lags))
    began = time.perf_counter()
    await job
    seconds = time.perf_counter() - began
    ticker.cancel()
    cuts = quantiles(lags, n=100, method="inclusive")
    seen = {"p50": cuts[49], "max": max(lags), "identities/s": identities / seconds}
    return Sample(cuts[98], seen)


def measure(
    make_job: Callable[[int], Coroutine[Any, Any, None]], batches: int
) -> Measure:
    """Make a measurement of a job of *batches*."""
    return lambda: asyncio.run(watch(make_job(batches), batches * BATCH))


def subjects(canned: Canned, batches: int) -> dict[str, Measure]:
    """List what is measured; the official SDK gets less, for it takes longer."""
    return {
        "nothing": lambda: asyncio.run(watch(asyncio.sleep(1), 0)),
        "by hand": measure(lambda many: bare(canned, many), batches),
        "map_identities": measure(lambda many: ours(canned, many, 20), batches),
        "BulkMapper": measure(lambda many: stream(canned, many, 20), batches),
        "official SDK, 20 threads": measure(
            lambda many: asyncio.to_thread(official, canned, many, 20), batches // 4
        ),
    }


def run(effort: Effort) -> Iterator[Table]:
    """Measure at the service times of a near and a far operator."""
    for milliseconds in (0, 50, 300):
        with canned_operator(milliseconds / 1000) as canned:
            asyncio.run(ours(canned, 2, 1))
            lines = interleave(
                subjects(canned, effort.pick(40, 60)),
                rounds=effort.pick(1, 3),
                warm_up=0,
            )
        yield Table(
            title=f"p99 lag of a 10 ms ticker, {milliseconds} ms a request",
            unit="ms",
            baseline="by hand",
            ours=("map_identities", "BulkMapper"),
            lines=lines,
        )
