"""The state of bulk mapping: a first load, and a daily run that finds nothing due.

While SQLite works, the event loop is kept as busy as a job keeps it: with 6 us of
Python for each row. ``UID2_BENCH_ROWS`` says how many identities (1,000,000).
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from uid2_async import IdentityScope, MappingState
from uid2_async.bulk.state import Run
from uid2_async.models import IdentityType, MapRow

ROWS = int(os.environ.get("UID2_BENCH_ROWS", "1_000_000"))
BATCH = 5_000
STEP = 500
BUSY_SECONDS_PER_ROW = 6e-6
IN_FLIGHT = 6
START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = [IdentityType.EMAIL] * BATCH
AIMS = {"first load": 80_000, "nothing due": 100_000}


async def batches() -> AsyncIterator[tuple[list[bytes], list[MapRow]]]:
    """Make the same identities and answers each time, as long as a job takes for it."""
    source = random.Random(1)  # noqa: S311 - keys of rows
    for _ in range(ROWS // BATCH):
        began = time.thread_time()
        data = source.randbytes(32 * BATCH)
        batch = [data[at : at + 32] for at in range(0, len(data), 32)]
        answers = answer(batch)
        for step in range(1, BATCH // STEP + 1):
            while time.thread_time() - began < step * STEP * BUSY_SECONDS_PER_ROW:
                pass
            await asyncio.sleep(0)
        yield batch, answers


def answer(identities: list[bytes]) -> list[MapRow]:
    """Give each identity a UID, and a day on which to ask again."""
    day, first = 86_400, int(START.timestamp())
    return [
        MapRow(
            base64.b64encode(b"\xa0" + identity).decode(),
            None,
            first + (30 + identity[8]) * day,
        )
        for identity in identities
    ]


async def load(
    state: MappingState, run: Run, batch: list[bytes], answers: list[MapRow]
) -> None:
    """Look up a batch of new identities, and record them."""
    found = await state.look_up(run, IdentityType.EMAIL, batch)
    assert found == [None] * BATCH
    await state.record(run, KINDS, batch, answers)


async def look(
    state: MappingState, run: Run, batch: list[bytes], _: list[MapRow]
) -> None:
    """Look up a batch of known identities."""
    found = await state.look_up(run, IdentityType.EMAIL, batch)
    assert None not in found


async def go_through(
    path: Path,
    now: datetime,
    each: Callable[..., Coroutine[Any, Any, None]],
) -> tuple[float, float]:
    """Run a whole job, with a few batches under way at once.

    Returns:
        The seconds, and those of them after the last batch.
    """
    began = time.perf_counter()
    async with MappingState(path) as state:
        run = await state.begin(scope=IdentityScope.UID2, operator="o", now=now)
        under_way: set[asyncio.Task[None]] = set()
        async for batch, answers in batches():
            under_way.add(asyncio.create_task(each(state, run, batch, answers)))
            if len(under_way) >= IN_FLIGHT:
                done, under_way = await asyncio.wait(
                    under_way, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        for task in under_way:
            await task
        middle = time.perf_counter()
        await state.finish(run, told_until=await state.last_seq())
    end = time.perf_counter()
    return end - began, end - middle


async def idle() -> float:
    """Make the batches and do nothing with them; return the seconds."""
    began = time.perf_counter()
    async for _ in batches():
        pass
    return time.perf_counter() - began


def peak_mib() -> float:
    """Read the most memory that this process ever had in RAM."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def job(title: str, path: Path) -> None:
    """Run one of the two jobs and print what it took."""
    first = title == "first load"
    now = START if first else START + timedelta(days=1)
    seconds, merge = asyncio.run(go_through(path, now, load if first else look))
    rate, cpu = ROWS / seconds, time.process_time() / ROWS
    print(
        f"  {title:<12}{seconds:>7.1f} s{rate:>10,.0f} rows/s"
        f" ({rate / AIMS[title]:.2f} of the aim), {merge:.1f} s of it the end,"
        f" {cpu * 1e6:.1f} us CPU/row, {peak_mib():.0f} MiB RSS,"
        f" {path.stat().st_size / ROWS:.0f} bytes/row on disk"
    )


def run() -> None:
    """Measure, each job in a process of its own."""
    print(f"\nState, {ROWS:,} identities")
    print(f"  {'(no state)':<12}{asyncio.run(idle()):>7.1f} s")
    with tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder:
        path = Path(folder) / "people.db"
        for title in AIMS:
            statement = (
                "from pathlib import Path; from benchmarks import state;"
                f" state.job({title!r}, Path({str(path)!r}))"
            )
            sys.stdout.flush()
            subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603 - made above
