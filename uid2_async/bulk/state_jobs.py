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
from collections import Counter, defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from uid2_async._portal import run_in_thread
from uid2_async._private import printable
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import STEP_ROWS, Chunk, IdentityColumn, join_outcomes
from uid2_async.bulk.columns import RowStatus, explain, status_of_uid
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.exports import DeltaWriter, check_delta, check_export, is_delta
from uid2_async.bulk.job import (
    FileJob,
    FileSource,
    InputFaults,
    InputFile,
    Job,
    job_settings,
    open_state,
    summarize,
)
from uid2_async.bulk.options import (
    Api,
    FileProgress,
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
)
from uid2_async.bulk.outcomes import (
    INVALID,
    MAP_V2,
    MAP_V3,
    OPTOUT_STATUS,
    RAW_UID,
    Endpoint,
    Outcome,
    Progress,
)
from uid2_async.bulk.outputs import JobOutputs
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.bulk.resume import Checkpoint, decode_checkpoint, encode_checkpoint
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_changes import DELTA
from uid2_async.bulk.state_values import IdentityKey, Run, StateRow
from uid2_async.client import UID2Client
from uid2_async.errors import InputError, JobError
from uid2_async.models import IdentityType, MapRow, UnmappedReason
from uid2_async.protocol.mapping import buckets_call

T = TypeVar("T")

# Sorted look-ups share the pages of a state. Larger groups share more, but their rows
# do not fit into the caches of a processor: with 40,000, jobs took 1.2 times as long.
_GROUP_ROWS: Final = 10_000
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

    Call it again to resume: answered identities are no longer due. If the process was
    killed after the last step, it returns the summary of that run.

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
            unchanged delta of an interrupted run.
        stop: Stops the job cleanly when it is set.
        on_progress: Called with the progress.

    Returns:
        A summary of the job. Its rows are identities.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or RefreshOptions()
    settings = job_settings(client, options, stop, on_progress, _system, state, delta)
    ask = partial(_ask_due, options)
    return await _run_without_files(Job(**settings), "refresh", ask)


async def _ask_due(
    options: RefreshOptions, job: Job, state: MappingState, run: Run
) -> tuple[Dispatcher, Counter[str]]:
    """Ask again about the due identities of a state."""
    unchecked, rotated = options.unchecked_for, None
    if unchecked is None and options.api is Api.V2:
        rotated = await _find_rotated(job.client, state)
    due = state.to_ask(run, "due", unchecked_for=unchecked, rotated=rotated)
    endpoint = MAP_V3 if rotated is None else MAP_V2
    chunks = _identity_chunks(due, options.limit)
    asking = _dispatcher(job, state, run, chunks, endpoint)
    return asking, await _ask_all(job, asking)


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
    return await _run_without_files(Job(**settings), "sweep", _ask_statuses)


async def _ask_statuses(
    job: Job, state: MappingState, run: Run
) -> tuple[Dispatcher, Counter[str]]:
    """Check the raw UIDs of a state for opt-outs, and record them."""
    counts: Counter[str] = Counter()
    async with aclosing(state.export()) as pages:
        source = _ChunkSource(_uid_chunks(pages))
        async with job.dispatcher(source, endpoint=OPTOUT_STATUS) as asking:
            async for chunk in asking.chunks():
                await _record_opt_outs(state, run, chunk, counts)
                job.report_requests(counts, asking)
    return asking, counts


_Ask: TypeAlias = Callable[
    [Job, MappingState, Run], Awaitable[tuple[Dispatcher, Counter[str]]]
]


async def _run_without_files(job: Job, kind: str, ask: _Ask) -> JobSummary:
    """Run a job of a *kind* on a state: ask, write the delta, and end the run."""
    assert job.state is not None  # noqa: S101 - by the callers
    if not job.state.is_open and not job.state.path.exists():
        raise InputError(
            f"There is no state {printable(str(job.state.path))}.",
            hint="Check the path.",
        )
    if job.delta is not None:
        await run_in_thread(partial(check_delta, job.delta))
    async with open_state(job.state) as state:
        terms = (kind, job.options.terms(), job.delta)
        name = sha256(repr(terms).encode()).hexdigest()
        summary = await _finished_summary(job, state, name)
        if summary is None:
            await _check_delta_target(job, state, name)
            async with _open_run(state, job.client, job=name) as run:
                asking, counts = await ask(job, state, run)
                drained = asking.is_drained
                summary = summarize(asking, counts, complete=not drained)
                # The changes of an interrupted job are left to the next delta.
                opened = nullcontext() if drained else _open_delta(job, state)
                async with opened as delta:
                    summary = await _end_run(state, run, delta, summary)
        # If the same command is run again, it is another job.
        with suppress(JobError):
            await state.forget_files(name)
    return attrs.evolve(summary, seconds=time.monotonic() - job.started_at)


async def _find_rotated(client: UID2Client, state: MappingState) -> dict[str, datetime]:
    """Ask which salt buckets have rotated since the oldest answer (API v2)."""
    since = await state.oldest_bucket_check()
    if since is None:
        return {}
    found = await client.run_call(buckets_call(since))
    return {bucket.bucket_id: bucket.last_updated for bucket in found}


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


async def run_with_state(job: FileJob, state: MappingState) -> JobSummary:
    """Map the inputs in steps, resumable from the state."""
    options, folder = job.options, job.folder
    assert isinstance(options, MapOptions)  # noqa: S101 - only maps have a state
    segment = options.segment if options.full else None
    name = None if folder is None else folder.job
    if name is not None:
        summary = await _finished_summary(job, state, name, job.files)
        if summary is not None:
            return summary
    await _check_delta_target(job, state, name)
    async with _open_run(state, job.client, job=name, segment=segment) as run:
        return await _map_in_steps(job, state, run)


async def _map_in_steps(job: FileJob, state: MappingState, run: Run) -> JobSummary:
    """Stage and check the inputs, ask, remove who is absent, and write the outputs."""
    options, folder = job.options, job.folder
    assert isinstance(options, MapOptions)  # noqa: S101 - as above
    chunks = _identity_chunks(state.to_ask(run))
    asking = _dispatcher(job, state, run, chunks, job.endpoint)
    if not await _stage(job, state):
        return summarize(asking, complete=False)
    if run.segment is not None:
        if job.bad_rows is not None and job.bad_rows.rows:
            raise JobError(
                f"{job.bad_rows.rows:,} rows cannot be read, and the people in them "
                "would be removed from the audience.",
                hint="Correct or delete these rows of the input, or map it without "
                "`full`.",
            )
        await state.check_absent(run.segment, options.max_removed)
    try:
        counts = await _ask_all(job, asking)
    finally:
        if folder is not None:
            folder.keep |= asking.batches > 0
    if asking.is_drained:
        return summarize(asking, counts, complete=False)
    if run.segment is not None:
        await state.remove_absent(run, run.segment)
    return await _write_from_state(job, state, run, asking)


async def _stage(job: FileJob, state: MappingState) -> bool:
    """Stage the identities of all inputs; return whether all rows were read."""
    rows = 0

    def report(chunk: Chunk) -> None:
        nonlocal rows
        rows += chunk.rows
        progress = {"phase": "reading", "rows": rows, "endings": {}, "job": Progress()}
        job.report_file(chunk.payload.file, chunk.payload.bytes_read, **progress)

    faults = InputFaults(job.bad_rows)
    for file in job.files:
        if faults.is_full or job.is_stopped:
            break
        with faults.collecting():
            async with aclosing(FileSource(job, [file], on_bad_row=faults)) as source:
                work = partial(_stage_identities, job, state)
                async with aclosing(_work_ahead(job, source, work, report)) as groups:
                    async for _ in groups:
                        pass
    faults.check()
    if not job.is_stopped:
        await job.finish_bad_rows()
    return not job.is_stopped


async def _stage_identities(
    job: FileJob, state: MappingState, chunks: list[Chunk]
) -> None:
    """Stage the valid identities of some chunks."""
    staged: dict[str, list[bytes]] = defaultdict(list)
    for chunk in chunks:
        for column in chunk.columns:
            for kind, _, identities in column.identities_by_kind(job.endpoint):
                staged[kind.subject] += filter(None, identities)
        await asyncio.sleep(0)
    for subject, identities in staged.items():
        await state.stage(IdentityType(subject), identities)


async def _work_ahead(
    job: FileJob,
    source: FileSource,
    work: Callable[[list[Chunk]], Coroutine[Any, Any, T]],
    on_chunk: Callable[[Chunk], None] = lambda _: None,
) -> AsyncGenerator[T, None]:
    """Do *work* on large groups of rows while the next ones are read.

    Yields the results in order, and ends early if the job is stopped.
    """
    tasks: list[asyncio.Task[T]] = []
    group: list[Chunk] = []
    rows = 0
    try:
        async for chunk in source.chunks():
            on_chunk(chunk)
            if job.is_stopped:
                return
            group.append(chunk)
            rows += chunk.rows
            if rows >= _GROUP_ROWS:
                tasks.append(asyncio.create_task(work(group)))
                group, rows = [], 0
                if len(tasks) > 1:
                    yield await tasks.pop(0)
        tasks.append(asyncio.create_task(work(group)))
        while tasks:
            yield await tasks.pop(0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _write_from_state(
    job: FileJob, state: MappingState, run: Run, asking: Dispatcher
) -> JobSummary:
    """Write the outputs and the delta from the state, and mark it as exported."""
    done = await state.files_done(run)
    job.files = [_skip_done(one, done) for one in job.files]
    # The delta refers to the rows of all files, and there are no checkpoints within a
    # file.
    read = [one for one in job.files if job.keys or not one.done]
    source = FileSource(job, read, on_bad_row=job.bad_rows)

    async def set_done(checkpoint: Checkpoint) -> None:
        detail = encode_checkpoint(checkpoint)
        await state.set_file_done(run, checkpoint.input.name, detail)

    outputs = JobOutputs(job, asking, set_done)
    async with aclosing(source), _open_delta(job, state) as delta:
        answered = _answered_chunks(job, source, state, delta if job.keys else None)
        async with aclosing(answered) as chunks:
            complete = await outputs.write_all(chunks)
        counts = state.staging_counts
        summary = outputs.summarize(
            duplicates=counts.staged - counts.distinct,
            from_state=counts.known,
            complete=complete,
        )
        if complete:
            summary = await _end_run(state, run, delta, summary)
    return summary


async def _answered_chunks(
    job: FileJob, source: FileSource, state: MappingState, delta: DeltaWriter | None
) -> AsyncGenerator[Chunk, None]:
    """Yield the rows of *source* with their answers; write their lines of the delta."""
    work = partial(_answer, job, state)
    async with aclosing(_work_ahead(job, source, work)) as groups:
        async for chunks in groups:
            # Rows are freed once they are written, not when the next group is read.
            chunks.reverse()
            while chunks:
                chunk = chunks.pop()
                if delta is not None:
                    await delta.write_rows(state, job.endpoint, chunk)
                yield chunk


async def _answer(
    job: FileJob, state: MappingState, chunks: list[Chunk]
) -> list[Chunk]:
    """Look up the identities of some chunks, and set their outcomes."""
    rows: dict[str, dict[bytes, Any]] = {}
    wanted: dict[str, list[bytes]] = defaultdict(list)
    for chunk in chunks:
        for column in chunk.columns:
            parts = []
            for kind, at, identities in column.identities_by_kind(job.endpoint):
                wanted[kind.subject] += filter(None, identities)
                parts.append((at, partial(_outcomes, rows, kind.subject, identities)))
            chunk.expect((), partial(join_outcomes, column, parts))
        await asyncio.sleep(0)
    for subject, identities in wanted.items():
        rows[subject] = await state.look_up(IdentityType(subject), identities)
        if None in rows[subject].values():
            raise JobError(
                "The state has no answer for an identifier of the input.",
                hint="The input may have changed while it was read. Run the same "
                "command again.",
            )
    return chunks


def _outcomes(
    rows: Mapping[str, Mapping[bytes, Any]],
    subject: str,
    identities: Sequence[bytes | None],
) -> list[Outcome]:
    """Return the outcomes of identities; invalid ones have no row."""
    return list(map(rows[subject].get, identities, repeat(INVALID)))  # type: ignore[arg-type] # None is not found


@asynccontextmanager
async def _open_delta(
    job: Job, state: MappingState
) -> AsyncIterator[DeltaWriter | None]:
    """Open the job's delta, if there is one; remove it if it is not finished."""
    if job.delta is None:
        yield None
        return
    folder, disk = state.path.parent, job.system.disk
    options = job.options if isinstance(job.options, MapOptions) else None
    writer = await run_in_thread(
        partial(DeltaWriter, job.delta, options=options, folder=folder, disk=disk),
        discard=DeltaWriter.close,
    )
    async with aclosing(writer) as delta:
        yield delta


def _skip_done(file: InputFile, done: Mapping[str, str]) -> InputFile:
    """Mark an input as done if an interrupted run has finished its output.

    An input that has changed since then is mapped again.
    """
    detail = None if file.identity is None else done.get(file.identity.name)
    saved = None if detail is None else decode_checkpoint(detail)
    if saved is not None and saved.input != file.identity:
        saved = None
    return attrs.evolve(file, saved=saved)


# --- both -----------------------------------------------------------------------------


async def _end_run(
    state: MappingState, run: Run, delta: DeltaWriter | None, summary: JobSummary
) -> JobSummary:
    """End a run after its delta, if it writes one, is complete."""
    if delta is not None:
        summary = attrs.evolve(summary, changes=await delta.complete(state, run))
    # Paths are not JSON, and the next run knows them.
    text = json.dumps(attrs.asdict(attrs.evolve(summary, outputs=())))
    await state.finish(run, exported=delta is not None, summary=text)
    return summary


async def _finished_summary(
    job: Job, state: MappingState, name: str, files: Sequence[InputFile] = ()
) -> JobSummary | None:
    """Return the summary of a job that was killed after its last step.

    A new run would replace its delta with one that lacks these changes. None if inputs
    have changed since then, or a file that it wrote is gone: that asks for a new run.
    """
    ended = await state.finished_run(name)
    if ended is None:
        return None
    summary, details = ended
    saved = {key: decode_checkpoint(text).input for key, text in details.items()}
    delta = saved.pop(DELTA, None)
    outputs = tuple(filter(None, (one.output for one in files)))

    def is_there() -> bool:
        written = all(one.exists() for one in outputs if isinstance(one, Path))
        return written and is_delta(job.delta, delta)

    identities = [one.identity for one in files if one.identity is not None]
    if saved != {one.name: one for one in identities}:
        return None
    if not await run_in_thread(is_there):
        return None
    return JobSummary(**{**json.loads(summary), "outputs": outputs})


async def _check_delta_target(job: Job, state: MappingState, name: str | None) -> None:
    """Reject an existing delta, except one of an unfinished run of the job *name*."""
    if job.delta is None:
        return
    details = await state.unfinished_deltas(name)
    saved = [decode_checkpoint(detail).input for detail in details]

    def check(target: str) -> None:
        is_ours = any(is_delta(target, one) for one in saved if one.name == target)
        check_export(
            state,
            target,
            role="delta",
            force=job.options.force or is_ours,
            shared=job.options.shared_folders,
        )

    await run_in_thread(partial(check, job.delta))


@asynccontextmanager
async def _open_run(
    state: MappingState,
    client: UID2Client,
    *,
    job: str | None = None,
    segment: str | None = None,
) -> AsyncIterator[Run]:
    """Start or resume a run, for which the state is reserved until the block ends."""
    run = await state.start_run(
        job=job,
        scope=client.scope,
        operator=",".join(sorted(client.base_urls)),
        segment=segment,
    )
    try:
        yield run
    finally:
        await state.leave_run()


def _dispatcher(
    job: Job,
    state: MappingState,
    run: Run,
    chunks: AsyncIterator[Chunk],
    endpoint: Endpoint,
) -> Dispatcher:
    """Make the dispatcher that asks about identities of *state*, and records them."""
    record = partial(state.record, run)
    source = _ChunkSource(chunks)
    return job.dispatcher(source, endpoint=endpoint, keep=record)


async def _ask_all(job: Job, dispatcher: Dispatcher) -> Counter[str]:
    """Ask about everything in the source of a dispatcher; count the outcomes."""
    counts: Counter[str] = Counter()
    async with dispatcher:
        async for chunk in dispatcher.chunks():
            (outcomes,) = chunk.outcomes()
            unmapped = [one for one in outcomes if one.raw_uid is None]
            counts[RowStatus.MAPPED] += len(outcomes) - len(unmapped)
            counts.update(explain(one)[0] for one in unmapped)
            job.report_requests(counts, dispatcher)
    return counts


class _ChunkSource:
    """Chunks of identities of a state as a dispatcher's source."""

    def __init__(self, chunks: AsyncIterator[Chunk]) -> None:
        """Read *chunks*."""
        self._chunks = chunks
        self._loaded: Chunk | None = None

    async def load(self) -> bool:
        """See :meth:`uid2_async.bulk.batches.Source.load`."""
        self._loaded = await anext(self._chunks, None)
        return self._loaded is not None

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - pages are not waited for
        """See :meth:`uid2_async.bulk.batches.Source.take`."""
        chunk, self._loaded = self._loaded, None
        return chunk


async def _identity_chunks(
    pages: AsyncIterator[tuple[IdentityType, Sequence[bytes]]], limit: int | None = None
) -> AsyncIterator[Chunk]:
    """Yield the identities of *pages*, at most *limit*."""
    left = limit
    async for kind, page in pages:
        identities = page if left is None else page[:left]
        for start in range(0, len(identities), STEP_ROWS):
            some = identities[start : start + STEP_ROWS]
            column = IdentityColumn(f"{kind.value}_hash", identities=some)
            yield Chunk(None, len(some), [column])
        if left is not None:
            left -= len(identities)
            if not left:
                return


async def _uid_chunks(
    pages: AsyncIterator[Sequence[tuple[IdentityKey, StateRow]]],
) -> AsyncIterator[Chunk]:
    """Yield the raw UIDs of mapped identities; the payload is their keys."""
    async for page in pages:
        mapped = [(key, row.raw_uid) for key, row in page if row.raw_uid is not None]
        for start in range(0, len(mapped), STEP_ROWS):
            keys, uids = zip(*mapped[start : start + STEP_ROWS], strict=True)
            yield Chunk(keys, len(keys), [IdentityColumn(RAW_UID, uids)])


strip_tracebacks(globals())
