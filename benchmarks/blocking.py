"""token/generate from 20 threads over TLS, and what the thread of the loop adds.

``BlockingClient`` shares one event loop and its connections among all threads. The
official SDK makes a connection for each call. The operator is canned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from statistics import median

from benchmarks.call_overhead import certificate, in_threads
from benchmarks.canned import API_KEY, SECRET, Canned
from benchmarks.canned_tokens import canned_token_operator
from benchmarks.runner import Better, Effort, Measure, Table, interleave
from benchmarks.token_calls import EMAIL
from uid2_async import BlockingClient, UID2Client

THREADS = 20
SDK = "official SDK, 20 threads"


def run(effort: Effort) -> Iterator[Table]:
    """Measure calls a second, then the time of a single call."""
    calls = effort.pick(200, 600)
    with certificate() as (chain, _), canned_token_operator(chain) as canned:
        yield _rates(canned, calls, effort)
    with canned_token_operator("") as canned:
        yield _times(canned, calls, effort)


def _rates(canned: Canned, calls: int, effort: Effort) -> Table:
    """Measure the calls a second of 20 threads."""
    with BlockingClient(canned.url, api_key=API_KEY, client_secret=SECRET) as client:
        few = calls // 6

        def generate_many() -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                assert all(pool.map(client.generate_token, repeat(EMAIL, calls)))

        measures: dict[str, Measure] = {
            "BlockingClient": lambda: canned.rate(generate_many, calls),
            SDK: lambda: canned.rate(lambda: in_threads(canned.url, few), few),
        }
        lines = interleave(measures, rounds=effort.pick(3, 5))
    return Table(
        title="token/generate from 20 threads, over TLS",
        unit="calls/s",
        better=Better.MORE,
        baseline=SDK,
        ours=("BlockingClient",),
        lines=lines,
    )


def _times(canned: Canned, calls: int, effort: Effort) -> Table:
    """Measure how long one call takes with each client, one after the other."""
    runner = asyncio.Runner()
    client = canned.client()

    async def many() -> float:
        return await _median_async(client, calls)

    with BlockingClient(canned.url, api_key=API_KEY, client_secret=SECRET) as blocking:
        measures: dict[str, Measure] = {
            "UID2Client": lambda: runner.run(many()),
            "BlockingClient": lambda: _median(
                lambda: blocking.generate_token(EMAIL), calls
            ),
        }
        lines = interleave(measures, rounds=effort.pick(5, 9))
    runner.run(client.aclose())
    runner.close()
    return Table(
        title="One call after the other, p50",
        unit="us",
        baseline="UID2Client",
        ours=("BlockingClient",),
        lines=lines,
    )


def _median(call: Callable[[], object], calls: int) -> float:
    """Return the median time of a call, in us."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return median(times)


async def _median_async(client: UID2Client, calls: int) -> float:
    """Return the median time of an awaited call, in us."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await client.generate_token(EMAIL)
        times.append((time.perf_counter() - began) * 1e6)
    return median(times)
