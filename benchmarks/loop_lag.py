"""How long the event loop is held up while 20 batches are in flight.

A ticker wants to run every 10 ms; its lag is how much later it does.
"""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

from benchmarks.canned import Canned, canned_operator
from uid2_async import BulkMapper, UID2Client

ROWS = 1_000_000
TICK = 0.01


async def tick(lags: list[float]) -> None:
    """Note the lag of each tick, in ms."""
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - due) * 1000)


async def _map(client: UID2Client, rows: int) -> None:
    """Map *rows* e-mails."""
    emails = (f"customer.{number}@example.com" for number in range(rows))
    async with BulkMapper(client).map(emails) as records:
        while await records.next_step() is not None:
            pass


async def measure(canned: Canned, rows: int) -> tuple[list[float], float]:
    """Map *rows* e-mails, after some that load what a first call loads.

    Returns:
        The lags in ms, and the rows per second.
    """
    lags: list[float] = []
    async with canned.client() as client:
        await _map(client, 10_000)
        ticker = asyncio.create_task(tick(lags))
        began = time.perf_counter()
        await _map(client, rows)
        seconds = time.perf_counter() - began
        ticker.cancel()
    return lags, rows / seconds


def run() -> None:
    """Measure at the service times of a near and a far operator."""
    print("\nLag of the event loop, a 10 ms ticker, 20 batches in flight")
    print(f"  {'service':<12}{'rows/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    for service in (0.0, 0.05, 0.3):
        with canned_operator(service) as canned:
            for _ in range(3):
                lags, speed = asyncio.run(measure(canned, ROWS))
                cuts = quantiles(lags, n=100)
                print(
                    f"  {service * 1000:<9.0f}ms{speed:>13,.0f}{cuts[49]:>10.2f}"
                    f"{cuts[98]:>10.2f}{max(lags):>10.2f}"
                )
