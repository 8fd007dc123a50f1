"""The state of bulk mapping: a first load, a daily run with nothing due, a refresh.

Alone, and beside a job: then the event loop is kept as busy as mapping a file keeps it,
with 6 us of Python for each row. 1 M identities, with ``--full`` 10 M.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from uid2_async import IdentityScope, MappingState
from uid2_async.bulk.state import Run, Selection
from uid2_async.models import IdentityType, MapRow

MILLION = 1_000_000
BATCH = 5_000
STEP = 500
BUSY_SECONDS_PER_ROW = 6e-6
IN_FLIGHT = 6
START = datetime(2026, 1, 1, tzinfo=UTC)
NEXT_DAY = START + timedelta(days=1)
# Half of the identities are due.
MONTHS_LATER = START + timedelta(days=30 + 128)
TITLES = (
    "no state",
    "first load in a job",
    "daily run in a job",
    "first load",
    "daily run",
    "refresh",
)
KINDS = [IdentityType.EMAIL] * BATCH


async def batches(
    rows: int, *, busy: bool
) -> AsyncIterator[tuple[list[bytes], list[MapRow]]]:
    """Make the same identities and answers each time; if *busy*, as a job does it."""
    source = random.Random(1)  # noqa: S311 - keys of rows
    for _ in range(rows // BATCH):
        began = time.thread_time()
        data = source.randbytes(32 * BATCH)
        batch = [data[at : at + 32] for at in range(0, len(data), 32)]
        answers = answer(batch)
        for step in range(1, BATCH // STEP + 1):
            until = began + step * STEP * BUSY_SECONDS_PER_ROW
            while busy and time.thread_time() < until:
                pass
            await asyncio.sleep(0)
        yield batch, answers


def answer(identities: list[bytes], salt: bytes = b"\xa0") -> list[MapRow]:
    """Give each identity a UID, and a day on which to ask again."""
    day, first = 86_400, int(START.timestamp())
    return [
        MapRow(
            base64.b64encode(salt + identity).decode(),
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
    rows: int,
    now: datetime,
    each: Callable[..., Coroutine[Any, Any, None]],
    *,
    busy: bool,
) -> None:
    """Run a whole job, with a few batches under way at once."""
    async with MappingState(path) as state:
        run = await state.begin(scope=IdentityScope.UID2, operator="o", now=now)
        under_way: set[asyncio.Task[None]] = set()
        async for batch, answers in batches(rows, busy=busy):
            under_way.add(asyncio.create_task(each(state, run, batch, answers)))
            if len(under_way) >= IN_FLIGHT:
                done, under_way = await asyncio.wait(
                    under_way, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        for task in under_way:
            await task
        await state.finish(run, told_until=await state.last_seq())


async def refresh(path: Path, now: datetime) -> int:
    """Give all that is due another UID; return how many that are."""
    count = 0
    async with MappingState(path) as state:
        run = await state.begin(scope=IdentityScope.UID2, operator="o", now=now)
        async for page in state.due(run, Selection.refresh()):
            identities = [key.identity for key in page]
            count += len(identities)
            answers = answer(identities, b"\xa1")
            await state.record(run, KINDS[: len(page)], identities, answers)
        await state.finish(run, told_until=await state.last_seq())
    return count


async def idle(rows: int) -> None:
    """Do the job's own work, and nothing with it."""
    async for _ in batches(rows, busy=True):
        pass


def peak_mib() -> float:
    """Read the most memory that this process ever had in RAM."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def job(title: str, path: Path, rows: int) -> None:
    """Run a job, and print what it took as JSON."""
    began, count = time.perf_counter(), rows
    busy = title.endswith("in a job")
    if title == "no state":
        asyncio.run(idle(rows))
    elif title.startswith("first load"):
        asyncio.run(go_through(path, rows, START, load, busy=busy))
    elif title.startswith("daily run"):
        asyncio.run(go_through(path, rows, NEXT_DAY, look, busy=busy))
    else:
        count = asyncio.run(refresh(path, MONTHS_LATER))
    seconds = time.perf_counter() - began
    seen = {"us CPU/row": time.process_time() / count * 1e6, "RSS MB": peak_mib()}
    if title != "no state":
        seen["bytes/row"] = path.stat().st_size / rows
    print(json.dumps([count / seconds, seen]))


def measure(title: str, path: Path, rows: int) -> Measure:
    """Make a measurement of a job, in a process of its own."""

    def run_job() -> Sample:
        if title.startswith("first load"):
            for old in path.parent.glob(f"{path.name}*"):
                old.unlink()
        command = [sys.executable, "-m", "benchmarks.state", title, str(path)]
        done = subprocess.run(  # noqa: S603 - this very module
            [*command, str(rows)], check=True, stdout=subprocess.PIPE
        )
        return Sample(*json.loads(done.stdout))

    return run_job


def run(effort: Effort) -> Iterator[Table]:
    """Measure, forwards only: the daily run reads what the first load wrote."""
    size = effort.pick(1, 1, 10)
    with tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder:
        path = Path(folder) / "people.db"
        measures = {title: measure(title, path, size * MILLION) for title in TITLES}
        rounds = [
            interleave(measures, rounds=1, warm_up=0)
            for _ in range(effort.pick(1, 2, 1))
        ]
    yield Table(
        title=f"State, {size} M identities",
        unit="rows/s",
        better=Better.MORE,
        baseline="no state",
        ours=TITLES[1:],
        lines={title: [one[title][0] for one in rounds] for title in measures},
    )


if __name__ == "__main__":
    name, database, count = sys.argv[1:]
    job(name, Path(database), int(count))
