"""File jobs: map files, check raw UIDs for opt-outs, refresh a state.

A job without a state streams: the dispatcher answers the rows of the inputs, and they
are written in order, with checkpoints in the log of the job's folder. A job with a
state works in steps, each of which is one transaction of the state or can be repeated:
read all inputs, ask the operator about what the state does not know, write the outputs
from the state, write the delta, mark it as exported.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar

import attrs
import msgspec

from uid2_async._threads import run_in_thread
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import Chunk
from uid2_async.bulk.columns import (
    IdentifierColumns,
    OutcomeColumns,
    RowStatus,
    StatusColumns,
    find_identifiers,
    status_of_uid,
)
from uid2_async.bulk.database import Query, Table
from uid2_async.bulk.dispatch import Dispatcher, DispatchOptions
from uid2_async.bulk.endpoints import MAP_V2, MAP_V3, OPTOUT_STATUS, RAW_UID, Endpoint
from uid2_async.bulk.exports import DeltaWriter, check_export
from uid2_async.bulk.job_files import (
    BadRows,
    FileSource,
    InputFile,
    JobOutputs,
    RowFormatter,
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
from uid2_async.bulk.outcomes import Outcome, Progress
from uid2_async.bulk.paths import (
    STDIO,
    Content,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Location,
    Remote,
    check_roles,
    check_targets,
    identify,
    state_paths,
)
from uid2_async.bulk.private_files import SYSTEM, Disk, System, open_private
from uid2_async.bulk.resume import (
    Checkpoint,
    JobFolder,
    JobTerms,
    check_inputs,
    decode_checkpoint,
    encode_checkpoint,
    job_folder_for,
    part_path,
)
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_answers import (
    StateSource,
    UidSource,
    answer_from_state,
    stage_all,
)
from uid2_async.bulk.state_values import Run, StateSelection
from uid2_async.bulk.stores import (
    copy_path,
    expand_locations,
    is_url,
    local_path,
    locate,
)
from uid2_async.bulk.text import (
    InputFaults,
    Reader,
    open_reader,
    open_stdio,
    read_check,
)
from uid2_async.bulk.writers import Output
from uid2_async.client import UID2Client, buckets_call
from uid2_async.errors import ConfigError
from uid2_async.models import IdentityType, MapRow, UnmappedReason, datetime_from_ms

T = TypeVar("T")

_OPTED_OUT: Final = MapRow(reason=UnmappedReason.OPTED_OUT.value)


# --- what a job is --------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Job:
    """What a file job does with which files.

    Attributes:
        pairs: The inputs and outputs.
        target: The output as the user named it.
        find: Finds the columns of the identifiers in a header.
        formatter: Makes the added columns.
        endpoint: The endpoint that answers.
        options: What decides about the output.
        state: The state, if there is one.
        delta: Where the delta goes, ``-`` for stdout, if one is wanted.
        table: The rows, if they are in memory and not in files.
    """

    pairs: Sequence[FilePair]
    target: str
    find: Callable[..., IdentifierColumns]
    formatter: RowFormatter
    endpoint: Endpoint
    options: MapOptions | StatusOptions
    state: MappingState | None = None
    delta: str | None = None
    table: RowTable | None = None

    @property
    def keys(self) -> Sequence[str]:
        """The input columns that the delta repeats."""
        if self.delta is None or not isinstance(self.options, MapOptions):
            return ()
        return self.options.keys

    @property
    def is_resumable(self) -> bool:
        """Whether an interrupted run can be resumed: a pipe is gone once read."""
        return all(pair.source and pair.target for pair in self.pairs)

    @property
    def bad_rows(self) -> Path | None:
        """Where rows go that cannot be read; None if they are an error."""
        path = self.options.bad_rows
        return None if path is None else local_path(path, "--bad-rows")

    @property
    def delta_location(self) -> Location | None:
        """Where the delta goes; None if none is wanted, or if it goes to stdout."""
        return None if self.delta in (None, STDIO) else locate(str(self.delta))

    def terms(self) -> dict[str, Any]:
        """Return what must not change while the job is resumed."""
        state = None if self.state is None else str(self.state.path)
        terms = {**self.options.terms(), "delta": self.delta, "state": state}
        pinned = [str(one) for one in self.remotes if one.is_pinned]
        return {**terms, "source": pinned} if pinned else terms

    @property
    def remotes(self) -> list[Remote]:
        """The inputs and outputs that are not on this machine."""
        ends = [end for pair in self.pairs for end in (pair.source, pair.target)]
        return [end for end in ends if isinstance(end, Remote)]

    def want(self, reader: Reader) -> IdentifierColumns:
        """Find the columns of an input, and let its *reader* read them."""
        columns = self.find(reader.header, name=reader.name)
        reader.want(columns.wanted, self.keys, self.formatter.contents)
        return columns

    def open(
        self, pair: FilePair, on_bad_row: Callable[..., object] | None
    ) -> tuple[Reader, IdentifierColumns]:
        """Open an input and find its columns. Blocks."""
        if self.table is not None:
            reader = self.table.open_reader()
        else:
            reading, _ = pair.formats(self.options)
            source = _local(pair.source)
            reader = open_reader(source, reading, name=pair.name, on_bad_row=on_bad_row)
        try:
            return reader, self.want(reader)
        except BaseException:
            reader.close()
            raise


def _local(location: Location | None) -> Path | None:
    """Return a path that is one by now."""
    assert not isinstance(location, Remote)  # noqa: S101 - by _localized
    return location


def _expand(
    source: str | Remote, target: str | Remote, options: MapOptions | StatusOptions
) -> list[FilePair]:
    """List the inputs and outputs, whose formats can be read and written."""
    pairs = expand_locations(source, target)
    for pair in pairs:
        pair.formats(options)
    return pairs


def _named(location: str | os.PathLike[str] | Remote) -> str | Remote:
    """Return what a caller names as text, unless it is an object of ours."""
    return location if isinstance(location, Remote) else os.fspath(location)


def _map_job(
    target: str | Remote,
    options: MapOptions,
    find_pairs: Callable[[], Sequence[FilePair]],
) -> _Job:
    """Prepare a job that maps. Blocks."""
    phones = options.national_phones()
    formatter = OutcomeColumns(
        list(options.identifiers) or [options.type or "identifier"],
        rule=options.optout_rule,
        explode=options.explode,
        snake_case=options.names == "snake",
        buckets=options.api is Api.V2,
    )
    find = partial(
        find_identifiers,
        column=options.column,
        kind=options.type,
        several=options.identifiers,
        kind_column=options.type_column,
        phones=phones,
    )
    iso = None if options.refresh_from is None else options.refresh_from == "iso"
    return _Job(
        pairs=find_pairs(),
        target=str(target),
        find=find,
        formatter=formatter,
        endpoint=MAP_V2 if options.api is Api.V2 else MAP_V3,
        options=attrs.evolve(options, iso=iso),
    )


def _status_job(source: str, target: str, options: StatusOptions) -> _Job:
    """Prepare a job that checks raw UIDs. Blocks."""
    return _Job(
        pairs=_expand(source, target, options),
        target=target,
        find=partial(find_identifiers, column=options.column, kind=RAW_UID, several={}),
        formatter=StatusColumns(
            drop=options.drop, allow_unverifiable=options.allow_unverifiable
        ),
        endpoint=OPTOUT_STATUS,
        options=options,
    )


@attrs.frozen(kw_only=True)
class _Context:
    """What a job runs with.

    Attributes:
        client: Asks the operator.
        options: How requests are sent, and what may be replaced.
        stop: Ends the job in order when it is set.
        on_progress: Called with the progress.
        system: The clock, the disk and the like.
    """

    client: UID2Client
    options: JobOptions
    stop: asyncio.Event | None
    on_progress: Callable[[FileProgress], object] | None
    system: System


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
    """Map a file, or the files of a folder; what ``uid2 map`` runs.

    Call it again with the same arguments to resume an interrupted job.

    Args:
        source: A file, a folder, a pattern such as ``export/*.parquet``, or ``-``. Its
            URL if it lies in a store, such as ``s3://bucket/day=*/part-*.parquet``. The
            folder or the URL of a Delta Lake table. A query of a database.
        target: The file to write, or the folder, or its URL, or ``-``. A table.
        client: The client that asks the operator.
        options: How the files are read, mapped and written, and how the job runs.
        state: What remembers answers between jobs. A state that is not open is opened
            for the job.
        delta: Where to write what has changed since the last delta, or ``-``. Requires
            *state*.
        stop: Ends the job in order when it is set.
        on_progress: Called with the progress.

    Returns:
        What was done.

    Raises:
        InputError: If an input cannot be read, or an output must not be written.
        JobError: If an unfinished job differs from this one, another process works on
            it, or a disk is full. What is done is kept.
        ConfigError: If an option is wrong.
        AuthError: If the API key or secret is rejected.
        StalledError: If no request succeeded for the job's stall_timeout.
    """
    options = options or MapOptions()
    _check_delta(options, state, delta)
    context = _Context(
        client=client,
        options=options,
        stop=stop,
        on_progress=on_progress,
        system=_system,
    )
    name = _named(target)
    find_pairs = partial(_expand, _named(source), name, options)
    job = attrs.evolve(
        await run_in_thread(partial(_map_job, name, options, find_pairs)),
        state=None if state is None else _as_state(state, context),
        delta=None if delta is None else os.fspath(delta),
    )
    return await _run(job, context)


def _check_delta(options: MapOptions, state: object, delta: object) -> None:
    """Reject a delta without a state, and an audience without a delta."""
    if delta is not None and state is None:
        raise ConfigError(
            "A delta lists what has changed in a state.",
            hint="Name a state as well (--state).",
        )
    if options.full and delta is None:
        raise ConfigError(
            "People missing from a full input are listed in the delta.",
            hint="Name a delta as well (--delta).",
        )


class RowTable(Protocol):
    """Rows in memory, which a job maps as it maps the rows of a file."""

    def open_reader(self) -> Reader:
        """Return a reader of the rows. A job with a state reads them twice. Blocks."""
        ...

    def open_output(
        self,
        reader: Reader,
        options: FileFormatOptions,
        added: Mapping[str, Content],
    ) -> Output:
        """Return what takes the *added* columns of the rows of *reader*. Blocks."""
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
    """Map rows in memory as :func:`map_file` maps a file; for integrations.

    Nothing is resumed but what a state remembers.
    """
    _check_delta(options, state, delta)
    context = _Context(
        client=client,
        options=options,
        stop=None,
        on_progress=on_progress,
        system=SYSTEM,
    )
    pair = FilePair(None, None)
    job = attrs.evolve(
        await run_in_thread(partial(_map_job, STDIO, options, lambda: [pair])),
        table=table,
        state=None if state is None else _as_state(state, context),
        delta=None if delta is None else os.fspath(delta),
    )
    await run_in_thread(partial(_check_paths, job, None, context, begun=False))
    file = InputFile(
        index=0,
        pair=pair,
        identity=None,
        open=partial(job.open, pair, None),
        writing=job.options,
        open_output=table.open_output,
    )
    place = _Place(folder=None, parts=None)
    files = _Files(files=[file], place=place, bad_rows=None)
    began = time.monotonic()
    summary = await _run_files(job, files, context)
    return attrs.evolve(summary, seconds=time.monotonic() - began)


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
    """Check the raw UIDs of a file for opt-outs; ``uid2 optout-status IN OUT`` runs it.

    Adds the column STATUS: ``ok``, ``opted_out``, ``unverifiable`` (v4 raw UIDs of the
    environments *integ* and *prod*, which the operator does not find), ``invalid``, or
    ``failed`` if the operator could not be asked. Public operators expect one request
    at a time, which is the default.

    Args:
        source: A file, a folder, a pattern, or ``-``.
        target: The file to write, or the folder, or ``-``.
        client: The client that asks the operator.
        options: What is written, and how the job runs.
        stop: Ends the job in order when it is set.
        on_progress: Called with the progress.

    Returns:
        What was done. *mapped* counts raw UIDs that are ok, *other* the unverifiable.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or StatusOptions()
    context = _Context(
        client=client,
        options=options,
        stop=stop,
        on_progress=on_progress,
        system=_system,
    )
    prepare = partial(_status_job, os.fspath(source), os.fspath(target), options)
    return await _run(await run_in_thread(prepare), context)


async def _run(job: _Job, context: _Context) -> JobSummary:
    """Run a job in its folder, or in a temporary one if it cannot be resumed."""
    began = time.monotonic()
    async with _entered(_open_place(job, context)) as place:
        files = await run_in_thread(partial(_open_files, job, place, context))
        try:
            summary = await _run_files(job, files, context)
        finally:
            if files.bad_rows is not None:
                files.bad_rows.close()
        if summary.complete and place.folder is not None:
            await run_in_thread(place.folder.discard)
    return attrs.evolve(summary, seconds=time.monotonic() - began)


async def _run_files(job: _Job, files: _Files, context: _Context) -> JobSummary:
    """Run a job whose files are open."""
    if job.state is None:
        return await _stream(job, files, context)
    async with _opened(job.state):
        return await _run_with_state(job, files, context)


@attrs.frozen(kw_only=True)
class _Place:
    """Where a job keeps what is unfinished.

    Attributes:
        folder: The job's folder; None if the job cannot be resumed.
        parts: The folder of unfinished files; None if none is written.
    """

    folder: JobFolder | None
    parts: Path | None


@contextlib.contextmanager
def _open_place(job: _Job, context: _Context) -> Iterator[_Place]:
    """Check the paths of a job, and open its folder. Blocks."""
    path = _job_folder(job)
    begun = job.is_resumable and JobFolder.is_begun(path) and not job.options.restart
    _check_paths(job, path if job.is_resumable else None, context, begun=begun)
    if not job.is_resumable:
        with _temporary_folder(job) as parts:
            yield _Place(folder=None, parts=parts)
        return
    terms = JobTerms(
        target=job.target, options=job.terms(), settings=context.client.settings_digest
    )
    with JobFolder.open(
        path,
        terms,
        now=context.system.clock(),
        restart=job.options.restart,
        shared=context.options.shared_folders,
        disk=context.system.disk,
    ) as folder:
        try:
            yield _Place(folder=folder, parts=folder.path)
        except BaseException:
            if not folder.checkpoints and not folder.keep:
                # There is nothing that a later run could resume.
                folder.discard(done=False)
            raise


def _job_folder(job: _Job) -> Path:
    """Return the folder of a job: beside its output, or its state, or right here."""
    if job.options.job_dir:
        return local_path(job.options.job_dir, "--job-dir")
    remote = next((one for one in job.remotes if str(one) == job.target), None)
    if remote is None and not is_url(job.target):
        return job_folder_for(job.target)
    beside = Path() if job.state is None else job.state.path.parent
    digest = sha256(job.target.encode()).hexdigest()[:8]
    name = PurePosixPath(job.target).name[:40]
    return job_folder_for(beside / f"{name}-{digest}")


def _check_paths(
    job: _Job, folder: Path | None, context: _Context, *, begun: bool
) -> None:
    """Reject paths in two roles, outputs that exist, and folders that are unsafe."""
    delta = job.delta_location
    roles: dict[str, list[Location] | list[Path]] = {
        "IN": [pair.source for pair in job.pairs if pair.source is not None],
        "OUT": [pair.target for pair in job.pairs if pair.target is not None],
        "--state": [] if job.state is None else state_paths(job.state.path),
        "--delta": [] if delta is None else [delta],
        "--bad-rows": [] if job.bad_rows is None else [job.bad_rows],
    }
    check_roles(roles, folders={"--job-dir": folder})
    extra = [FilePair(None, one) for one in (delta, job.bad_rows) if one is not None]
    check_targets(
        [*job.pairs, *extra],
        force=context.options.force,
        begun=begun,
        allow_shared=context.options.shared_folders,
    )


@contextlib.contextmanager
def _temporary_folder(job: _Job) -> Iterator[Path | None]:
    """Make a folder for unfinished files that no run resumes from. Blocks."""
    target = job.pairs[0].target
    beside = target if isinstance(target, Path) else None
    if beside is None and job.state is not None:
        beside = job.state.path
    if beside is not None:
        folder = tempfile.mkdtemp(prefix=f".{beside.name[:40]}.", dir=beside.parent)
    elif job.remotes:
        folder = tempfile.mkdtemp(prefix="uid2-")
    else:
        yield None
        return
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attrs.frozen(kw_only=True)
class _Files:
    """The files of a job that was started.

    Attributes:
        files: The inputs and outputs.
        place: Where unfinished files grow.
        bad_rows: Collects the rows that cannot be read, if they are not an error.
    """

    files: Sequence[InputFile]
    place: _Place
    bad_rows: BadRows | None


def _open_files(job: _Job, place: _Place, context: _Context) -> _Files:
    """Look at each input, and find where an interrupted run stopped. Blocks."""
    bad_rows = (
        None
        if job.bad_rows is None
        else BadRows(job.bad_rows, disk=context.system.disk)
    )
    checkpoints = {} if place.folder is None else place.folder.checkpoints
    faults = InputFaults()
    files = []
    for index, named in enumerate(job.pairs):
        # The rows of a job with a state are read twice.
        pair = named if job.state is None else _spooled(named, place)
        identity = None if pair.source is None else identify(pair.source)
        saved = None if identity is None else checkpoints.get(identity.name)
        done = saved is not None and saved.done
        if not pair.is_local:
            disk = context.system.disk
            pair, identity = _localized(pair, identity, place, disk, checkpoints)
        if identity is not None and not (done and isinstance(named.source, Remote)):
            with faults.collecting():
                job.open(pair, bad_rows)[0].close()
        files.append(
            InputFile(
                index=index,
                pair=pair,
                original=named.source,
                output=_name_of_output(named),
                identity=identity,
                open=partial(job.open, pair, bad_rows),
                writing=pair.formats(job.options)[1],
                deliver=_delivery(named, place),
                saved=saved,
                done=done,
            )
        )
    if faults.count:
        # One run says all that is wrong, as the look-through does.
        pairs = [one.pair for one in files]
        read_check(pairs, job.options, job.want, on_bad_row=bad_rows)
    faults.check()
    check_inputs(checkpoints, [one.identity for one in files if one.identity])
    return _Files(files=files, place=place, bad_rows=bad_rows)


def _localized(
    pair: FilePair,
    identity: InputIdentity | None,
    place: _Place,
    disk: Disk,
    checkpoints: Mapping[str, Checkpoint],
) -> tuple[FilePair, InputIdentity | None]:
    """Copy a remote input into the job's folder, and let the output grow there. Blocks.

    A copy that an interrupted run has made is not made again, and an input whose output
    is done is not copied.
    """
    assert place.parts is not None  # noqa: S101 - a job with remote files has a folder
    source, target = pair.source, pair.target
    if isinstance(source, Remote) and identity is not None:
        check_inputs(checkpoints, [] if source.is_pinned else [identity])
        version = str(msgspec.structs.astuple(identity))
        copy = copy_path(place.parts, source, version=version)
        saved = checkpoints.get(identity.name)
        if not copy.exists() and not (saved is not None and saved.done):
            source.fetch(copy, disk=disk)
        pair = attrs.evolve(pair, source=copy, name=source.name)
        if source.is_pinned and copy.exists():
            size = copy.stat().st_size
            identity = msgspec.structs.replace(identity, size=size)
    if isinstance(target, Remote):
        pair = attrs.evolve(pair, target=copy_path(place.parts, target, version="out"))
    return pair, identity


def _delivery(pair: FilePair, place: _Place) -> Callable[[Path], None] | None:
    """Return what makes a remote output of a whole file."""
    if not isinstance(pair.target, Remote):
        return None
    job = "" if place.folder is None else place.folder.job
    return partial(pair.target.deliver, job=job)


def _spooled(pair: FilePair, place: _Place) -> FilePair:
    """Copy stdin into a private file, if it is the input. Blocks."""
    if pair.source is not None:
        return pair
    assert place.parts is not None  # noqa: S101 - the state is a file at least
    copy = place.parts / "stdin"
    with os.fdopen(open_private(copy), "wb") as file:
        shutil.copyfileobj(open_stdio(sys.stdin, "rb"), file)
    return attrs.evolve(pair, source=copy)


def _outputs(
    job: _Job,
    files: _Files,
    source: FileSource,
    context: _Context,
    **more: Any,
) -> JobOutputs:
    """Make the writer of a job's outputs."""

    def part(file: InputFile) -> Path | None:
        if file.pair.target is None or files.place.parts is None:
            return None
        name = str(file.index) if file.identity is None else file.identity.name
        return part_path(files.place.parts, name)

    return JobOutputs(
        files.files,
        source,
        job.formatter,
        part=part,
        disk=context.system.disk,
        on_progress=context.on_progress,
        **more,
    )


async def _write_all(
    outputs: JobOutputs,
    chunks: AsyncIterator[Chunk],
    progress: Callable[[], Progress],
    is_stopped: Callable[[], bool],
) -> bool:
    """Write answered chunks; what was answered is saved, however the job ends.

    Returns:
        Whether every output is whole and has its name.
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


def _name_of_output(pair: FilePair) -> Path | str | None:
    """Return a path, or the name of an output that is not on this machine."""
    return str(pair.target) if isinstance(pair.target, Remote) else pair.target


def _summarize(
    outputs: JobOutputs | None,
    dispatcher: Dispatcher,
    counts: Mapping[str, int] | None = None,
    **more: Any,
) -> JobSummary:
    """Count what a job did."""
    if outputs is not None:
        counts, more["rows"] = outputs.status_counts, outputs.rows
        more["input_warnings"] = dict(outputs.input_warnings)
        more.setdefault("duplicates", outputs.duplicates)
        more["outputs"] = outputs.finished
    else:
        more["rows"] = sum((counts or {}).values())
    return JobSummary.of(
        counts or {},
        requests=dispatcher.requests,
        throttled=dispatcher.limit.throttled,
        **more,
    )


# --- without a state ------------------------------------------------------------------


async def _stream(job: _Job, files: _Files, context: _Context) -> JobSummary:
    """Map the inputs in one pass, resumable by the log of the job."""
    checked = job.options.precheck and await _look_through(job, files)
    source = FileSource([file for file in files.files if not file.done])
    dispatcher = Dispatcher(_dispatch_options(context), source, endpoint=job.endpoint)
    outputs = _outputs(job, files, source, context, log=files.place.folder)
    async with aclosing(source), _dispatching(dispatcher, context.stop) as chunks:
        complete = await _write_all(
            outputs, chunks, dispatcher.progress, lambda: dispatcher.is_drained
        )
    bad_rows = await _finish_bad_rows(files, whole=complete and not checked)
    resumed = sum(file.saved.rows for file in files.files if file.saved)
    return _summarize(
        outputs,
        dispatcher,
        bad_rows=bad_rows,
        resumed_rows=resumed,
        complete=complete,
    )


async def _look_through(job: _Job, files: _Files) -> bool:
    """Read the text inputs once, so that a bad row is found before any request.

    Returns:
        Whether they were read: a pipe can be read only once, and a resumed job has
        done it before.
    """
    folder = files.place.folder
    if folder is None or folder.checkpoints:
        return False
    pairs = [file.pair for file in files.files]
    work = partial(read_check, pairs, job.options, job.want, on_bad_row=files.bad_rows)
    await run_in_thread(work)
    await _finish_bad_rows(files, whole=True)
    return True


async def _finish_bad_rows(files: _Files, *, whole: bool) -> int:
    """Give the file of bad rows its name if all were collected; return how many."""
    if files.bad_rows is None:
        return 0
    if whole:
        await run_in_thread(files.bad_rows.finish)
    return files.bad_rows.count


@asynccontextmanager
async def _dispatching(
    dispatcher: Dispatcher, stop: asyncio.Event | None
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Run a dispatcher for the length of the block, and yield its answered chunks."""

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


async def _run_with_state(job: _Job, files: _Files, context: _Context) -> JobSummary:
    """Map the inputs in steps, resumable by the state alone."""
    state, options = job.state, job.options
    assert state is not None  # noqa: S101 - by the caller
    assert isinstance(options, MapOptions)  # noqa: S101 - only maps have a state
    segment = options.segment if options.full else None
    folder = files.place.folder
    name = None if folder is None else folder.job
    ended = None if name is None else await state.summary_of(name)
    if ended is not None:
        # A run was killed after its last step: to start another would replace its
        # delta by an empty one.
        return _decode_summary(ended, job)
    begun = await _begin(state, context.client, job=name, segment=segment)
    asking = Dispatcher(
        _dispatch_options(context),
        StateSource(state.to_ask(begun, StateSelection.staged())),
        endpoint=job.endpoint,
        keep=partial(_record, state, begun),
    )
    if not await _stage(job, files, begun, context):
        return _summarize(None, asking, complete=False)
    counts: Counter[str] = Counter()
    try:
        asked = await _ask_all(asking, counts, context)
    finally:
        if folder is not None:
            folder.keep = folder.resumed or asking.batches > 0
    if not asked:
        return _summarize(None, asking, counts=counts, complete=False)
    if segment is not None:
        await state.remove_absent(begun, segment, options.max_removed)
    return await _write_from_state(job, files, begun, asking, context)


async def _stage(job: _Job, files: _Files, begun: Run, context: _Context) -> bool:
    """Read all inputs; return whether that was not interrupted."""
    state = job.state
    assert state is not None  # noqa: S101 - by the caller
    rows = 0

    def on_chunk(chunk: Chunk) -> bool:
        nonlocal rows
        rows += chunk.rows
        if context.on_progress is not None:
            context.on_progress(_progress_of("reading", rows, chunk, files))
        return context.stop is None or not context.stop.is_set()

    faults, staged = InputFaults(files.bad_rows), True
    for file in files.files:
        if not staged or faults.is_full:
            break
        read = attrs.evolve(file, open=partial(job.open, file.pair, faults), saved=None)
        with faults.collecting():
            async with aclosing(FileSource([read])) as source:
                staged = await stage_all(source, state, begun, job.endpoint, on_chunk)
    faults.check()
    if staged:
        await _finish_bad_rows(files, whole=True)
    return staged


async def _write_from_state(
    job: _Job, files: _Files, begun: Run, asking: Dispatcher, context: _Context
) -> JobSummary:
    """Write the outputs and the delta from the state, and mark it as exported."""
    state = job.state
    assert state is not None  # noqa: S101 - by the caller
    done = {
        name: decode_checkpoint(detail)
        for name, detail in (await state.files_done(begun)).items()
    }
    files = attrs.evolve(files, files=_skip_done(files.files, done))
    # The delta names the rows of all files, and there is no checkpoint within a file.
    read = [attrs.evolve(one, saved=None) for one in files.files]
    source = FileSource([one for one in read if job.keys or not one.done])
    outputs = _outputs(
        job, files, source, context, on_done=partial(_note_done, state, begun)
    )
    is_stopped = context.stop.is_set if context.stop else lambda: False
    async with aclosing(source), _open_delta(job, context) as delta:
        chunks = answer_from_state(source, state, job.endpoint, is_stopped)
        if delta is not None and job.keys:
            chunks = delta.noting_rows(chunks, state, begun, job.endpoint)
        complete = await _write_all(outputs, chunks, asking.progress, is_stopped)
        counts = state.staging_counts
        summary = _summarize(
            outputs,
            asking,
            bad_rows=await _finish_bad_rows(files, whole=False),
            duplicates=counts.staged - counts.distinct,
            from_state=counts.known,
            complete=complete,
        )
        if complete and delta is not None:
            changes = await delta.complete(state, begun)
            summary = attrs.evolve(summary, changes=changes)
        if complete:
            await state.finish(
                begun,
                exported=delta is not None,
                summary=_encode_summary(summary),
            )
    return summary


@asynccontextmanager
async def _open_delta(
    job: _Job, context: _Context
) -> AsyncIterator[DeltaWriter | None]:
    """Open the delta of a job, if one is wanted; what is not whole is removed."""
    if job.delta is None:
        yield None
        return
    assert job.state is not None  # noqa: S101 - a delta lists the changes of one
    async with _delta_to(job.delta, job.state, context, keys=job.keys) as delta:
        yield delta


@asynccontextmanager
async def _delta_to(
    target: str, state: MappingState, context: _Context, *, keys: Sequence[str] = ()
) -> AsyncIterator[DeltaWriter]:
    """Open a delta; what is not whole is removed."""

    def open_delta() -> DeltaWriter:
        path = None if target == STDIO else locate(target)
        folder, disk = state.path.parent, context.system.disk
        return DeltaWriter(path, keys=keys, folder=folder, disk=disk)

    delta = await run_in_thread(open_delta)
    try:
        yield delta
    finally:
        await delta.discard()


def _encode_summary(summary: JobSummary) -> str:
    """Return a summary as JSON, without the names of files."""
    fields = attrs.asdict(attrs.evolve(summary, outputs=()))
    return json.dumps(fields)


def _decode_summary(text: str, job: _Job) -> JobSummary:
    """Return the summary that :func:`_encode_summary` wrote."""
    outputs = tuple(filter(None, map(_name_of_output, job.pairs)))
    return JobSummary(**{**json.loads(text), "outputs": outputs})


async def _note_done(state: MappingState, begun: Run, checkpoint: Checkpoint) -> None:
    """Note in the state that an output has its final name."""
    await state.mark_file_done(
        begun, checkpoint.input.name, encode_checkpoint(checkpoint)
    )


def _skip_done(
    files: Sequence[InputFile], done: Mapping[str, Checkpoint]
) -> list[InputFile]:
    """Mark the inputs whose output an interrupted run has finished.

    An input that has changed since is mapped again.
    """
    marked = []
    for file in files:
        saved = None if file.identity is None else done.get(file.identity.name)
        if saved is not None and saved.input == file.identity:
            marked.append(attrs.evolve(file, saved=saved, done=True))
        else:
            marked.append(attrs.evolve(file, saved=None, done=False))
    return marked


def _progress_of(phase: str, rows: int, chunk: Chunk, files: _Files) -> FileProgress:
    """Return the progress of a phase that reads files."""
    sizes = [file.size for file in files.files]
    before = sum(size or 0 for size in sizes[: chunk.payload.file])
    return FileProgress(
        phase=phase,
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
    """Ask again about what is due in a state; what ``uid2 refresh`` runs.

    Call it again to resume: what the operator has answered is no longer due.

    Args:
        state: A state, open or not, or its file.
        client: The client that asks the operator.
        options: What is asked about, and how the job runs.
        delta: Where to write what has changed since the last delta, or ``-``. An
            existing file is replaced with the option *force* only, unless it is the
            delta of an interrupted run.
        stop: Ends the job in order when it is set.
        on_progress: Called with the progress.

    Returns:
        What was done. Its rows are identities.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    options = options or RefreshOptions()
    context = _Context(
        client=client,
        options=options,
        stop=stop,
        on_progress=on_progress,
        system=_system,
    )
    counts: Counter[str] = Counter()
    async with _open_state_job(state, delta, context) as job:
        selection, endpoint = StateSelection.due(), MAP_V3
        if options.unchecked_for is not None:
            selection = StateSelection.sweep(options.unchecked_for)
        elif options.api is Api.V2:
            selection, endpoint = await _find_rotated(client, job.state), MAP_V2
        asking = Dispatcher(
            _dispatch_options(context),
            StateSource(job.state.to_ask(job.run, selection), limit=options.limit),
            endpoint=endpoint,
            keep=partial(_record, job.state, job.run),
        )
        await _ask_all(asking, counts, context)
        return await _end_state_job(job, asking, counts)


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
    """Check which raw UIDs of a state are opted out, and record it.

    v4 raw UIDs of the environments *integ* and *prod* cannot be checked that way: map
    their identities again with :func:`~uid2_async.refresh_state`.

    Args:
        state: A state, open or not, or its file.
        client: The client that asks the operator.
        options: How the job runs. By default one request at a time, as public operators
            expect.
        delta: See :func:`~uid2_async.refresh_state`.
        stop: Ends the job in order when it is set.
        on_progress: Called with the progress.

    Returns:
        What was done. *mapped* counts raw UIDs that are ok, *other* the unverifiable.

    Raises:
        UID2Error: As :func:`~uid2_async.map_file`.
    """
    context = _Context(
        client=client,
        options=options or JobOptions(concurrency=1),
        stop=stop,
        on_progress=on_progress,
        system=_system,
    )
    counts: Counter[str] = Counter()
    async with (
        _open_state_job(state, delta, context) as job,
        aclosing(job.state.export()) as pages,
    ):
        asking = Dispatcher(
            _dispatch_options(context), UidSource(pages), endpoint=OPTOUT_STATUS
        )
        async with _dispatching(asking, stop) as chunks:
            async for chunk in chunks:
                await _record_opt_outs(job.state, job.run, chunk, counts)
                _tell(context, "asking", counts, asking)
        return await _end_state_job(job, asking, counts)


@attrs.frozen(kw_only=True)
class _StateJob:
    """A job on a state, without files but a delta.

    Attributes:
        context: What it runs with.
        state: The open state.
        run: The run of the state.
        delta: Where the delta goes, if one is wanted.
        began: When the job began, by the monotonic clock.
    """

    context: _Context
    state: MappingState
    run: Run
    delta: str | None
    began: float


@asynccontextmanager
async def _open_state_job(
    state: MappingState | str | os.PathLike[str],
    delta: str | os.PathLike[str] | None,
    context: _Context,
) -> AsyncIterator[_StateJob]:
    """Open a state, check where its delta goes, and begin a run."""
    began = time.monotonic()
    opened = _as_state(state, context)
    target = None if delta is None else os.fspath(delta)
    async with _opened(opened):
        if target is not None:
            begun = await opened.has_unfinished_delta(target)
            check = partial(
                check_export,
                opened,
                target,
                role="--delta",
                force=context.options.force or begun,
                shared=context.options.shared_folders,
            )
            await run_in_thread(check)
        run = await _begin(opened, context.client)
        yield _StateJob(
            context=context, state=opened, run=run, delta=target, began=began
        )


async def _end_state_job(
    job: _StateJob, asking: Dispatcher, counts: Counter[str]
) -> JobSummary:
    """Write the delta of a job that was not interrupted, and end its run."""
    changes: int | None = None
    if asking.is_drained or job.delta is None:
        await job.state.finish(job.run, exported=False)
    else:
        # A run that is killed before it ends may replace this delta.
        await job.state.begin_delta(job.run, job.delta)
        async with _delta_to(job.delta, job.state, job.context) as delta:
            changes = await delta.complete(job.state, job.run)
            await job.state.finish(job.run, exported=True)
    return JobSummary.of(
        counts,
        rows=counts.total(),
        requests=asking.requests,
        throttled=asking.limit.throttled,
        changes=changes,
        seconds=time.monotonic() - job.began,
        complete=not asking.is_drained,
    )


def _dispatch_options(context: _Context) -> DispatchOptions:
    """Return the settings of a dispatcher."""
    options = context.options
    return DispatchOptions(
        client=context.client,
        batch_size=options.batch_size or context.client.max_batch_size,
        concurrency=options.concurrency,
        dedupe_window=options.dedupe_window,
        stall_timeout=options.stall_timeout,
        sleep=context.system.sleep,
        random=context.system.random,
    )


def _as_state(
    state: MappingState | str | os.PathLike[str], context: _Context
) -> MappingState:
    if isinstance(state, MappingState):
        return state
    return MappingState(
        local_path(state, "--state"),
        clock=context.system.clock,
        shared_folders=context.options.shared_folders,
    )


async def _begin(
    state: MappingState,
    client: UID2Client,
    *,
    job: str | None = None,
    segment: str | None = None,
) -> Run:
    """Begin a run of *state*, or resume the unfinished one of the same *job*."""
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
    begun: Run,
    subject: str,
    identities: Sequence[bytes],
    outcomes: Sequence[Outcome],
) -> None:
    """Keep the outcomes of a batch; what a dispatcher awaits."""
    await state.record(begun, IdentityType(subject), identities, outcomes)


async def _ask_all(
    dispatcher: Dispatcher, counts: Counter[str], context: _Context
) -> bool:
    """Ask about everything that a dispatcher's source holds.

    Returns:
        Whether that was not interrupted.
    """
    columns = OutcomeColumns([""], matched_type=False)
    async with _dispatching(dispatcher, context.stop) as chunks:
        async for chunk in chunks:
            columns.make(chunk.outcomes())
            _tell(context, "asking", columns.status_counts, dispatcher)
    counts.update(columns.status_counts)
    return not dispatcher.is_drained


def _tell(
    context: _Context, phase: str, counts: Counter[str], dispatcher: Dispatcher
) -> None:
    """Report the progress of a job without files."""
    if context.on_progress is not None:
        context.on_progress(
            FileProgress(
                phase=phase,
                rows=counts.total(),
                bytes_read=0,
                total_bytes=None,
                endings=counts,
                job=dispatcher.progress(),
            )
        )


async def _record_opt_outs(
    state: MappingState, begun: Run, chunk: Chunk, counts: Counter[str]
) -> None:
    """Record who of a chunk has opted out, by the status of their raw UIDs."""
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
            await state.record(begun, kind, gone, [_OPTED_OUT] * len(gone))


@asynccontextmanager
async def _opened(state: MappingState) -> AsyncIterator[None]:
    """Open a state for a job, unless its owner has."""
    if state.is_open:
        yield
        return
    async with state:
        yield


@asynccontextmanager
async def _entered(block: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a block that blocks, in a thread."""
    value = await run_in_thread(block.__enter__)
    try:
        yield value
    except BaseException as error:
        traceback = error.__traceback__
        await run_in_thread(partial(block.__exit__, type(error), error, traceback))
        raise
    await run_in_thread(partial(block.__exit__, None, None, None))


strip_tracebacks(globals())
