"""Map a customer file from code.

    python examples/batch_job.py customers.csv mapped.csv

It uses the operator that the environment names (UID2_BASE_URL, UID2_API_KEY,
UID2_SECRET_KEY), or else an embedded one. The file has the columns INPUT and
INPUT_TYPE. If a run is killed, start it again to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from uid2_async import JobSummary, MapOptions, UID2Client, errors, map_file
from uid2_async.cli.exit_codes import ExitCode, exit_code_of
from uid2_async.operator import LocalOperator


@asynccontextmanager
async def connect() -> AsyncIterator[UID2Client]:
    """Use the operator that the environment names, or run one."""
    if {"UID2_BASE_URL", "UID2_ENV"} & os.environ.keys():
        async with UID2Client.from_env() as client:
            yield client
        return
    async with (
        LocalOperator() as operator,
        UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
        ) as client,
    ):
        yield client


async def run(source: str, target: str) -> JobSummary:
    """Map *source* to *target*, and replace an existing *target*."""
    async with connect() as client:
        options = MapOptions(force=True)
        return await map_file(source, target, client=client, options=options)


def main(source: str, target: str) -> int:
    """Run the job, print the counts by outcome, and return the exit code."""
    try:
        done = asyncio.run(run(source, target))
    except errors.UID2Error as error:
        # Neither text contains personal data or secrets.
        print(f"{type(error).__name__}: {error} {error.hint}", file=sys.stderr)
        return exit_code_of(error)
    print(f"{done.rows} rows in {done.seconds:.1f} s, {done.requests} requests:")
    print(f"  mapped    {done.mapped}")
    print(f"  opted out {done.opted_out}")
    print(f"  invalid   {done.invalid}")
    # These have an ERROR and must be mapped again. They may have opted out.
    print(f"  failed    {done.failed}")
    return ExitCode.INCOMPLETE if done.failed else ExitCode.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Map a customer file.")
    parser.add_argument("source")
    parser.add_argument("target")
    sys.exit(main(**vars(parser.parse_args())))
