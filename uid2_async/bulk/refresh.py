"""Asking again about what a state knows: what is due, or what nobody has looked at."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.blocks import opened_for
from uid2_async.bulk.delta_task import write_delta
from uid2_async.bulk.endpoints import MAP_V2, MAP_V3, Endpoint
from uid2_async.bulk.feed import STEP_ROWS, Named, Step
from uid2_async.bulk.job import MapJob
from uid2_async.bulk.job_summary import FileProgress, JobSummary
from uid2_async.bulk.map_options import Api
from uid2_async.bulk.outcome_columns import OutcomeColumns
from uid2_async.bulk.run_options import RunOptions
from uid2_async.bulk.state import IdentityKey, MappingState, Run, Selection
from uid2_async.bulk.state_ledger import StateLedger
from uid2_async.client import UID2Client, buckets_call
from uid2_async.models import datetime_from_ms
from uid2_async.protocol import base64

__all__ = ["StateFeed", "begin_run", "job_progress", "refresh_state", "tell"]


class StateFeed:
    """Feeds identities of a state, page by page."""

    def __init__(
        self, pages: AsyncIterator[Sequence[IdentityKey]], *, most: int | None = None
    ) -> None:
        """Feed *pages*; *most* identities, if that is given."""
        self._pages = pages
        self._left = most
        self._loaded: list[IdentityKey] = []

    async def load(self) -> bool:
        """See :meth:`~uid2_async.bulk.feed.Feed.load`."""
        if self._left == 0:
            return False
        page: list[IdentityKey] = []
        async for found in self._pages:
            page = list(found)
            break
        if self._left is not None:
            page = page[: self._left]
            self._left -= len(page)
        self._loaded += page
        return bool(page)

    def take(self, *, partial: bool) -> Step | None:
        """See :meth:`~uid2_async.bulk.feed.Feed.take`."""
        keys = self._loaded[:STEP_ROWS]
        if not keys or (len(keys) < STEP_ROWS and not partial):
            return None
        del self._loaded[:STEP_ROWS]
        kinds = [f"{key.kind}_hash" for key in keys]
        values = [base64.encode_text(key.identity) for key in keys]
        return Step(keys, len(keys), (Named(kinds, values),))


async def _find_rotated(
    client: UID2Client, state: MappingState
) -> tuple[Selection, Endpoint]:
    """Ask which salt buckets have rotated since the last run (API v2)."""
    ended = [run.started for run in await state.runs() if run.ended]
    since = datetime_from_ms(1000 * max(ended, default=0))
    found = await client.run_call(buckets_call(since))
    rotated = {bucket.bucket_id: bucket.last_updated for bucket in found}
    return Selection.of_buckets(rotated), MAP_V2


async def refresh_state(
    state: MappingState | str | os.PathLike[str],
    *,
    client: UID2Client,
    selection: Selection | None = None,
    delta: str | os.PathLike[str] | None = None,
    api: Api = Api.V3,
    most: int | None = None,
    run: RunOptions | None = None,
) -> JobSummary:
    """Ask again about what is due in a state; what ``uid2 refresh`` runs.

    Resumable by itself: what has been asked about is due no more.

    Args:
        state: Its file, or a state that may be open.
        client: Who maps.
        selection: Whom to ask about; what is due by default.
        delta: Where to write what has changed since the last delta.
        api: v2: what is due is found by the salt buckets that have rotated.
        most: How many identities are asked about at most.
        run: How the job is run.

    Returns:
        What was done; its rows are identities.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    run, endpoint = run or RunOptions(), MAP_V3
    opened = state if isinstance(state, MappingState) else MappingState(Path(state))
    async with opened_for(opened):
        begun = await begin_run(opened, client, run)
        if selection is None and api is Api.V2:
            selection, endpoint = await _find_rotated(client, opened)
        chosen = selection or Selection.refresh()
        async with aclosing(opened.due(begun, chosen)) as pages:
            ledger = StateLedger(opened, begun, ask_all=True)
            job = MapJob(
                run.job_options(client),
                StateFeed(pages, most=most),
                endpoint=endpoint,
                ledger=ledger,
            )
            summary = await _ask_all(job, run)
        if not summary.complete or delta is None:
            await opened.finish(begun, told_until=None)
            return summary
        return attrs.evolve(summary, changes=await tell(opened, begun, Path(delta)))


async def begin_run(
    state: MappingState, client: UID2Client, run: RunOptions, job: str | None = None
) -> Run:
    """Begin a run of *state*; *job* names one that may have been begun before."""
    return await state.begin(
        scope=client.scope,
        operator=",".join(sorted(client.base_urls)),
        now=run.clock(),
        job=job,
    )


async def tell(state: MappingState, run: Run, target: Path) -> int:
    """Write what no delta has told yet; then the state counts it as told."""
    after, until = await state.told_seq(), await state.last_seq()
    changes = await write_delta(state, target, after=after, until=until)
    await state.finish(run, told_until=until)
    return changes


async def _ask_all(job: MapJob, run: RunOptions) -> JobSummary:
    """Let the ledger of a job learn all answers, and count them."""
    began = time.monotonic()
    columns = OutcomeColumns([""], matched_type=False)
    job.start()
    watch = asyncio.create_task(job.drain_on(run.stop)) if run.stop else None
    try:
        while (block := await job.next_block()) is not None:
            columns.make([block.outcomes()])
            if run.on_progress is not None:
                run.on_progress(job_progress(columns.endings, job))
    finally:
        if watch is not None:
            watch.cancel()
        await job.stop()
    return JobSummary.of(
        columns.endings,
        rows=columns.endings.total(),
        requests=job.requests,
        throttled=job.limit.throttled,
        seconds=time.monotonic() - began,
        complete=not job.is_drained,
    )


def job_progress(endings: Counter[str], job: MapJob) -> FileProgress:
    """Say how far a job without files is."""
    return FileProgress(
        rows=endings.total(),
        bytes_read=0,
        total_bytes=None,
        endings=endings,
        job=job.progress(),
    )


strip_tracebacks(globals())
