"""Writing all files of a job: one job for them all, which may end before its time."""

from __future__ import annotations

import time

from uid2_async.bulk.delta import DeltaPart
from uid2_async.bulk.endpoints import Endpoint
from uid2_async.bulk.file_job import FileJob, RowMaker
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.job import MapJob
from uid2_async.bulk.job_files import JobFiles
from uid2_async.bulk.job_summary import JobSummary
from uid2_async.bulk.ledger import Ledger
from uid2_async.bulk.run_options import RunOptions
from uid2_async.client import UID2Client

__all__ = ["write_files"]


async def write_files(
    files: JobFiles,
    rows: RowMaker,
    *,
    client: UID2Client,
    run: RunOptions,
    endpoint: Endpoint,
    ledger: Ledger | None = None,
    delta: DeltaPart | None = None,
) -> JobSummary:
    """Write all *files*; what is done is saved, whatever ends it.

    Args:
        files: They have been begun.
        rows: Makes the columns that are added.
        client: Who asks.
        run: How.
        endpoint: What is asked.
        ledger: What remembers answers.
        delta: The part of a delta; it is closed.

    Returns:
        What was done; not complete if it was stopped before its time.
    """
    began = time.monotonic()
    feed = files.feed()
    job = MapJob(run.job_options(client), feed, endpoint=endpoint, ledger=ledger)
    tasks = files.tasks()
    writing = FileJob(
        job,
        tasks,
        rows,
        journal=files.journal,
        delta=delta,
        on_progress=run.on_progress,
    )
    try:
        complete = await writing.run(run.stop)
    finally:
        await feed.close()
        if delta is not None:
            await in_thread(delta.close)
    return JobSummary.of(
        writing.endings,
        rows=writing.rows,
        duplicates=writing.duplicates,
        requests=job.requests,
        throttled=job.limit.throttled,
        resumed_rows=sum(task.saved.rows for task in tasks if task.saved),
        seconds=time.monotonic() - began,
        outputs=tuple(task.target for task in tasks if task.target),
        complete=complete,
    )
