"""DataFrames mapped in a process of its own, beside the same rows in a Parquet file.

The canned operator takes 50 ms for each request. ``MB added`` is the most memory that
the process had beyond what it had once its frame was loaded, the result included.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bulk_file import MILLION, write
from benchmarks.canned import API_KEY, SECRET, Canned, canned_operator
from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from uid2_async import MapOptions, UID2Client, map_file, map_frame

SERVICE_SECONDS = 0.05
FILE = "map_file, Parquet"


def load_pandas(source: Path) -> Any:
    """Read a file into a frame of pandas."""
    import pandas as pd  # noqa: PLC0415 - its memory is not polars'

    return pd.read_parquet(source)


def load_polars(source: Path) -> Any:
    """Read a file into a frame of polars."""
    import polars as pl  # noqa: PLC0415 - its memory is not pandas'

    return pl.read_parquet(source)


LOADERS: dict[str, Callable[[Path], Any]] = {
    "map_frame, pandas": load_pandas,
    "map_frame, polars": load_polars,
}


async def map_once(line: str, source: Path, url: str) -> None:
    """Map a file, or a frame read from it, and print what it took as JSON."""
    frame = LOADERS[line](source) if line in LOADERS else None
    before = forget_peak()
    async with UID2Client(url, api_key=API_KEY, client_secret=SECRET) as client:
        began = time.perf_counter()
        if frame is not None:
            rows = len(await map_frame(frame, email="email", client=client))
        else:
            summary = await map_file(
                source,
                source.with_name("mapped.parquet"),
                client=client,
                options=MapOptions(column="email", type="email", force=True),
            )
            rows = summary.rows
        seconds = time.perf_counter() - began
    added = memory_mb("VmHWM") - before
    print(json.dumps({"rows": rows, "seconds": seconds, "added_mb": added}))


def forget_peak() -> float:
    """Let the peak be that of what follows; return the memory that there is now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory_mb("VmRSS")


def memory_mb(name: str) -> float:
    """Read how much memory this process has, or has had at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(one for one in status.splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1024


def measure(line: str, source: Path, canned: Canned) -> Measure:
    """Make a measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.frames", line, str(source), canned.url]

    def once() -> Sample:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very module
        found = json.loads(done.stdout)
        speed = found["rows"] / found["seconds"]
        return Sample(speed, {"MB added": found["added_mb"]})

    return once


def run(effort: Effort) -> Iterator[Table]:
    """Measure each kind of frame."""
    rows = effort.pick(MILLION // 5, MILLION)
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder,
        canned_operator(SERVICE_SECONDS) as canned,
    ):
        source = Path(folder) / "people.parquet"
        write(source, rows)
        lines = [FILE, *LOADERS]
        measures = {line: measure(line, source, canned) for line in lines}
        yield Table(
            title=f"Frames of {rows:,} rows, 50 ms a request, 20 in flight",
            unit="rows/s",
            better=Better.MORE,
            baseline=FILE,
            ours=tuple(LOADERS),
            lines=interleave(measures, rounds=effort.pick(1, 2), warm_up=0),
        )


if __name__ == "__main__":
    line, source, url = sys.argv[1:]
    asyncio.run(map_once(line, Path(source), url))
