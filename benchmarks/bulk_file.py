"""Files mapped by a process of their own: rows a second, memory, and what a row costs.

The canned operator takes 300 ms for each request, as one far away does. 1 M rows, and
with ``--full`` 10 M as well: memory and the cost of a row must not depend on that.

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
from itertools import islice
from operator import itemgetter
from pathlib import Path

from benchmarks import by_hand
from benchmarks.canned import API_KEY, SECRET, Canned, canned_operator
from benchmarks.map_throughput import BATCH
from benchmarks.runner import Better, Effort, Measure, Sample, Table, interleave
from uid2_async import MapOptions, UID2Client, map_file
from uid2_async.models import IdentityType, MapRow
from uid2_async.operator import OperatorData
from uid2_async.operator.salts import SaltBuckets
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import identity_bytes

MILLION = 1_000_000
SERVICE_SECONDS = 0.3
CHUNK = 100_000


def people(rows: int) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Make customers, some at a time: number, name and email."""
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
            options=MapOptions(column="email", type="email", force=True),
        )
    tell(summary.rows, summary.seconds)


async def by_hand_once(
    source: str, target: str, url: str, key: str, secret: str
) -> None:
    """Map a CSV file by hand, and print what it took as JSON.

    Each batch is written when its reply is there, so that the rows change their order,
    and nothing is checked.
    """
    began = time.perf_counter()
    with open(source, newline="") as before, open(target, "w") as after:  # noqa: ASYNC230, PTH123 - by hand: the loop waits for them
        reader, writer = csv.reader(before), csv.writer(after, lineterminator="\n")
        writer.writerow([*next(reader), "UID", "PREV_UID", "REFRESH_FROM"])
        rows = 0

        def write_rows(batch: list[list[str]], found: list[MapRow]) -> None:
            nonlocal rows
            rows += len(batch)
            writer.writerows(
                [*row, one.raw_uid, one.previous_raw_uid, one.refresh_from_s]
                for row, one in zip(batch, found, strict=True)
            )

        batches = iter(lambda: list(islice(reader, BATCH)), [])
        await by_hand.map_rows(
            url,
            batches,
            email_of=itemgetter(2),
            write=write_rows,
            api_key=key,
            key=base64.decode(secret) or b"",
        )
    tell(rows, time.perf_counter() - began)


def tell(rows: int, seconds: float) -> None:
    """Print what a job took, as JSON."""
    print(json.dumps({"rows": rows, "seconds": seconds, "rss_mb": peak_mb()}))


def peak_mb() -> float:
    """Say how much memory this process has had at most.

    Not by getrusage, which remembers the process that this one was forked from.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def map_in_process(
    source: Path, url: str, key: str, secret: str, how: str = "once"
) -> dict[str, float]:
    """Map *source* in a process of its own."""
    target = source.with_name(f"mapped{source.suffix}")
    arguments = [how, str(source), str(target), url, key, secret]
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", "benchmarks.bulk_file", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(source: Path, canned: Canned, how: str) -> Measure:
    """Make a measurement of a file."""

    def map_file_once() -> Sample:
        found = map_in_process(source, canned.url, API_KEY, SECRET, how)
        speed = found["rows"] / found["seconds"]
        return Sample(speed, {"us/row": 1e6 / speed, "RSS MB": found["rss_mb"]})

    return map_file_once


def run(effort: Effort) -> Iterator[Table]:
    """Measure each format at each size."""
    sizes = effort.pick((1,), (1,), (1, 10))
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder,
        canned_operator(SERVICE_SECONDS) as canned,
    ):
        measures = {}
        for size in sizes:
            for name, suffix in (("CSV", "csv"), ("Parquet", "parquet")):
                source = Path(folder) / f"people-{size}.{suffix}"
                write(source, size * MILLION)
                measures[f"{name}, {size} M"] = measure(source, canned, "once")
        first = Path(folder) / "people-1.csv"
        measures["CSV by hand, 1 M"] = measure(first, canned, "by_hand")
        yield Table(
            title="Files, 300 ms a request, 20 in flight",
            unit="rows/s",
            better=Better.MORE,
            baseline="CSV by hand, 1 M",
            ours=tuple(name for name in measures if "by hand" not in name),
            lines=interleave(measures, rounds=effort.pick(1, 2), warm_up=0),
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
            found = map_in_process(source, url, key, secret)
            print({**found, "rows_per_s": round(rows / found["seconds"])})
            print("wrong rows:", count_wrong(source, source.with_name("mapped.csv")))
        finally:
            sandbox.terminate()


def count_wrong(source: Path, target: Path) -> int:
    """Compare a mapped file with its input and the salts, row by row."""
    buckets = SaltBuckets(OperatorData.sample())
    map_one = buckets.mapper(IdentityType.EMAIL, int(time.time() * 1000))
    wrong = 0
    with source.open(newline="") as before, target.open(newline="") as after:
        pairs = zip(csv.reader(before), csv.reader(after), strict=True)
        next(pairs)
        for row, mapped in pairs:
            identity = identity_bytes("email", row[2]) or b""
            expected = map_one(buckets.first_level_hash(identity))
            wrong += mapped[:4] != [*row, expected.raw_uid]
    return wrong


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    if name == "check":
        check(int(rest[0]))
    else:
        asyncio.run({"once": map_once, "by_hand": by_hand_once}[name](*rest))
