"""Map the customers every day, and deliver what has changed since the day before.

    python examples/daily_job.py examples/customers.csv work outbox

For cron, and as an Airflow task with the date of the run:

    15 3 * * *  cd /srv/uid2 && python daily_job.py customers.csv work outbox
    BashOperator(bash_command="python daily_job.py customers.csv work outbox {{ ds }}")

If a day fails or is killed or stopped, run the same command again. It resumes, and
delivers each change once. A completed day is not repeated.

It uses the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), or else an embedded one. ``uid2 exit-codes`` explains the exit codes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs

from uid2_async import (
    JobSummary,
    MapOptions,
    UID2Client,
    errors,
    map_file,
)
from uid2_async.cli.exit_codes import ExitCode, exit_code_of
from uid2_async.operator import LocalOperator

# A state belongs to one operator: the embedded one has the same URL each day.
SANDBOX_PORT = 18_217


@asynccontextmanager
async def connect() -> AsyncIterator[UID2Client]:
    """Use the operator that the environment names, or run one."""
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        async with UID2Client.from_env() as client:
            yield client
        return
    async with (
        LocalOperator(port=SANDBOX_PORT) as operator,
        UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
        ) as client,
    ):
        yield client


@attrs.frozen
class Day:
    """The work of one day, and its files.

    Attributes:
        day: The date.
        source: All customers.
        work: A private folder on a local disk, the same each day.
        outbox: The folder to which deltas are delivered.
        restart: Whether to discard an unfinished run. It cannot be resumed by another
            version of the library, or with another key or operator.
    """

    day: str
    source: Path
    work: Path
    outbox: Path
    restart: bool = False

    @property
    def job(self) -> Path:
        """The job folder, from which an unfinished run is resumed."""
        return self.work / f"job-{self.day}"

    @property
    def delta(self) -> Path:
        """The file with the changes."""
        return self.work / f"delta-{self.day}.csv"

    @property
    def handed_on(self) -> Path:
        """The delivered delta."""
        return self.outbox / self.delta.name


def run(day: Day) -> int:
    """Do the remaining work of *day*, and return the exit code."""
    if day.handed_on.exists():
        print(f"{day.day} is done.")
        return 0
    day.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    failed = 0
    # A delta without a job is complete, and has not been delivered yet.
    if day.job.exists() or not day.delta.exists():
        done = asyncio.run(map_customers(day))
        print(
            f"{day.day}: {done.rows} rows, {done.mapped} mapped, "
            f"{done.failed} failed, {done.from_state} people known, "
            f"{done.requests} requests, {done.changes} changes"
        )
        failed = done.failed
    hand_on(day.delta, day.handed_on)
    return ExitCode.INCOMPLETE if failed else ExitCode.OK


async def map_customers(day: Day) -> JobSummary:
    """Map, ask about each identity once, and write what has changed."""
    job = asyncio.current_task()
    assert job is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, job.cancel)
    async with connect() as client:
        return await map_file(
            day.source,
            day.work / "mapped.csv",
            client=client,
            # The file is the whole audience: people missing from it are REMOVED.
            options=MapOptions(
                keys=["id"],
                full=True,
                job_dir=day.job,
                restart=day.restart,
                force=True,
            ),
            state=day.work / "people.db",
            delta=day.delta,
        )


def hand_on(delta: Path, target: Path) -> None:
    """Deliver *delta*, either complete or not at all.

    Replace this with an upload to an audience API. It may be repeated after a crash, so
    use the day as an idempotency key.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    shutil.copyfile(delta, unfinished)
    unfinished.chmod(0o600)
    unfinished.replace(target)


def main() -> int:
    """Run one day, and report an error."""
    parser = argparse.ArgumentParser(description="Map the customers of a day.")
    for name in ("source", "work", "outbox"):
        parser.add_argument(name, type=Path)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("day", nargs="?", default=today, metavar="YYYY-MM-DD")
    parser.add_argument("--restart", action="store_true")
    given = parser.parse_args()
    try:
        return run(Day(**vars(given)))
    except asyncio.CancelledError:
        return ExitCode.TERMINATED
    except errors.UID2Error as error:
        # Neither text contains personal data or secrets.
        print(f"{type(error).__name__}: {error} {error.hint}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
