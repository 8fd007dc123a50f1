"""Jobs with a state: map files in steps, refresh due identities, check opt-outs.

Each step is one transaction of the state, or can be repeated: read all inputs, ask the
operator about what the state does not know, write the outputs from the state, write the
delta, mark it as exported.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final

import attrs

from uid2_async._portal import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import Chunk
from uid2_async.bulk.columns import OutcomeColumns, RowStatus, status_of_uid
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.exports import (
    DeltaWriter,
    PageSource,
    answer_from_state,
    check_export,
    identity_pages,
    stage_all,
    uid_pages,
)
from uid2_async.bulk.job import (
    FileJob,
    Job,
    JobFiles,
    dispatching,
    finish_bad_rows,
    job_outputs,
    job_settings,
    open_state,
    summarize,
    write_all,
)
from uid2_async.bulk.job_files import FileSource, InputFaults, InputFile
from uid2_async.bulk.options import (
    Api,
    FileProgress,
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
)
from uid2_async.bulk.outcomes import MAP_V2, MAP_V3, OPTOUT_STATUS, Outcome, Progress
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.bulk.resume import Checkpoint, decode_checkpoint, encode_checkpoint
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import Run, StateSelection
from uid2_async.client import UID2Client, buckets_call
from uid2_async.models import IdentityType, MapRow, UnmappedReason, datetime_from_ms

_OPTED_OUT: Final = MapRow(reason=UnmappedReason.OPTED_OUT.value)

# --- states without files -------------------------------------------------------------


async def refresh_state(
    state: MappingState | str | os.PathLike[str],
    *,
    client: UID2Client,
    options: RefreshOptions | None = None,
    delta: str | os.PathLike[str] | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[FileProgress], object] | None = None,
    _system: System = SYSTEM,
) -> JobSummary:
    """Ask again about the due identities of a state, as ``uid2 refresh`` does.

    Call it again to resume: answered identities are no longer due.

    Example:
        >>> async with MappingState("people.db") as state:
        ...     summary = await refresh_state(state, client=client, delta="delta.csv")
        >>> summary.rows, summary.changes
        (0, 0)

    Args:
        state: A state, open or not, or the path of its file.
        client: The client that sends the requests.
        options: What to ask about, and how the job runs.
        delta: The file for the changes since the last delta, or ``-`` for stdout. An
            existing file is replaced only with the option *force*, or if it is the
            delta of an interrupted run.
        stop: Stops the job cleanly when it is set.
        on_progress: Called with the progress.

    Returns:
        A summary of the job. Its rows are identities.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or RefreshOptions()
    settings = job_settings(client, options, stop, on_progress, _system, state, delta)
    job = Job(**settings)
    async with _state_run(job) as (opened, run):
        selection, endpoint = StateSelection.due(), MAP_V3
        if options.unchecked_for is not None:
            selection = StateSelection.sweep(options.unchecked_for)
        elif options.api is Api.V2:
            selection, endpoint = await _find_rotated(client, opened), MAP_V2
        asking = job.dispatcher(
            PageSource(identity_pages(opened.to_ask(run, selection), options.limit)),
            endpoint=endpoint,
            keep=partial(_record, opened, run),
        )
        counts = await _ask_all(job, asking)
        return await _end_state_run(job, opened, run, asking, counts)


async def sweep_by_status(
    state: MappingState | str | os.PathLike[str],
    *,
    client: UID2Client,
    options: JobOptions | None = None,
    delta: str | os.PathLike[str] | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[FileProgress], object] | None = None,
    _system: System = SYSTEM,
) -> JobSummary:
    """Check which raw UIDs of a state are opted out, and record the results.

    v4 raw UIDs of the environments *integ* and *prod* cannot be checked this way. Map
    their identities again with :func:`~uid2_async.refresh_state`.

    Args:
        state: A state, open or not, or the path of its file.
        client: The client that sends the requests.
        options: How the job runs. Defaults to one request at a time, as public
            operators expect.
        delta: See :func:`~uid2_async.refresh_state`.
        stop: Stops the job cleanly when it is set.
        on_progress: Called with the progress.

    Returns:
        A summary of the job. *mapped* counts raw UIDs that are ok, *other* the
        unverifiable.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or JobOptions(concurrency=1)
    settings = job_settings(client, options, stop, on_progress, _system, state, delta)
    job = Job(**settings)
    counts: Counter[str] = Counter()
    async with (
        _state_run(job) as (opened, run),
        aclosing(opened.export()) as pages,
    ):
        asking = job.dispatcher(PageSource(uid_pages(pages)), endpoint=OPTOUT_STATUS)
        async with dispatching(asking, stop) as chunks:
            async for chunk in chunks:
                await _record_opt_outs(opened, run, chunk, counts)
                job.report_progress(counts, asking)
        return await _end_state_run(job, opened, run, asking, counts)


@asynccontextmanager
async def _state_run(job: Job) -> AsyncIterator[tuple[MappingState, Run]]:
    """Open the state of a job without files, check its delta, and start a run."""
    assert job.state is not None  # noqa: S101 - by the callers
    async with open_state(job.state) as state:
        if job.delta is not None:
            unfinished = await state.has_unfinished_delta(job.delta)
            check = partial(
                check_export,
                state,
                job.delta,
                role="delta",
                force=job.options.force or unfinished,
                shared=job.options.shared_folders,
            )
            await run_in_thread(check)
        yield state, await _begin(state, job.client)


async def _end_state_run(
    job: Job,
    state: MappingState,
    run: Run,
    asking: Dispatcher,
    counts: Counter[str],
) -> JobSummary:
    """Write the delta of an uninterrupted job, and end its run."""
    changes: int | None = None
    if asking.is_drained or job.delta is None:
        await state.finish(run, exported=False)
    else:
        # If the run is killed before it ends, the next run may replace this delta.
        await state.begin_delta(run, job.delta)
        async with _open_delta(job, state) as delta:
            assert delta is not None  # noqa: S101 - by the condition
            changes = await delta.complete(state, run)
            await state.finish(run, exported=True)
    summary = summarize(None, asking, counts, complete=not asking.is_drained)
    seconds = time.monotonic() - job.began
    return attrs.evolve(summary, changes=changes, seconds=seconds)


async def _find_rotated(client: UID2Client, state: MappingState) -> StateSelection:
    """Ask which salt buckets have rotated since the last run (API v2)."""
    ended = [run.started for run in await state.runs() if run.ended]
    since = datetime_from_ms(1000 * max(ended, default=0))
    found = await client.run_call(buckets_call(since))
    rotated = {bucket.bucket_id: bucket.last_updated for bucket in found}
    return StateSelection.of_buckets(rotated)


async def _record_opt_outs(
    state: MappingState, run: Run, chunk: Chunk, counts: Counter[str]
) -> None:
    """Record who in a chunk has opted out, by raw UID status."""
    (found,) = chunk.outcomes()
    statuses = list(map(status_of_uid, found))
    counts.update(statuses)
    for kind in IdentityType:
        gone = [
            key.identity
            for key, status in zip(chunk.payload, statuses, strict=True)
            if status is RowStatus.OPTED_OUT and key.kind is kind
        ]
        if gone:
            await state.record(run, kind, gone, [_OPTED_OUT] * len(gone))


# --- files ----------------------------------------------------------------------------


async def run_with_state(
    job: FileJob, files: JobFiles, state: MappingState
) -> JobSummary:
    """Map the inputs in steps, resumable from the state."""
    options, folder = job.options, files.folder
    assert isinstance(options, MapOptions)  # noqa: S101 - only maps have a state
    segment = options.segment if options.full else None
    name = None if folder is None else folder.job
    ended = None if name is None else await state.summary_of(name)
    if ended is not None:
        # A run was killed after its last step. Starting another one would replace its
        # delta with an empty one.
        outputs = tuple(filter(None, (one.output for one in files.files)))
        return JobSummary(**{**json.loads(ended), "outputs": outputs})
    run = await _begin(state, job.client, job=name, segment=segment)
    asking = job.dispatcher(
        PageSource(identity_pages(state.to_ask(run, StateSelection.staged()))),
        endpoint=job.endpoint,
        keep=partial(_record, state, run),
    )
    if not await _stage(job, files, state, run):
        return summarize(None, asking, complete=False)
    try:
        counts = await _ask_all(job, asking)
    finally:
        if folder is not None:
            folder.keep = folder.resumed or asking.batches > 0
    if asking.is_drained:
        return summarize(None, asking, counts=counts, complete=False)
    if segment is not None:
        await state.remove_absent(run, segment, options.max_removed)
    return await _write_from_state(job, files, state, run, asking)


async def _stage(job: FileJob, files: JobFiles, state: MappingState, run: Run) -> bool:
    """Read all inputs; return whether that finished without interruption."""
    rows = 0

    def on_chunk(chunk: Chunk) -> bool:
        nonlocal rows
        rows += chunk.rows
        if job.on_progress is not None:
            job.on_progress(_reading_progress(rows, chunk, files))
        return not job.is_stopped

    faults, staged = InputFaults(files.bad_rows), True
    for file in files.files:
        if not staged or faults.is_full:
            break
        source = FileSource([file], partial(job.open, on_bad_row=faults))
        with faults.collecting():
            async with aclosing(source):
                staged = await stage_all(source, state, run, job.endpoint, on_chunk)
    faults.check()
    if staged:
        await finish_bad_rows(files, whole=True)
    return staged


async def _write_from_state(
    job: FileJob, files: JobFiles, state: MappingState, run: Run, asking: Dispatcher
) -> JobSummary:
    """Write the outputs and the delta from the state, and mark it as exported."""
    done = await state.files_done(run)
    files = attrs.evolve(files, files=[_skip_done(one, done) for one in files.files])
    # The delta refers to the rows of all files, and there are no checkpoints within a
    # file.
    read = [one for one in files.files if job.keys or not one.done]
    source = FileSource(read, partial(job.open, on_bad_row=files.bad_rows))

    async def note_done(checkpoint: Checkpoint) -> None:
        detail = encode_checkpoint(checkpoint)
        await state.mark_file_done(run, checkpoint.input.name, detail)

    outputs = job_outputs(job, files, source, on_done=note_done)
    async with aclosing(source), _open_delta(job, state, keys=job.keys) as delta:
        chunks = answer_from_state(source, state, job.endpoint, lambda: job.is_stopped)
        if delta is not None and job.keys:
            chunks = delta.noting_rows(chunks, state, run, job.endpoint)
        complete = await write_all(
            outputs, chunks, asking.progress, lambda: job.is_stopped
        )
        counts = state.staging_counts
        summary = summarize(
            outputs,
            asking,
            bad_rows=await finish_bad_rows(files, whole=False),
            duplicates=counts.staged - counts.distinct,
            from_state=counts.known,
            complete=complete,
        )
        if complete:
            if delta is not None:
                changes = await delta.complete(state, run)
                summary = attrs.evolve(summary, changes=changes)
            # Without file names.
            text = json.dumps(attrs.asdict(attrs.evolve(summary, outputs=())))
            await state.finish(run, exported=delta is not None, summary=text)
    return summary


@asynccontextmanager
async def _open_delta(
    job: Job, state: MappingState, *, keys: Sequence[str] = ()
) -> AsyncIterator[DeltaWriter | None]:
    """Open the job's delta, if there is one; remove it if it is not finished."""
    if job.delta is None:
        yield None
        return
    delta = await run_in_thread(
        partial(
            DeltaWriter,
            job.delta,
            keys=keys,
            folder=state.path.parent,
            disk=job.system.disk,
        )
    )
    try:
        yield delta
    finally:
        await delta.discard()


def _skip_done(file: InputFile, done: Mapping[str, str]) -> InputFile:
    """Mark an input as done if an interrupted run has finished its output.

    An input that has changed since then is mapped again.
    """
    detail = None if file.identity is None else done.get(file.identity.name)
    saved = None if detail is None else decode_checkpoint(detail)
    if saved is not None and saved.input != file.identity:
        saved = None
    return attrs.evolve(file, saved=saved)


def _reading_progress(rows: int, chunk: Chunk, files: JobFiles) -> FileProgress:
    """Return the progress of reading all files before the first request."""
    sizes = [file.size for file in files.files]
    before = sum(size or 0 for size in sizes[: chunk.payload.file])
    return FileProgress(
        phase="reading",
        rows=rows,
        bytes_read=before + chunk.payload.bytes_read,
        total_bytes=None if None in sizes else sum(filter(None, sizes)),
        endings={},
        job=Progress(),
    )


# --- both -----------------------------------------------------------------------------


async def _begin(
    state: MappingState,
    client: UID2Client,
    *,
    job: str | None = None,
    segment: str | None = None,
) -> Run:
    """Start a run of *state*, or resume the unfinished one of the same *job*."""
    return await state.begin(
        job=job,
        scope=client.scope,
        operator=",".join(sorted(client.base_urls)),
        segment=segment,
    )


async def _record(
    state: MappingState,
    run: Run,
    subject: str,
    identities: Sequence[bytes],
    outcomes: Sequence[Outcome],
) -> None:
    """Store the outcomes of a batch; the dispatcher awaits it."""
    await state.record(run, IdentityType(subject), identities, outcomes)


async def _ask_all(job: Job, dispatcher: Dispatcher) -> Counter[str]:
    """Ask about everything in the source of a dispatcher; count the outcomes."""
    columns = OutcomeColumns([""], matched_type=False)
    async with dispatching(dispatcher, job.stop) as chunks:
        async for chunk in chunks:
            columns.make(chunk.outcomes())
            job.report_progress(columns.status_counts, dispatcher)
    return columns.status_counts


strip_tracebacks(globals())
