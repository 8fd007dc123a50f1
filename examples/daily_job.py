"""Map the customers every day, and hand on what has changed since the day before.

    python examples/daily_job.py examples/customers.csv work outbox

For cron, and as an Airflow task with the date of the run:

    15 3 * * *  cd /srv/uid2 && python daily_job.py customers.csv work outbox
    BashOperator(bash_command="python daily_job.py customers.csv work outbox {{ ds }}")

A day that has failed, was killed or stopped is run again by the same command: it goes on
where it was, and hands on each change once. A day that is done is not done again.

The operator is the one that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY); if it names none, an embedded one. The exit codes are those of
``uid2 map``: 0 done, 1 failed, 2 wrong input or settings, 3 done but for some rows, which
tomorrow's run asks about again, 4 key or secret not accepted, 5 try again later, 143
stopped by SIGTERM. Only 1, 5 and 143 are worth a retry.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from uid2_async import MapOptions, RunOptions, UID2Client, errors, map_file
from uid2_async.operator import LocalOperator

# A state belongs to one operator: the embedded one has the same URL each day.
SANDBOX_PORT = 18_217


@asynccontextmanager
async def connect() -> AsyncIterator[UID2Client]:
    """Take the operator that the environment names, or run one."""
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


async def run(source: Path, work: Path, outbox: Path, day: str) -> int:
    """Do what is left to do of *day*, and give the exit code."""
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    handed_on = outbox / f"delta-{day}.csv"
    if handed_on.exists():
        print(f"{day} is done.")
        return 0
    delta, job = work / f"delta-{day}.csv", work / f"job-{day}"
    failed = 0
    # A delta without a job was written whole, and remains to be handed on.
    if job.exists() or not delta.exists():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with connect() as client:
            done = await map_file(
                source,
                work / "mapped.csv",
                client=client,
                # The file is the whole audience: who is missing from it is REMOVED.
                options=MapOptions(keys=["id"], full=True),
                state=work / "people.db",
                delta=delta,
                run=RunOptions(job_dir=job, force=True, stop=stop),
            )
        print(
            f"{day}: {done.rows} rows, {done.mapped} mapped, {done.failed} failed, "
            f"{done.from_state} identities from the state, {done.requests} requests, "
            f"{done.changes} changes"
        )
        if not done.complete:
            return 128 + signal.SIGTERM
        failed = done.failed
    hand_on(delta, handed_on)
    return 3 if failed else 0


def hand_on(delta: Path, target: Path) -> None:
    """Give *delta* to whoever is downstream, whole or not at all.

    An upload to an audience API stands here. It may be repeated after a crash: let it
    name the day, so that twice is once.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    shutil.copyfile(delta, unfinished)
    unfinished.chmod(0o600)
    unfinished.replace(target)


def exit_code(error: errors.UID2Error) -> int:
    """Say what kind of failure *error* is."""
    match error:
        case errors.InputError() | errors.ConfigError():
            return 2
        case errors.AuthError():
            return 4
        case errors.RateLimitError() | errors.StalledError():
            return 5
        case _:
            return 1


def main(source: str, work: str, outbox: str, day: str | None = None) -> int:
    """Run one day, today if none is given."""
    day = day or datetime.now(UTC).date().isoformat()
    try:
        return asyncio.run(run(Path(source), Path(work), Path(outbox), day))
    except errors.UID2Error as error:
        # It says what to do, and holds neither people nor secrets.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    if len(sys.argv) not in {4, 5}:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
