"""File jobs: map files, and check raw UIDs for opt-outs.

A job without a state streams: the dispatcher answers the rows of the inputs, which are
written in order, with checkpoints in the log of the job's folder. Jobs with a state are
in :mod:`uid2_async.bulk.state_jobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._portal import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.columns import OutcomeColumns, StatusColumns, find_identifiers
from uid2_async.bulk.database import Query, Table
from uid2_async.bulk.job import (
    FileJob,
    JobFiles,
    RowTable,
    dispatching,
    finish_bad_rows,
    job_outputs,
    job_settings,
    open_state,
    summarize,
    write_all,
)
from uid2_async.bulk.job_files import (
    BadRows,
    FileSource,
    InputFaults,
    InputFile,
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
from uid2_async.bulk.paths import (
    STDIO,
    FilePair,
    InputIdentity,
    Remote,
    check_targets,
    identify,
    state_paths,
)
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.bulk.resume import JobFolder, check_inputs, job_folder_for
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
from uid2_async.errors import ConfigError

T = TypeVar("T")

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
    prepare = partial(_map_job, source, target, **settings)
    return await _run(await run_in_thread(prepare))


def _check_delta(options: MapOptions, state: object, delta: object) -> None:
    """Reject a delta without a state, and an audience without a delta."""
    if delta is not None and state is None:
        raise ConfigError(
            "A delta lists the changes of a state.",
            hint="Name a state as well (`state`).",
        )
    if options.full and delta is None:
        raise ConfigError(
            "People missing from a full input are listed in the delta.",
            hint="Name a delta as well (`delta`).",
        )


async def map_table(
    table: RowTable,
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
    prepare = partial(_map_job, None, STDIO, table=table, **settings)
    job = await run_in_thread(prepare)
    await run_in_thread(partial(_check_paths, job, None, unfinished=False))
    file = InputFile(
        index=0, named=job.pairs[0], reading=job.options, writing=job.options
    )
    return await _run_files(job, JobFiles(files=[file]))


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
    return await _run(await run_in_thread(prepare))


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
    _check_delta(options, state, delta)
    iso = None if options.refresh_from is None else options.refresh_from == "iso"
    return _file_job(
        source,
        target,
        options=attrs.evolve(options, iso=iso),
        find=partial(
            find_identifiers,
            column=options.column,
            kind=options.type,
            several=options.identifiers,
            kind_column=options.type_column,
            phones=options.national_phones(),
        ),
        formatter=OutcomeColumns(
            list(options.identifiers) or [options.type or "identifier"],
            rule=options.optout_rule,
            explode=options.explode,
            snake_case=options.names == "snake",
            buckets=options.api is Api.V2,
        ),
        endpoint=MAP_V2 if options.api is Api.V2 else MAP_V3,
        state=state,
        delta=delta,
        keys=() if delta is None else options.keys,
        **more,
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
    ends = [end for pair in pairs for end in (pair.source, pair.target)]
    bad = options.bad_rows
    return FileJob(
        pairs=pairs,
        target=str(target),
        options=options,
        bad_rows=None if bad is None else local_path(bad, "bad_rows"),
        remotes=[end for end in ends if isinstance(end, Remote)],
        is_resumable=not any(end is None or isinstance(end, Pipe) for end in ends),
        **more,
    )


# --- opening files --------------------------------------------------------------------


async def _run(job: FileJob) -> JobSummary:
    """Run a job in its folder, or in a temporary folder if it cannot be resumed."""
    async with _entered(_open_files(job)) as files:
        summary = await _run_files(job, files)
        if summary.complete and files.folder is not None:
            await run_in_thread(files.folder.discard)
    return summary


async def _run_files(job: FileJob, files: JobFiles) -> JobSummary:
    """Run a job with open files."""
    if job.state is None:
        summary = await _stream(job, files)
    else:
        async with open_state(job.state) as state:
            summary = await run_with_state(job, files, state)
    return attrs.evolve(summary, seconds=time.monotonic() - job.began)


@contextlib.contextmanager
def _open_files(job: FileJob) -> Iterator[JobFiles]:
    """Check the paths of a job, and open its folder and its inputs. Blocks."""
    path = _job_folder(job)
    unfinished = (
        job.is_resumable and JobFolder.is_unfinished(path) and not job.options.restart
    )
    _check_paths(job, path if job.is_resumable else None, unfinished=unfinished)
    opened = _open_folder(job, path) if job.is_resumable else _temporary_folder(job)
    with opened as files, contextlib.ExitStack() as stack:
        bad_rows = None
        if job.bad_rows is not None:
            bad_rows = BadRows(job.bad_rows, disk=job.system.disk)
            stack.callback(bad_rows.close)
        yield _open_inputs(job, attrs.evolve(files, bad_rows=bad_rows))


@contextlib.contextmanager
def _open_folder(job: FileJob, path: Path) -> Iterator[JobFiles]:
    """Open the folder of a job that can be resumed. Blocks."""
    with JobFolder.open(
        path,
        job.terms,
        now=job.system.clock(),
        restart=job.options.restart,
        shared=job.options.shared_folders,
        disk=job.system.disk,
    ) as folder:
        try:
            yield JobFiles(folder=folder, parts=folder.path)
        except BaseException:
            if not folder.checkpoints and not folder.keep:
                # A later run could not resume anything.
                folder.discard(done=False)
            raise


def _job_folder(job: FileJob) -> Path:
    """Return the job folder: next to the output or the state, or the current folder."""
    if job.options.job_dir:
        return local_path(job.options.job_dir, "job_dir")
    is_remote = any(str(one) == job.target for one in job.remotes)
    if not is_remote and not is_url(job.target):
        return job_folder_for(job.target)
    beside = Path() if job.state is None else job.state.path.parent
    digest = sha256(job.target.encode()).hexdigest()[:8]
    name = PurePosixPath(job.target).name[:40]
    return job_folder_for(beside / f"{name}-{digest}")


def _check_paths(job: FileJob, folder: Path | None, *, unfinished: bool) -> None:
    """Reject paths in two roles, existing outputs, and unsafe folders."""
    check_targets(
        job.pairs,
        others={
            "delta": None if job.delta is None else locate(job.delta),
            "bad_rows": job.bad_rows,
        },
        roles={"state": [] if job.state is None else state_paths(job.state.path)},
        folders={"job_dir": folder},
        force=job.options.force,
        unfinished=unfinished,
        allow_shared=job.options.shared_folders,
    )


@contextlib.contextmanager
def _temporary_folder(job: FileJob) -> Iterator[JobFiles]:
    """Make a temporary folder for unfinished files. Blocks."""
    target = job.pairs[0].target
    beside = target if isinstance(target, Path) else None
    if beside is None and job.state is not None:
        beside = job.state.path
    if beside is not None:
        folder = tempfile.mkdtemp(prefix=f".{beside.name[:40]}.", dir=beside.parent)
    elif job.remotes:
        folder = tempfile.mkdtemp(prefix="uid2-")
    else:
        yield JobFiles()
        return
    try:
        yield JobFiles(parts=Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_inputs(job: FileJob, files: JobFiles) -> JobFiles:
    """Open each input, and find where an interrupted run stopped. Blocks."""
    inputs = [_open_input(job, files, *one) for one in enumerate(job.pairs)]
    if not _has_precheck(job, files):
        _check_headers(job, inputs, files.bad_rows)
    if files.folder is not None:
        identities = [one.identity for one in inputs if one.identity]
        check_inputs(files.folder.checkpoints, identities)
    return attrs.evolve(files, files=inputs)


def _check_headers(
    job: FileJob, inputs: Sequence[InputFile], bad_rows: BadRows | None
) -> None:
    """Open each input once, so that a missing column of the last is found first."""
    # Stdin can be read only once, and what is done remotely has no copy.
    opens = [
        partial(job.open, file)
        for file in inputs
        if file.identity and not (file.done and isinstance(file.named.source, Remote))
    ]
    faults = InputFaults()
    for open_file in opens:
        with faults.collecting():
            open_file()[0].close()
    if faults.count:
        # Report all errors in one run, as the precheck does.
        read_check(opens, bad_rows)
    faults.check()


def _open_input(job: FileJob, files: JobFiles, index: int, pair: FilePair) -> InputFile:
    """Find an input and its checkpoint; the folder gets what is remote. Blocks."""
    source, target, name, identity = pair.source, pair.target, None, None
    if isinstance(source, Remote):
        name = source.name
        source, identity = _fetch(job, files, source)
    elif source is not None:
        identity = identify(source)
    if isinstance(target, Remote):
        assert files.parts is not None  # noqa: S101 - as in _fetch
        target = copy_path(files.parts, target, version="out")
    reading, writing = pair.formats(job.options)
    folder = files.folder
    return InputFile(
        index=index,
        named=pair,
        reading=reading,
        writing=writing,
        source=source,
        target=target,
        name=name,
        identity=identity,
        job="" if folder is None else folder.job,
        saved=folder.checkpoints.get(identity.name) if folder and identity else None,
    )


def _fetch(job: FileJob, files: JobFiles, source: Remote) -> tuple[Path, InputIdentity]:
    """Copy a remote input into the job's folder. Blocks.

    A copy from an interrupted run is reused, and an input whose output is done is not
    copied.
    """
    assert files.parts is not None  # noqa: S101 - a job with remote files has one
    identity = source.identify()
    checkpoints = {} if files.folder is None else files.folder.checkpoints
    check_inputs(checkpoints, [] if source.is_pinned else [identity])
    version = str(msgspec.structs.astuple(identity))
    copy = copy_path(files.parts, source, version=version)
    saved = checkpoints.get(identity.name)
    if not copy.exists() and not (saved is not None and saved.done):
        source.fetch(copy, disk=job.system.disk)
    if source.is_pinned and copy.exists():
        size = copy.stat().st_size
        identity = msgspec.structs.replace(identity, size=size)
    return copy, identity


@asynccontextmanager
async def _entered(block: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a blocking context manager in a thread."""
    cancelled = asyncio.CancelledError()
    value = await run_in_thread(
        block.__enter__,
        discard=lambda _: block.__exit__(type(cancelled), cancelled, None),
    )
    try:
        yield value
    except BaseException as error:
        traceback = error.__traceback__
        await run_in_thread(partial(block.__exit__, type(error), error, traceback))
        raise
    await run_in_thread(partial(block.__exit__, None, None, None))


# --- without a state ------------------------------------------------------------------


async def _stream(job: FileJob, files: JobFiles) -> JobSummary:
    """Map the inputs in one pass, resumable by the job's log."""
    checked = _has_precheck(job, files)
    if checked:
        opens = [partial(job.open, file) for file in files.files]
        await run_in_thread(partial(read_check, opens, files.bad_rows))
        await finish_bad_rows(files, whole=True)
    source = FileSource(
        [file for file in files.files if not file.done],
        partial(job.open, on_bad_row=files.bad_rows, resume=True),
    )
    dispatcher = job.dispatcher(source, endpoint=job.endpoint)
    outputs = job_outputs(job, files, source, log=files.folder)
    async with aclosing(source), dispatching(dispatcher, job.stop) as chunks:
        complete = await write_all(
            outputs, chunks, dispatcher.progress, lambda: dispatcher.is_drained
        )
    return summarize(
        outputs,
        dispatcher,
        bad_rows=await finish_bad_rows(files, whole=complete and not checked),
        resumed_rows=sum(file.saved.rows for file in files.files if file.saved),
        complete=complete,
    )


def _has_precheck(job: FileJob, files: JobFiles) -> bool:
    """Return whether the text inputs are read once before any request.

    Pipes can be read only once, resumed jobs have done it before, and jobs with a state
    read everything first.
    """
    is_new = files.folder is not None and not files.folder.checkpoints
    return is_new and job.options.precheck and job.state is None


strip_tracebacks(globals())
