"""``uid2 hash`` of a large file, beside csv in, hash, csv out written by hand.

1 M emails, with ``--full`` 10 M; whole processes, so that starting Python counts too.

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
    """Read a CSV file, hash its only column, write both to a CSV file."""
    with open(source, newline="") as before, open(target, "w", newline="") as after:  # noqa: PTH123 - by hand
        reader, writer = csv.reader(before), csv.writer(after, lineterminator="\n")
        writer.writerow([*next(reader), "HASH"])
        while rows := list(islice(reader, 10_000)):
            writer.writerows([(*row, by_hand.hash_email(row[0])) for row in rows])


def measure(command: Sequence[str], rows: int) -> Measure:
    """Make a measurement of a process, in rows a second."""

    def run_command() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True)  # noqa: S603 - made below
        return rows / (time.perf_counter() - began)

    return run_command


def run(effort: Effort) -> Iterator[Table]:
    """Measure both."""
    rows = effort.pick(MILLION // 4, MILLION, 10 * MILLION)
    with tempfile.TemporaryDirectory(dir=os.environ.get("UID2_BENCH_DIR")) as folder:
        source, target = Path(folder) / "emails.csv", Path(folder) / "hashed.csv"
        with source.open("w", encoding="ascii") as file:
            file.write("mail\n")
            for batch in emails(rows // 5_000):
                file.writelines(f"{email}\n" for email in batch)
        ends = (str(source), str(target))
        uid2 = ("-m", "uid2_async", "hash", *ends, "--column", "mail", "--force")
        measures = {
            "by hand": measure(("-m", "benchmarks.hash", *ends), rows),
            "uid2 hash": measure((*uid2, "--type", "email"), rows),
        }
        yield Table(
            title="Hash a file of emails",
            unit="rows/s",
            better=Better.MORE,
            baseline="by hand",
            ours=("uid2 hash",),
            lines=interleave(measures, rounds=effort.pick(3, 3, 2), warm_up=0),
        )


if __name__ == "__main__":
    hash_by_hand(*sys.argv[1:])
