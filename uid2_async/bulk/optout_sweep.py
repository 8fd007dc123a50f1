"""Asking about the raw UIDs of a state, by the endpoint that knows opt-outs alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.blocks import opened_for
from uid2_async.bulk.endpoints import OPTOUT_STATUS, RAW_UID
from uid2_async.bulk.feed import STEP_ROWS, Named, Step
from uid2_async.bulk.job import MapJob
from uid2_async.bulk.job_summary import JobSummary
from uid2_async.bulk.outcome_columns import Ending
from uid2_async.bulk.records import Outcome
from uid2_async.bulk.refresh import begin_run, job_progress, tell
from uid2_async.bulk.run_options import RunOptions
from uid2_async.bulk.state import IdentityKey, MappingState, Run, StateRow
from uid2_async.bulk.status_columns import ending_of
from uid2_async.client import UID2Client
from uid2_async.models import MapRow, UnmappedReason

__all__ = ["sweep_by_status"]

_OPTED_OUT: Final = MapRow(e=UnmappedReason.OPTED_OUT.value)


class _UIDFeed:
    """Feeds the raw UIDs of a state, page by page."""

    def __init__(
        self, pages: AsyncIterator[Sequence[tuple[IdentityKey, StateRow]]]
    ) -> None:
        """Feed those of *pages* that are mapped."""
        self._pages = pages
        self._loaded: list[tuple[IdentityKey, str]] = []

    async def load(self) -> bool:
        """See :meth:`~uid2_async.bulk.feed.Feed.load`."""
        async for page in self._pages:
            self._loaded += [(key, row.u) for key, row in page if row.u]
            return True
        return False

    def take(self, *, partial: bool) -> Step | None:
        """See :meth:`~uid2_async.bulk.feed.Feed.take`."""
        some = self._loaded[:STEP_ROWS]
        if not some or (len(some) < STEP_ROWS and not partial):
            return None
        del self._loaded[:STEP_ROWS]
        keys = [key for key, _ in some]
        return Step(keys, len(keys), (Named(RAW_UID, [uid for _, uid in some]),))


async def sweep_by_status(
    state: MappingState | str | os.PathLike[str],
    *,
    client: UID2Client,
    delta: str | os.PathLike[str] | None = None,
    run: RunOptions | None = None,
) -> JobSummary:
    """Ask which raw UIDs of a state are opted out, and record it.

    v4 raw UIDs of the environments *integ* and *prod* cannot be checked so: map their
    identities again (:func:`~uid2_async.refresh_state`).

    Args:
        state: Its file, or a state that may be open.
        client: Who asks.
        delta: Where to write what has changed since the last delta.
        run: How the job is run; one request at a time by default.

    Returns:
        What was done; *mapped* counts those that are ok, *other* the unverifiable.
    """
    run = run or RunOptions(concurrency=1)
    opened = state if isinstance(state, MappingState) else MappingState(Path(state))
    async with opened_for(opened):
        begun = await begin_run(opened, client, run)
        async with aclosing(opened.export(now=run.clock())) as pages:
            job = MapJob(
                run.job_options(client), _UIDFeed(pages), endpoint=OPTOUT_STATUS
            )
            summary = await _sweep(job, opened, begun, run)
        if not summary.complete or delta is None:
            await opened.finish(begun, told_until=None)
            return summary
        return attrs.evolve(summary, changes=await tell(opened, begun, Path(delta)))


async def _sweep(
    job: MapJob, state: MappingState, begun: Run, run: RunOptions
) -> JobSummary:
    """Record the opt-outs that *job* finds, and count."""
    began = time.monotonic()
    endings: Counter[str] = Counter()
    job.start()
    watch = asyncio.create_task(job.drain_on(run.stop)) if run.stop else None
    try:
        while (block := await job.next_block()) is not None:
            found = block.outcomes()
            endings.update(map(ending_of, found))
            await _record(state, begun, block.payload, found)
            if run.on_progress is not None:
                run.on_progress(job_progress(endings, job))
    finally:
        if watch is not None:
            watch.cancel()
        await job.stop()
    return JobSummary.of(
        endings,
        rows=endings.total(),
        requests=job.requests,
        throttled=job.limit.throttled,
        seconds=time.monotonic() - began,
        complete=not job.is_drained,
    )


async def _record(
    state: MappingState,
    begun: Run,
    keys: Sequence[IdentityKey],
    found: Sequence[Outcome],
) -> None:
    """Record who has opted out."""
    gone = [
        key
        for key, outcome in zip(keys, found, strict=True)
        if ending_of(outcome) is Ending.OPTED_OUT
    ]
    if gone:
        await state.record(
            begun,
            [key.kind for key in gone],
            [key.identity for key in gone],
            [_OPTED_OUT] * len(gone),
        )


strip_tracebacks(globals())
