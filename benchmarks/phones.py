"""A file of national phone numbers: rows a second, and the lag of the event loop.

``UID2_BENCH_ROWS`` says how many rows (100,000). Beside it stand the same numbers in
E.164, mapped without a country, which phonenumbers is not asked about.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from benchmarks.canned import Canned, canned_operator
from benchmarks.loop_lag import tick
from uid2_async import MapOptions, RunOptions, map_file
from uid2_async.phones import load_countries, to_e164

ROWS = int(os.environ.get("UID2_BENCH_ROWS", "100_000"))
SERVICE_SECONDS = 0.3
KINDS = {
    "E.164": ("+4930{}", MapOptions(column="tel", type="phone")),
    "national": ("030 {}", MapOptions(column="tel", type="phone", country="DE")),
}


async def measure(
    canned: Canned, folder: Path, pattern: str, options: MapOptions
) -> tuple[list[float], float]:
    """Map a file.

    Returns:
        The lags in ms, and the rows per second.
    """
    lags: list[float] = []
    # The first one loads what a first call loads.
    for rows in (ROWS // 10, ROWS):
        source = folder / "in.csv"
        numbers = range(10_000_000, 10_000_000 + rows)
        lines = "".join(f"{pattern.format(n)}\n" for n in numbers)
        source.write_text(f"tel\n{lines}")
        lags.clear()
        async with canned.client() as client:
            ticker = asyncio.create_task(tick(lags))
            summary = await map_file(
                source,
                folder / "out.csv",
                client=client,
                options=options,
                run=RunOptions(force=True),
            )
            ticker.cancel()
        assert summary.mapped == rows
    return lags, ROWS / summary.seconds


def parse_us() -> float:
    """Say how many microseconds phonenumbers takes for a number."""
    load_countries()
    began = time.thread_time()
    for number in range(10_000_000, 10_010_000):
        to_e164(f"030 {number}", "DE")
    return (time.thread_time() - began) * 100


def run() -> None:
    """Measure both."""
    print(f"\nPhones, {ROWS:,} rows, {SERVICE_SECONDS * 1000:.0f} ms a request")
    print(f"  phonenumbers: {parse_us():.0f} us of CPU a number")
    print(f"  {'':<12}{'rows/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    with (
        tempfile.TemporaryDirectory() as folder,
        canned_operator(SERVICE_SECONDS) as canned,
    ):
        for name, (pattern, options) in KINDS.items():
            found = measure(canned, Path(folder), pattern, options)
            lags, speed = asyncio.run(found)
            cuts = quantiles(lags, n=100)
            print(
                f"  {name:<12}{speed:>12,.0f}{cuts[49]:>10.2f}"
                f"{cuts[98]:>10.2f}{max(lags):>10.2f}"
            )
