"""A file of phone numbers as people write them: the lag of the event loop.

Beside it the same numbers in E.164, mapped without a country: phonenumbers is not asked
about those.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks.canned import Canned, canned_operator
from benchmarks.loop_lag import watch
from benchmarks.runner import Effort, Measure, Sample, Table, interleave
from uid2_async import MapOptions, map_file

SERVICE_SECONDS = 0.3
KINDS = {
    "E.164": ("+4930{}", MapOptions(column="tel", type="phone")),
    "national": ("030 {}", MapOptions(column="tel", type="phone", country="DE")),
}


async def map_numbers(canned: Canned, source: Path, options: MapOptions) -> None:
    """Map a file."""
    async with canned.client() as client:
        await map_file(
            source,
            source.with_name("out.csv"),
            client=client,
            options=attrs.evolve(options, force=True),
        )


def measure(canned: Canned, folder: Path, kind: str, rows: int) -> Measure:
    """Make a measurement of *rows* numbers of a *kind*."""
    pattern, options = KINDS[kind]
    source = folder / f"{kind}.csv"
    numbers = range(10_000_000, 10_000_000 + rows)
    lines = "".join(f"{pattern.format(number)}\n" for number in numbers)
    source.write_text(f"tel\n{lines}", encoding="ascii")

    def run_job() -> Sample:
        return asyncio.run(watch(map_numbers(canned, source, options), rows))

    return run_job


def run(effort: Effort) -> Iterator[Table]:
    """Measure both; the round that does not count loads the data of the countries."""
    rows = effort.pick(20_000, 60_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        canned_operator(SERVICE_SECONDS) as canned,
    ):
        measures = {kind: measure(canned, Path(folder), kind, rows) for kind in KINDS}
        lines = interleave(measures, rounds=effort.pick(1, 3))
    yield Table(
        title="p99 lag of a 10 ms ticker, phones to file, 300 ms a request",
        unit="ms",
        baseline="E.164",
        ours=("national",),
        lines=lines,
    )
