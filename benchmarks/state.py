"""The state of bulk mapping: first load, nothing due, refresh; the state alone.

1 M identities, with ``--full`` 10 M. Each line is a step of a job, in a process of its
own, which reports CPU per identity, bytes per identity and peak memory.
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
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from uid2_async import IdentityScope, MappingState
from uid2_async.bulk.state_values import Run
from uid2_async.models import IdentityType, MapRow

MILLION = 1_000_000
BATCH = 5_000
LOOK_UP = 50_000
IN_FLIGHT = 6
START = datetime(2026, 1, 1, tzinfo=UTC)
EMAIL = IdentityType.EMAIL
DAYS = {
    "identities": 0,
    "first load": 0,
    "nothing due": 1,
    "refresh, all due": 5 * 365,
}


def identities(rows: int, size: int) -> Iterator[list[bytes]]:
    """Yield the identities of a file, in its order."""
    dice = random.Random(7)  # noqa: S311 - identities
    for start in range(0, rows, size):
        count = min(size, rows - start)
        data = dice.randbytes(32 * count)
        yield [data[at : at + 32] for at in range(0, len(data), 32)]


def answer(identity: bytes, year: int) -> MapRow:
    """Return the operator's answer; the UID is another one each year."""
    uid = base64.b64encode(bytes([year]) + identity[1:]).decode()
    due = START + timedelta(days=365 * year + identity[1])
    return MapRow(raw_uid=uid, refresh_from_s=int(due.timestamp()))


async def ask(state: MappingState, run: Run, source: str, year: int) -> int:
    """Record answers to what must be asked about, a few batches at a time."""
    count = 0
    waiting: set[asyncio.Task[None]] = set()
    async for kind, page in state.to_ask(run, source, limit=BATCH):
        count += len(page)
        rows = [answer(identity, year) for identity in page]
        waiting.add(asyncio.create_task(state.record(run, kind, page, rows)))
        if len(waiting) >= IN_FLIGHT:
            done, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
    await asyncio.gather(*waiting)
    return count


async def drain(pages: AsyncIterator[list[object]]) -> int:
    """Count what is on pages."""
    return sum([len(page) async for page in pages])


async def job(title: str, path: Path, rows: int) -> None:
    """Do what a job does with its state."""
    now = START + timedelta(days=DAYS[title])
    async with MappingState(path, clock=lambda: now) as state:
        run = await state.start_run(scope=IdentityScope.UID2, operator="o", job=title)
        is_refresh = title.startswith("refresh")
        for keys in () if is_refresh else identities(rows, BATCH):
            await state.stage(EMAIL, keys)
        source = "due" if is_refresh else "staged"
        asked = await ask(state, run, source, 7 if is_refresh else 1)
        assert asked == (0 if title == "nothing due" else rows)
        for keys in () if is_refresh else identities(rows, LOOK_UP):
            await state.look_up(EMAIL, keys)
        changes = await drain(state.pending_changes())
        assert changes == asked
        await state.finish(run, exported=True)


def peak_mib() -> float:
    """Read the most memory that this process ever had in RAM."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def run_title(title: str, path: Path, rows: int) -> None:
    """Run a job, and print what it took as JSON."""
    began = time.perf_counter()
    if title == "identities":
        for keys in identities(rows, BATCH):
            for identity in keys:
                answer(identity, 1)
    else:
        asyncio.run(job(title, path, rows))
    seconds = time.perf_counter() - began
    seen = {"us CPU/row": time.process_time() / rows * 1e6, "RSS MB": peak_mib()}
    if path.exists():
        seen["bytes/row"] = path.stat().st_size / rows
    print(json.dumps([rows / seconds, seen]))


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


TITLES = ("identities", "first load", "nothing due", "refresh, all due")


def run(effort: Effort) -> Iterator[Table]:
    """Measure, forwards only: each job reads what the one before it wrote."""
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
        baseline="identities",
        ours=TITLES[1:],
        lines={title: [one[title][0] for one in rounds] for title in measures},
    )


if __name__ == "__main__":
    name, database, count = sys.argv[1:]
    run_title(name, Path(database), int(count))
