"""File jobs: map files, check raw UIDs for opt-outs, refresh a state.

A job without a state streams: the dispatcher answers the rows of the inputs, which are
written in order, with checkpoints in the log of the job's folder. A job with a state
works in steps. Each step is one transaction of the state, or can be repeated: read all
inputs, ask the operator about what the state does not know, write the outputs from the
state, write the delta, mark it as exported.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import attrs
import msgspec

from uid2_async._portal import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import Chunk, Source
from uid2_async.bulk.columns import (
    IdentifierColumns,
    OutcomeColumns,
    RowStatus,
    StatusColumns,
    find_identifiers,
    status_of_uid,
)
from uid2_async.bulk.database import Query, Table
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
from uid2_async.bulk.job_files import (
    BadRows,
    FileSource,
    InputFaults,
    InputFile,
    JobOutputs,
    RowFormatter,
    read_check,
)
from uid2_async.bulk.options import (
    Api,
    FileProgress,
    JobOptions,
    JobSummary,
    MapOptions,
    RefreshOptions,
    StatusOptions,
)
from uid2_async.bulk.outcomes import (
    MAP_V2,
    MAP_V3,
    OPTOUT_STATUS,
    RAW_UID,
    Endpoint,
    Outcome,
    Progress,
)
from uid2_async.bulk.paths import (
    STDIO,
    Content,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Remote,
    check_targets,
    identify,
    state_paths,
)
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.bulk.resume import (
    Checkpoint,
    JobFolder,
    check_inputs,
    decode_checkpoint,
    encode_checkpoint,
    job_folder_for,
    job_terms,
)
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import Run, StateSelection
from uid2_async.bulk.stores import (
    Pipe,
    copy_path,
    expand_locations,
    is_url,
    local_path,
    locate,
    through_files,
)
from uid2_async.bulk.text import (
    OnBadRow,
    Reader,
    open_reader,
)
from uid2_async.bulk.writers import Output
from uid2_async.client import UID2Client, buckets_call
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityType, MapRow, UnmappedReason, datetime_from_ms

T = TypeVar("T")

_Location: TypeAlias = str | os.PathLike[str] | Remote

_OPTED_OUT: Final = MapRow(reason=UnmappedReason.OPTED_OUT.value)


# --- what a job is --------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Job:
    """A job and its settings."""

    client: UID2Client
    options: JobOptions
    stop: asyncio.Event | None
    on_progress: Callable[[FileProgress], object] | None
    system: System
    state: MappingState | None = None
    delta: str | None = None
    began: float = attrs.field(factory=time.monotonic)

    @property
    def is_stopped(self) -> bool:
        """Whether the job was asked to stop."""
        return self.stop is not None and self.stop.is_set()

    def dispatcher(self, source: Source, **more: Any) -> Dispatcher:
        """Make the dispatcher that asks the operator about *source*."""
        return Dispatcher(self.client, source, self.options, self.system, **more)

    def tell(self, counts: Counter[str], dispatcher: Dispatcher) -> None:
        """Report the progress of requests; no files are involved."""
        if self.on_progress is not None:
            self.on_progress(
                FileProgress(
                    phase="asking",
                    rows=counts.total(),
                    bytes_read=0,
                    total_bytes=None,
                    endings=counts,
                    job=dispatcher.progress(),
                )
            )


def _settings(
    client: UID2Client,
    options: JobOptions,
    stop: asyncio.Event | None,
    on_progress: Callable[[FileProgress], object] | None,
    system: System,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Return the settings that all jobs share, with a state that may not be open."""
    if state is not None and not isinstance(state, MappingState):
        state = MappingState(
            local_path(state, "state"),
            clock=system.clock,
            shared_folders=options.shared_folders,
        )
    return {
        "client": client,
        "options": options,
        "stop": stop,
        "on_progress": on_progress,
        "system": system,
        "state": state,
        "delta": None if delta is None else os.fspath(delta),
    }


@attrs.frozen(kw_only=True)
class _FileJob(_Job):
    """A file job.

    Attributes:
        pairs: Its inputs and outputs.
        target: The output as the user named it.
        find: Finds the identifiers in the header of an input.
        keys: The input columns that the delta contains.
        bad_rows: The file for rows that cannot be read; None if they are an error.
        table: The rows in memory that are mapped instead of files.
        remotes: The inputs and outputs that are not local files.
        is_resumable: Whether an interrupted run can be resumed; a pipe can be read only
            once.
    """

    options: MapOptions | StatusOptions
    pairs: Sequence[FilePair]
    target: str
    find: Callable[..., IdentifierColumns]
    formatter: RowFormatter
    endpoint: Endpoint
    keys: Sequence[str] = ()
    bad_rows: Path | None = None
    table: RowTable | None = None
    remotes: Sequence[Remote] = ()
    is_resumable: bool = False

    def terms(self, salt: str) -> dict[str, Any]:
        """Return what must not change until the job is done."""
        state = None if self.state is None else str(self.state.path)
        options = {**self.options.terms(), "delta": self.delta, "state": state}
        pinned = [str(one) for one in self.remotes if one.is_pinned]
        if pinned:
            options["source"] = pinned
        return job_terms(self.target, options, self.client.settings_digest, salt)

    def open(
        self, file: InputFile, on_bad_row: OnBadRow = None, *, resume: bool = False
    ) -> tuple[Reader, IdentifierColumns]:
        """Open an input and find its columns. Blocks.

        To *resume*, skip the rows that are already in its output.
        """
        if self.table is not None:
            reader = self.table.open_reader()
        else:
            reader = open_reader(
                file.source, file.reading, name=file.name, on_bad_row=on_bad_row
            )
        try:
            columns = self.find(reader.header, name=reader.name)
            reader.want(columns.wanted, self.keys, self.formatter.contents)
            if resume and file.saved is not None and file.saved.rows:
                reader.skip(file.saved.rows)
        except BaseException:
            reader.close()
            raise
        return reader, columns


def _file_job(
    source: _Location | None,
    target: _Location,
    *,
    options: MapOptions | StatusOptions,
    **more: Any,
) -> _FileJob:
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
    return _FileJob(
        pairs=pairs,
        target=str(target),
        options=options,
        bad_rows=None if bad is None else local_path(bad, "bad_rows"),
        remotes=[end for end in ends if isinstance(end, Remote)],
        is_resumable=not any(end is None or isinstance(end, Pipe) for end in ends),
        **more,
    )


def _map_job(
    source: _Location | None,
    target: _Location,
    *,
    options: MapOptions,
    state: MappingState | None,
    delta: str | None,
    **more: Any,
) -> _FileJob:
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


# --- files ----------------------------------------------------------------------------


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
    settings = _settings(client, options, stop, on_progress, _system, state, delta)
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


class RowTable(Protocol):
    """Rows in memory, which a job maps like the rows of a file."""

    def open_reader(self) -> Reader:
        """Return a reader of the rows; a job with a state reads them twice. Blocks."""
        ...

    def open_output(
        self,
        reader: Reader,
        options: FileFormatOptions,
        added: Mapping[str, Content],
    ) -> Output:
        """Return an output for the *added* columns of the rows of *reader*. Blocks."""
        ...


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
    settings = _settings(client, options, None, on_progress, SYSTEM, state, delta)
    prepare = partial(_map_job, None, STDIO, table=table, **settings)
    job = await run_in_thread(prepare)
    await run_in_thread(partial(_check_paths, job, None, begun=False))
    file = InputFile(
        index=0, named=job.pairs[0], reading=job.options, writing=job.options
    )
    return await _run_files(job, _Files(files=[file]))


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
        **_settings(client, options, stop, on_progress, _system),
    )
    return await _run(await run_in_thread(prepare))


async def _run(job: _FileJob) -> JobSummary:
    """Run a job in its folder, or in a temporary folder if it cannot be resumed."""
    async with _entered(_open_files(job)) as files:
        summary = await _run_files(job, files)
        if summary.complete and files.folder is not None:
            await run_in_thread(files.folder.discard)
    return summary


async def _run_files(job: _FileJob, files: _Files) -> JobSummary:
    """Run a job with open files."""
    if job.state is None:
        summary = await _stream(job, files)
    else:
        async with _opened(job.state) as state:
            summary = await _run_with_state(job, files, state)
    return attrs.evolve(summary, seconds=time.monotonic() - job.began)


@attrs.frozen(kw_only=True)
class _Files:
    """The files of a job, and its folders.

    Attributes:
        folder: The job's folder; None if the job cannot be resumed.
        parts: The folder of unfinished files; None if there are none.
        files: The inputs and outputs, once they are open.
        bad_rows: Collects the rows that cannot be read, unless they are an error.
    """

    folder: JobFolder | None = None
    parts: Path | None = None
    files: Sequence[InputFile] = ()
    bad_rows: BadRows | None = None


@contextlib.contextmanager
def _open_files(job: _FileJob) -> Iterator[_Files]:
    """Check the paths of a job, and open its folder and its inputs. Blocks."""
    path = _job_folder(job)
    begun = job.is_resumable and JobFolder.is_begun(path) and not job.options.restart
    _check_paths(job, path if job.is_resumable else None, begun=begun)
    opened = _open_folder(job, path) if job.is_resumable else _temporary_folder(job)
    with opened as files, contextlib.ExitStack() as stack:
        bad_rows = None
        if job.bad_rows is not None:
            bad_rows = BadRows(job.bad_rows, disk=job.system.disk)
            stack.callback(bad_rows.close)
        yield _open_inputs(job, attrs.evolve(files, bad_rows=bad_rows))


@contextlib.contextmanager
def _open_folder(job: _FileJob, path: Path) -> Iterator[_Files]:
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
            yield _Files(folder=folder, parts=folder.path)
        except BaseException:
            if not folder.checkpoints and not folder.keep:
                # A later run could not resume anything.
                folder.discard(done=False)
            raise


def _job_folder(job: _FileJob) -> Path:
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


def _check_paths(job: _FileJob, folder: Path | None, *, begun: bool) -> None:
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
        begun=begun,
        allow_shared=job.options.shared_folders,
    )


@contextlib.contextmanager
def _temporary_folder(job: _FileJob) -> Iterator[_Files]:
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
        yield _Files()
        return
    try:
        yield _Files(parts=Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_inputs(job: _FileJob, files: _Files) -> _Files:
    """Open each input, and find where an interrupted run stopped. Blocks."""
    inputs = [_open_input(job, files, *one) for one in enumerate(job.pairs)]
    if not _has_precheck(job, files):
        _check_headers(job, inputs, files.bad_rows)
    if files.folder is not None:
        identities = [one.identity for one in inputs if one.identity]
        check_inputs(files.folder.checkpoints, identities)
    return attrs.evolve(files, files=inputs)


def _check_headers(
    job: _FileJob, inputs: Sequence[InputFile], bad_rows: BadRows | None
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


def _open_input(job: _FileJob, files: _Files, index: int, pair: FilePair) -> InputFile:
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


def _fetch(job: _FileJob, files: _Files, source: Remote) -> tuple[Path, InputIdentity]:
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


async def _write_all(
    outputs: JobOutputs,
    chunks: AsyncIterator[Chunk],
    progress: Callable[[], Progress],
    is_stopped: Callable[[], bool],
) -> bool:
    """Write answered chunks; their answers are saved even if the job fails.

    Returns:
        Whether every output is complete and has its final name.
    """
    complete = False
    try:
        async for chunk in chunks:
            await outputs.write(chunk, progress)
            # One reply answers many chunks at once.
            await asyncio.sleep(0)
        if not is_stopped():
            await outputs.finish()
            complete = True
    finally:
        await outputs.close(save=not complete)
    return complete


def _outputs(
    job: _FileJob, files: _Files, source: FileSource, **more: Any
) -> JobOutputs:
    """Make the writer of a job's outputs."""
    return JobOutputs(
        files=files.files,
        source=source,
        formatter=job.formatter,
        parts=files.parts,
        disk=job.system.disk,
        on_progress=job.on_progress,
        open_table=None if job.table is None else job.table.open_output,
        **more,
    )


def _summarize(
    outputs: JobOutputs | None,
    dispatcher: Dispatcher,
    counts: Mapping[str, int] | None = None,
    **more: Any,
) -> JobSummary:
    """Summarize a job; without *outputs*, by the identities asked about."""
    if outputs is not None:
        counts, more["rows"] = outputs.status_counts, outputs.rows
        more["input_warnings"] = dict(outputs.input_warnings)
        more.setdefault("duplicates", outputs.duplicates)
        more["outputs"] = outputs.finished
    else:
        more["rows"] = sum((counts or {}).values())
    by_status: dict[str, Any] = {
        status.value: (counts or {}).get(status, 0) for status in RowStatus
    }
    return JobSummary(
        **by_status,
        requests=dispatcher.requests,
        throttled=dispatcher.limit.throttled,
        **more,
    )


# --- without a state ------------------------------------------------------------------


async def _stream(job: _FileJob, files: _Files) -> JobSummary:
    """Map the inputs in one pass, resumable by the job's log."""
    checked = _has_precheck(job, files)
    if checked:
        opens = [partial(job.open, file) for file in files.files]
        await run_in_thread(partial(read_check, opens, files.bad_rows))
        await _finish_bad_rows(files, whole=True)
    source = FileSource(
        [file for file in files.files if not file.done],
        partial(job.open, on_bad_row=files.bad_rows, resume=True),
    )
    dispatcher = job.dispatcher(source, endpoint=job.endpoint)
    outputs = _outputs(job, files, source, log=files.folder)
    async with aclosing(source), _dispatching(dispatcher, job.stop) as chunks:
        complete = await _write_all(
            outputs, chunks, dispatcher.progress, lambda: dispatcher.is_drained
        )
    return _summarize(
        outputs,
        dispatcher,
        bad_rows=await _finish_bad_rows(files, whole=complete and not checked),
        resumed_rows=sum(file.saved.rows for file in files.files if file.saved),
        complete=complete,
    )


def _has_precheck(job: _FileJob, files: _Files) -> bool:
    """Return whether the text inputs are read once before any request.

    Pipes can be read only once, resumed jobs have done it before, and jobs with a state
    read everything first.
    """
    is_new = files.folder is not None and not files.folder.checkpoints
    return is_new and job.options.precheck and job.state is None


async def _finish_bad_rows(files: _Files, *, whole: bool) -> int:
    """Finish the file of bad rows if all were collected; return their number."""
    if files.bad_rows is None:
        return 0
    if whole:
        await run_in_thread(files.bad_rows.finish)
    return files.bad_rows.count


@asynccontextmanager
async def _dispatching(
    dispatcher: Dispatcher, stop: asyncio.Event | None
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Run a dispatcher during the block, and yield its answered chunks."""

    async def chunks() -> AsyncIterator[Chunk]:
        while (chunk := await dispatcher.next_chunk()) is not None:
            yield chunk

    dispatcher.start()
    watch = asyncio.create_task(dispatcher.drain_on(stop)) if stop else None
    try:
        yield chunks()
    finally:
        if watch is not None:
            watch.cancel()
        await dispatcher.stop()


# --- with a state ---------------------------------------------------------------------


async def _run_with_state(
    job: _FileJob, files: _Files, state: MappingState
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
        return _summarize(None, asking, complete=False)
    try:
        counts = await _ask_all(job, asking)
    finally:
        if folder is not None:
            folder.keep = folder.resumed or asking.batches > 0
    if asking.is_drained:
        return _summarize(None, asking, counts=counts, complete=False)
    if segment is not None:
        await state.remove_absent(run, segment, options.max_removed)
    return await _write_from_state(job, files, state, run, asking)


async def _stage(job: _FileJob, files: _Files, state: MappingState, run: Run) -> bool:
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
        await _finish_bad_rows(files, whole=True)
    return staged


async def _write_from_state(
    job: _FileJob, files: _Files, state: MappingState, run: Run, asking: Dispatcher
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

    outputs = _outputs(job, files, source, on_done=note_done)
    async with aclosing(source), _open_delta(job, state, keys=job.keys) as delta:
        chunks = answer_from_state(source, state, job.endpoint, lambda: job.is_stopped)
        if delta is not None and job.keys:
            chunks = delta.noting_rows(chunks, state, run, job.endpoint)
        complete = await _write_all(
            outputs, chunks, asking.progress, lambda: job.is_stopped
        )
        counts = state.staging_counts
        summary = _summarize(
            outputs,
            asking,
            bad_rows=await _finish_bad_rows(files, whole=False),
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
    job: _Job, state: MappingState, *, keys: Sequence[str] = ()
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


def _reading_progress(rows: int, chunk: Chunk, files: _Files) -> FileProgress:
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


# --- states ---------------------------------------------------------------------------


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
    settings = _settings(client, options, stop, on_progress, _system, state, delta)
    job = _Job(**settings)
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
    settings = _settings(client, options, stop, on_progress, _system, state, delta)
    job = _Job(**settings)
    counts: Counter[str] = Counter()
    async with (
        _state_run(job) as (opened, run),
        aclosing(opened.export()) as pages,
    ):
        asking = job.dispatcher(PageSource(uid_pages(pages)), endpoint=OPTOUT_STATUS)
        async with _dispatching(asking, stop) as chunks:
            async for chunk in chunks:
                await _record_opt_outs(opened, run, chunk, counts)
                job.tell(counts, asking)
        return await _end_state_run(job, opened, run, asking, counts)


@asynccontextmanager
async def _state_run(job: _Job) -> AsyncIterator[tuple[MappingState, Run]]:
    """Open the state of a job without files, check its delta, and start a run."""
    assert job.state is not None  # noqa: S101 - by the callers
    async with _opened(job.state) as state:
        if job.delta is not None:
            begun = await state.has_unfinished_delta(job.delta)
            check = partial(
                check_export,
                state,
                job.delta,
                role="delta",
                force=job.options.force or begun,
                shared=job.options.shared_folders,
            )
            await run_in_thread(check)
        yield state, await _begin(state, job.client)


async def _end_state_run(
    job: _Job,
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
    summary = _summarize(None, asking, counts, complete=not asking.is_drained)
    seconds = time.monotonic() - job.began
    return attrs.evolve(summary, changes=changes, seconds=seconds)


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


async def _find_rotated(client: UID2Client, state: MappingState) -> StateSelection:
    """Ask which salt buckets have rotated since the last run (API v2)."""
    ended = [run.started for run in await state.runs() if run.ended]
    since = datetime_from_ms(1000 * max(ended, default=0))
    found = await client.run_call(buckets_call(since))
    rotated = {bucket.bucket_id: bucket.last_updated for bucket in found}
    return StateSelection.of_buckets(rotated)


async def _record(
    state: MappingState,
    run: Run,
    subject: str,
    identities: Sequence[bytes],
    outcomes: Sequence[Outcome],
) -> None:
    """Store the outcomes of a batch; the dispatcher awaits it."""
    await state.record(run, IdentityType(subject), identities, outcomes)


async def _ask_all(job: _Job, dispatcher: Dispatcher) -> Counter[str]:
    """Ask about everything in the source of a dispatcher; count the outcomes."""
    columns = OutcomeColumns([""], matched_type=False)
    async with _dispatching(dispatcher, job.stop) as chunks:
        async for chunk in chunks:
            columns.make(chunk.outcomes())
            job.tell(columns.status_counts, dispatcher)
    return columns.status_counts


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


@asynccontextmanager
async def _opened(state: MappingState) -> AsyncIterator[MappingState]:
    """Open a state for a job, unless it is open already."""
    if state.is_open:
        yield state
        return
    async with state:
        yield state


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


strip_tracebacks(globals())
