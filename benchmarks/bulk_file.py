"""Files mapped by a process of their own: rows a second, memory, and what a row costs.

The canned operator takes 300 ms for each request, as one far away does.
``UID2_BENCH_ROWS`` names the sizes (1,000,000 and 5,000,000); memory must not depend on
them.

``python -m benchmarks.bulk_file check ROWS`` maps against the embedded operator, in
another process, and compares every raw UID with one that is computed from its salts.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.canned import API_KEY, KEY, canned_operator
from uid2_async import MapOptions, RunOptions, UID2Client, map_file
from uid2_async.models import IdentityType
from uid2_async.operator import OperatorData
from uid2_async.operator.buckets import Buckets
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes

SIZES = [
    int(size)
    for size in os.environ.get("UID2_BENCH_ROWS", "1000000,5000000").split(",")
]
SERVICE_SECONDS = 0.3
REACH = {"csv": 120_000, "parquet": 150_000}
CHUNK = 100_000


def people(rows: int) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Make customers, some at a time: number, name and e-mail."""
    for at in range(0, rows, CHUNK):
        numbers = range(at, min(at + CHUNK, rows))
        yield (
            [str(number) for number in numbers],
            [f"Jane Doe {number}" for number in numbers],
            [f"customer.{number}@example.com" for number in numbers],
        )


def write(path: Path, rows: int) -> None:
    """Write a customer file."""
    names = ["id", "name", "email"]
    if path.suffix == ".parquet":
        import pyarrow as pa  # noqa: PLC0415 - its memory is not the job's
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        schema = pa.schema([(name, pa.string()) for name in names])
        with pq.ParquetWriter(path, schema) as writer:
            for columns in people(rows):
                writer.write_table(pa.table(dict(zip(names, columns, strict=True))))
        return
    with path.open("w", newline="") as file:
        csv_writer = csv.writer(file, lineterminator="\n")
        csv_writer.writerow(names)
        for columns in people(rows):
            csv_writer.writerows(zip(*columns, strict=True))


async def map_once(source: str, target: str, url: str, key: str, secret: str) -> None:
    """Map a file, and print what it took as JSON."""
    async with UID2Client(url, api_key=key, client_secret=secret) as client:
        summary = await map_file(
            source,
            target,
            client=client,
            options=MapOptions(column="email", type="email"),
            run=RunOptions(force=True),
        )
    print(
        json.dumps(
            {
                "rows": summary.rows,
                "mapped": summary.mapped,
                "seconds": summary.seconds,
                "rss_mb": peak_mb(),
            }
        )
    )


def peak_mb() -> float:
    """Say how much memory this process has had at most.

    Not by getrusage, which remembers the process that this one was forked from.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def measure(source: Path, url: str, key: str, secret: str) -> dict[str, float]:
    """Map *source* in a process of its own."""
    target = source.with_name(f"mapped{source.suffix}")
    arguments = ["once", str(source), str(target), url, key, secret]
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", "benchmarks.bulk_file", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run() -> None:
    """Measure each format at each size."""
    print(f"\nFiles, {SERVICE_SECONDS * 1000:.0f} ms a request, 20 in flight")
    print(
        f"  {'':<10}{'rows':>12}{'rows/s':>12}{'RSS MB':>10}{'us/row':>10}{'reach':>12}"
    )
    secret = base64.encode_text(KEY)
    with (
        tempfile.TemporaryDirectory() as folder,
        canned_operator(SERVICE_SECONDS) as canned,
    ):
        for suffix, reach in REACH.items():
            for rows in SIZES:
                source = Path(folder) / f"people.{suffix}"
                write(source, rows)
                found = measure(source, canned.url, API_KEY, secret)
                speed = rows / found["seconds"]
                print(
                    f"  {suffix:<10}{rows:>12,}{speed:>12,.0f}{found['rss_mb']:>10.0f}"
                    f"{1e6 / speed:>10.2f}{reach:>12,}"
                )


def check(rows: int) -> None:
    """Map against the embedded operator, and compute every raw UID again."""
    command = [sys.executable, "-m", "uid2_async", "sandbox"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox,  # noqa: S603 - our own command
    ):
        assert sandbox.stdout is not None
        try:
            lines = iter(sandbox.stdout.readline, "")
            line = next(one for one in lines if "UID2-C-L-102" in one)
            url, key, secret = (word.partition("=")[2] for word in line.split()[1:4])
            source = Path(folder) / "people.csv"
            write(source, rows)
            found = measure(source, url, key, secret)
            print({**found, "rows_per_s": round(rows / found["seconds"])})
            print("wrong rows:", count_wrong(source, source.with_name("mapped.csv")))
        finally:
            sandbox.terminate()


def count_wrong(source: Path, target: Path) -> int:
    """Compare a mapped file with its input and the salts, row by row."""
    buckets = Buckets(OperatorData.sample())
    map_one = buckets.mapper(IdentityType.EMAIL, int(time.time() * 1000))
    wrong = 0
    with source.open(newline="") as before, target.open(newline="") as after:
        pairs = zip(csv.reader(before), csv.reader(after), strict=True)
        next(pairs)
        for row, mapped in pairs:
            identity = identity_bytes("email", row[2]) or b""
            expected = map_one(buckets.first_level_hash(identity))
            wrong += mapped[:4] != [*row, expected.u]
    return wrong


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name == "once":
        asyncio.run(map_once(*rest))
    else:
        check(int(rest[0]))
