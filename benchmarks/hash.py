"""``uid2 hash`` of a large file, beside csv in, hash, csv out written by hand.

1 M e-mails, with ``--full`` 10 M; whole processes, so that starting Python counts too.

``python -m benchmarks.hash SOURCE TARGET`` is what is written by hand.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from benchmarks import by_hand
from benchmarks.map_throughput import emails
from benchmarks.runner import Better, Effort, Measure, Table, interleave

MILLION = 1_000_000


def hash_by_hand(source: str, target: str) -> None:
    """Read a CSV file, hash its only column, write a CSV file."""
    with open(source, newline="") as before, open(target, "w", newline="") as after:  # noqa: PTH123 - by hand
        reader, writer = csv.reader(before), csv.writer(after, lineterminator="\n")
        while rows := list(islice(reader, 10_000)):
            writer.writerows([("email", by_hand.hash_email(row[0])) for row in rows])


def measure(command: Sequence[str], rows: int, target: Path) -> Measure:
    """Make a measurement of a process, in rows a second."""

    def run_command() -> float:
        began = time.perf_counter()
        with target.open("wb") as output:
            subprocess.run([sys.executable, *command], check=True, stdout=output)  # noqa: S603 - made below
        return rows / (time.perf_counter() - began)

    return run_command


def run(effort: Effort) -> Iterator[Table]:
    """Measure, with one job and with two."""
    rows = effort.pick(MILLION // 4, MILLION, 10 * MILLION)
    with tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder:
        source, target = Path(folder) / "emails.csv", Path(folder) / "hashed.csv"
        with source.open("w", encoding="ascii") as file:
            for batch in emails(rows // 5_000):
                file.writelines(f"{email}\n" for email in batch)
        uid2 = ("-m", "uid2_async", "hash", "--type", "email", "--file", str(source))
        hand = ("-m", "benchmarks.hash", str(source), str(Path(folder) / "by-hand.csv"))
        measures = {
            "by hand": measure(hand, rows, target),
            "uid2 hash": measure(uid2, rows, target),
            "uid2 hash --jobs 2": measure((*uid2, "--jobs", "2"), rows, target),
        }
        yield Table(
            title="Hash a file of e-mails",
            unit="rows/s",
            better=Better.MORE,
            baseline="by hand",
            ours=("uid2 hash", "uid2 hash --jobs 2"),
            lines=interleave(measures, rounds=effort.pick(3, 3, 2), warm_up=0),
        )


if __name__ == "__main__":
    hash_by_hand(*sys.argv[1:])
