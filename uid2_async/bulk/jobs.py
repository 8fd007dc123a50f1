"""File jobs: map files, and check raw UIDs for opt-outs.

A job without a state streams: the dispatcher answers the rows of the inputs, which are
written in order, with checkpoints in the log of the job's folder. Jobs with a state are
in :mod:`uid2_async.bulk.state_jobs`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, aclosing, closing, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import attrs
import msgspec

from uid2_async._portal import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.columns import OutcomeColumns, StatusColumns, find_identifiers
from uid2_async.bulk.database import Query, Table
from uid2_async.bulk.exports import check_delta
from uid2_async.bulk.job import (
    BadRows,
    FileJob,
    FileSource,
    InputFile,
    job_settings,
    open_state,
    read_check,
)
from uid2_async.bulk.options import (
    Api,
    FileProgress,
    JobSummary,
    MapOptions,
    StatusOptions,
)
from uid2_async.bulk.outcomes import MAP_V2, MAP_V3, OPTOUT_STATUS, RAW_UID
from uid2_async.bulk.outputs import JobOutputs
from uid2_async.bulk.paths import (
    STDIO,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Remote,
    check_targets,
    identify,
    short_name,
    state_paths,
    temp_sibling,
)
from uid2_async.bulk.private_files import SYSTEM, System, make_private_folder
from uid2_async.bulk.resume import (
    Checkpoint,
    JobFolder,
    check_input,
    job_folder_for,
)
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_jobs import run_with_state
from uid2_async.bulk.stores import (
    Pipe,
    copy_path,
    expand_locations,
    is_url,
    local_path,
    locate,
    through_files,
)
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError, InputError

_Location: TypeAlias = str | os.PathLike[str] | Remote


async def map_file(
    source: str | os.PathLike[str] | Query,
    target: str | os.PathLike[str] | Table,
    *,
    client: UID2Client,
    options: MapOptions | None = None,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[FileProgress], object] | None = None,
    _system: System = SYSTEM,
) -> JobSummary:
    """Map a file or the files of a folder, as ``uid2 map`` does.

    Call it again with the same arguments to resume an interrupted job.

    Example:
        >>> summary = await map_file(
        ...     "customers.csv",
        ...     "mapped.csv",
        ...     client=client,
        ...     options=MapOptions(column="mail", type="email"),
        ... )
        >>> summary.mapped, summary.opted_out
        (1, 1)

    Args:
        source: A file, a folder, a pattern such as ``export/*.parquet``, or ``-`` for
            stdin. The URL of an object in a store, such as
            ``s3://bucket/day=*/part-*.parquet``. The folder or URL of a Delta Lake
            table. A query of a database.
        target: The file or folder to write, its URL, ``-`` for stdout, or a database
            table.
        client: The client that sends the requests.
        options: How files are read, mapped and written, and how the job runs.
        state: The state, which keeps results between jobs. A state that is not open is
            opened for the job.
        delta: The file for the changes since the last delta, or ``-`` for stdout.
            Requires *state*.
        stop: Stops the job cleanly when it is set.
        on_progress: Called with the progress.

    Returns:
        A summary of the job.

    Raises:
        InputError: If an input cannot be read, or an output must not be written.
        JobError: If an unfinished job differs from this one, another process is running
            it, or a disk is full. Finished work is kept.
        ConfigError: If an option is invalid.
        AuthError: If the API key or secret is rejected.
        StalledError: If no request succeeded for the job's stall_timeout.
    """
    options = options or MapOptions()
    settings = job_settings(client, options, stop, on_progress, _system, state, delta)
    return await _run(partial(_map_job, source, target, **settings))


async def map_table(
    table: Any,
    *,
    client: UID2Client,
    options: MapOptions,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
    on_progress: Callable[[FileProgress], object] | None = None,
) -> JobSummary:
    """Map rows in memory as :func:`map_file` maps a file. For integrations.

    The job cannot be resumed, except for the results in a state.
    """
    settings = job_settings(client, options, None, on_progress, SYSTEM, state, delta)
    return await _run(partial(_map_job, None, STDIO, table=table, **settings))


async def check_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    client: UID2Client,
    options: StatusOptions | None = None,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[FileProgress], object] | None = None,
    _system: System = SYSTEM,
) -> JobSummary:
    """Check the raw UIDs of a file for opt-outs (``uid2 optout-status IN OUT``).

    Adds the column STATUS: ``ok``, ``opted_out``, ``unverifiable`` (v4 raw UIDs of the
    environments *integ* and *prod*, which the endpoint does not find), ``invalid``, or
    ``failed`` if the request failed. Public operators expect one request at a time,
    which is the default.

    Args:
        source: A file, a folder, a pattern, or ``-`` for stdin.
        target: The file or folder to write, or ``-`` for stdout.
        client: The client that sends the requests.
        options: What is written, and how the job runs.
        stop: Stops the job cleanly when it is set.
        on_progress: Called with the progress.

    Returns:
        A summary of the job. *mapped* counts raw UIDs that are ok, *other* the
        unverifiable.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or StatusOptions()
    prepare = partial(
        _file_job,
        source,
        target,
        find=partial(find_identifiers, column=options.column, kind=RAW_UID, several={}),
        formatter=StatusColumns(
            drop=options.drop, allow_unverifiable=options.allow_unverifiable
        ),
        endpoint=OPTOUT_STATUS,
        **job_settings(client, options, stop, on_progress, _system),
    )
    return await _run(prepare)


def _map_job(
    source: _Location | None,
    target: _Location,
    *,
    options: MapOptions,
    state: MappingState | None,
    delta: str | None,
    **more: Any,
) -> FileJob:
    """Prepare a mapping job. Blocks."""
    _check_delta_options(options, state, delta)
    iso = None if options.refresh_from is None else options.refresh_from == "iso"
    return _file_job(
        source,
        target,
        options=attrs.evolve(options, iso=iso),
        find=options.identifier_finder(),
        formatter=OutcomeColumns(
            rule=options.optout_rule,
            explode=options.explode,
            snake_case=options.names == "snake",
            buckets=options.api is Api.V2,
            matched_type=len(options.identifiers) > 1,
        ),
        endpoint=MAP_V2 if options.api is Api.V2 else MAP_V3,
        state=state,
        delta=delta,
        keys=options.keys,
        **more,
    )


def _check_delta_options(options: MapOptions, state: object, delta: str | None) -> None:
    """Reject a delta that could not be written, and what needs one without it."""
    if delta is not None and state is None:
        raise ConfigError(
            "A delta lists the changes of a state.",
            hint="Name a state as well (`state`).",
        )
    if delta is not None:
        check_delta(delta, options.keys)
    if options.full and delta is None:
        raise ConfigError(
            "People missing from a full input are listed in the delta.",
            hint="Name a delta as well (`delta`).",
        )
    if options.keys and delta is None:
        raise ConfigError(
            "Keys are columns of a delta.",
            hint="Name a delta as well (`delta`).",
        )


def _file_job(
    source: _Location | None,
    target: _Location,
    *,
    options: MapOptions | StatusOptions,
    **more: Any,
) -> FileJob:
    """List the files of a job, and check their formats. Blocks.

    Without a *source*, the rows are in memory.
    """
    pairs = [FilePair(None, None)]
    if source is not None:
        # A job with a state reads its input twice.
        is_read_twice = more.get("state") is not None
        pairs = [
            through_files(pair, options, spool=is_read_twice)
            for pair in expand_locations(source, target)
        ]
        for pair in pairs:
            pair.formats(options)
    return FileJob(pairs=pairs, target=str(target), options=options, **more)


# --- running --------------------------------------------------------------------------


async def _run(prepare: Callable[[], FileJob]) -> JobSummary:
    """Run a job in its folder, or in a temporary folder if it cannot be resumed."""
    job = await run_in_thread(lambda: _open(prepare()), discard=_close_cancelled)
    try:
        if await run_in_thread(partial(_check_inputs, job)):
            await job.finish_bad_rows()
        if job.state is None:
            summary = await _stream(job)
        else:
            async with open_state(job.state) as state:
                summary = await run_with_state(job, state)
    except BaseException:
        await run_in_thread(partial(job.resources.__exit__, *sys.exc_info()))
        raise
    if job.folder is not None:
        job.folder.is_done = summary.complete
    await _finish(run_in_thread(partial(job.resources.__exit__, None, None, None)))
    return attrs.evolve(summary, seconds=time.monotonic() - job.started_at)


async def _finish(closing: Coroutine[Any, Any, object]) -> None:
    """Wait for the last step of a job, even if it is cancelled meanwhile.

    The outputs are complete, and without its folder, a job cannot be resumed.
    """
    task = asyncio.create_task(closing)
    with suppress(asyncio.CancelledError):
        await asyncio.wait([task])
    await task


def _close_cancelled(job: FileJob) -> None:
    """Close a job whose caller was cancelled while it was opened. Blocks."""
    cancelled = asyncio.CancelledError()
    job.resources.__exit__(type(cancelled), cancelled, None)


async def _stream(job: FileJob) -> JobSummary:
    """Map the inputs in one pass, resumable by the job's log."""
    waiting = [file for file in job.files if not file.done]
    source = FileSource(job, waiting, on_bad_row=job.bad_rows, resume=True)
    async with (
        aclosing(source),
        job.dispatcher(source, endpoint=job.endpoint) as dispatcher,
    ):
        outputs = JobOutputs(job, dispatcher)
        complete = await outputs.write_all(dispatcher.chunks())
    if complete:
        await job.finish_bad_rows()
    resumed = sum(file.saved.rows for file in job.files if file.saved)
    return outputs.summarize(resumed_rows=resumed, complete=complete)


# --- opening files --------------------------------------------------------------------


def _open(job: FileJob) -> FileJob:
    """Check the paths of a job, open its folder, and find its inputs. Blocks."""
    options = job.options
    path, bad_rows = _job_folder(job), None
    if options.bad_rows is not None and job.table is None:
        bad_rows = local_path(options.bad_rows, "bad_rows")
    # An unfinished run may have left its outputs.
    unfinished = path is not None and JobFolder.is_unfinished(path)
    check_targets(
        # Rows in memory are not written to stdout.
        [] if job.table is not None else job.pairs,
        others={
            "delta": [] if job.delta is None else [locate(job.delta)],
            "bad_rows": [] if bad_rows is None else [bad_rows],
        },
        roles={"state": [] if job.state is None else state_paths(job.state.path)},
        folders={"job_dir": path},
        may_exist=options.force or (unfinished and not options.restart),
        allow_shared=options.shared_folders,
    )
    with ExitStack() as stack:
        _open_folder(job, path, stack)
        job.files = [_open_input(job, *one) for one in enumerate(job.pairs)]
        sizes = (one.identity.size if one.identity else 0 for one in job.files)
        job.offsets = list(accumulate(sizes, initial=0))
        # If a copy is gone, an earlier run has finished the file of bad rows too.
        copies = [one.source for one in job.files if one.source is not None]
        if bad_rows is not None and all(one.exists() for one in copies):
            collected = closing(BadRows(bad_rows, disk=job.system.disk))
            job.bad_rows = stack.enter_context(collected)
        job.resources = stack.pop_all()
    return job


def _open_folder(job: FileJob, path: Path | None, stack: ExitStack) -> None:
    """Open the folder of a job, or make a temporary one for unfinished files."""
    if path is not None:
        job.folder = JobFolder(
            path,
            job.terms,
            now=job.system.clock(),
            restart=job.options.restart,
            shared=job.options.shared_folders,
            disk=job.system.disk,
        )
        # What an earlier run has written is in the state, not in the folder.
        job.folder.keep = job.folder.resumed and job.state is not None
        stack.push(job.folder)
        job.parts = job.folder.path
        return
    neighbor = job.pairs[0].target
    if not isinstance(neighbor, Path) and job.state is not None and job.table is None:
        neighbor = job.state.path
    if isinstance(neighbor, Path):
        job.parts = stack.enter_context(temp_sibling(neighbor, disk=job.system.disk))
        make_private_folder(job.parts, disk=job.system.disk)
    elif job.remotes:
        folder = tempfile.TemporaryDirectory(prefix="uid2-", ignore_cleanup_errors=True)
        job.parts = Path(stack.enter_context(folder))


def _job_folder(job: FileJob) -> Path | None:
    """Return the job folder: next to the output or the state, or the current folder.

    None if an interrupted job cannot be resumed, since a pipe can be read only once.
    """
    ends = [end for pair in job.pairs for end in (pair.source, pair.target)]
    if any(end is None or isinstance(end, Pipe) for end in ends):
        return None
    if job.options.job_dir:
        return local_path(job.options.job_dir, "job_dir")
    is_remote = any(str(one) == job.target for one in job.remotes)
    if not is_remote and not is_url(job.target):
        return job_folder_for(job.target)
    parent = Path() if job.state is None else job.state.path.parent
    name = short_name(PurePosixPath(job.target).name, job.target)
    return job_folder_for(parent / name)


def _check_inputs(job: FileJob) -> bool:
    """Read all text inputs before the first request, to find every bad row. Blocks.

    Resumed jobs have done it before, unless they collect the bad rows of all inputs
    again. Jobs with a state read everything first. Otherwise, only the headers are
    read, so that a missing column of the last input, or one that its output could not
    have, is found.

    Returns:
        Whether all inputs were read.
    """
    # Stdin can be read only once, and what is done remotely may have no copy.
    opens = [
        partial(job.open, file)
        for file in job.files
        if file.source is not None and file.source.exists()
    ]
    whole = job.options.precheck
    if job.folder is not None and job.folder.checkpoints:
        whole = job.bad_rows is not None
    if job.state is not None or not whole:
        try:
            for open_file in opens:
                open_file()[0].close()
        except InputError:
            pass  # and report all errors in one run
        else:
            return False
    read_check(opens, job.bad_rows)
    return True


def _open_input(job: FileJob, index: int, pair: FilePair) -> InputFile:
    """Find an input and its checkpoint; the folder gets what is remote. Blocks."""
    source, target, identity, saved = pair.source, pair.target, None, None
    if source is not None:
        identity = identify(source)
        if job.folder is not None:
            saved = job.folder.checkpoints.get(identity.name)
        if isinstance(source, Remote):
            source, identity = _fetch(job, source, identity, saved)
        check_input(saved, identity)
    if isinstance(target, Remote):
        assert job.parts is not None  # noqa: S101 - as in _fetch
        target = copy_path(job.parts, target, version="out")
    reading: FileFormatOptions = job.options
    writing = reading
    if job.table is None:
        reading, writing = pair.formats(job.options)
    return InputFile(
        index=index,
        named=pair,
        reading=reading,
        writing=writing,
        source=source,
        target=target,
        identity=identity,
        saved=saved,
    )


def _fetch(
    job: FileJob, source: Remote, identity: InputIdentity, saved: Checkpoint | None
) -> tuple[Path, InputIdentity]:
    """Copy a remote input into the job's folder. Blocks.

    A copy from an interrupted run is reused, and an input whose output is done is not
    copied.
    """
    assert job.parts is not None  # noqa: S101 - a job with remote files has one
    version = str(msgspec.structs.astuple(identity))
    copy = copy_path(job.parts, source, version=version)
    if not source.is_pinned:
        check_input(saved, identity)
    if saved is not None and saved.done:
        return copy, saved.input
    if not copy.exists():
        source.fetch(copy, disk=job.system.disk)
    if source.is_pinned:
        identity = msgspec.structs.replace(identity, size=copy.stat().st_size)
    return copy, identity


strip_tracebacks(globals())
