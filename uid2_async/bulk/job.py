"""A job: its settings, its inputs, and what all jobs share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk, Source
from uid2_async.bulk.columns import IdentifierColumns, RowFormatter
from uid2_async.bulk.csv_files import CsvReader
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.files import Reader, Rows, TableWriter, check_output, open_reader
from uid2_async.bulk.json_lines import JsonReader
from uid2_async.bulk.options import (
    FileProgress,
    JobOptions,
    JobSummary,
    MapOptions,
    StatusOptions,
    check_arguments,
)
from uid2_async.bulk.outcomes import Endpoint
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Remote,
)
from uid2_async.bulk.private_files import Disk, System
from uid2_async.bulk.resume import Checkpoint, JobFolder
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.stores import local_path
from uid2_async.bulk.text import BadRow, OnBadRow
from uid2_async.client import UID2Client
from uid2_async.errors import InputError

_BAD_ROW_COLUMNS: Final[tuple[str, ...]] = ("FILE", "LINE", "REASON", "ROW")
# More are not collected: a file with the wrong delimiter has one in each line.
_MAX_FAULTS: Final = 20


@attrs.define(kw_only=True, eq=False)
class Job:
    """A job and its settings."""

    client: UID2Client
    options: JobOptions
    stop: asyncio.Event | None
    on_progress: Callable[[FileProgress], object] | None
    system: System
    state: MappingState | None = None
    delta: str | None = None
    started_at: float = attrs.field(factory=time.monotonic)

    @property
    def is_stopped(self) -> bool:
        """Whether the job was asked to stop."""
        return self.stop is not None and self.stop.is_set()

    def dispatcher(self, source: Source, **more: Any) -> Dispatcher:
        """Make the dispatcher that asks the operator about *source*."""
        return Dispatcher(
            self.client, source, self.options, self.system, stop=self.stop, **more
        )

    def report_requests(self, counts: Counter[str], dispatcher: Dispatcher) -> None:
        """Report the progress of requests; no files are involved."""
        if self.on_progress is not None:
            progress = FileProgress(
                phase="asking",
                rows=counts.total(),
                bytes_read=0,
                total_bytes=None,
                endings=counts.copy(),
                job=dispatcher.progress(),
            )
            self.on_progress(progress)


def job_settings(
    client: UID2Client,
    options: JobOptions,
    stop: asyncio.Event | None,
    on_progress: Callable[[FileProgress], object] | None,
    system: System,
    state: MappingState | str | os.PathLike[str] | None = None,
    delta: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Check and return the settings that all jobs share; the state may not be open."""
    on_progress = check_arguments(client, on_progress, stop)
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


def open_state(state: MappingState) -> AbstractAsyncContextManager[MappingState]:
    """Open a state for a job, unless it is open already."""
    return nullcontext(state) if state.is_open else state


def summarize(
    dispatcher: Dispatcher, counts: Mapping[str, int] | None = None, **more: Any
) -> JobSummary:
    """Summarize a job; the *counts* by status are of rows, or of identities."""
    by_status = {str(status): count for status, count in (counts or {}).items()}
    return JobSummary(
        requests=dispatcher.requests,
        throttled=dispatcher.limit.throttled,
        **{"rows": sum(by_status.values()), **by_status, **more},
    )


# --- files ----------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class InputFile:
    """One input of a job and its output.

    Attributes:
        index: Its index among the inputs.
        named: The input and output as named by the user.
        reading: How the input is read.
        writing: How the output is written.
        source: The input, or its copy in the job's folder; None for stdin.
        target: The output, or what is delivered to it; None for stdout.
        identity: The identity of the input when the job opened it; None for stdin.
        saved: The checkpoint of an interrupted run, if there is one.
    """

    index: int
    named: FilePair
    reading: FileFormatOptions
    writing: FileFormatOptions
    source: Path | None = None
    target: Path | None = None
    identity: InputIdentity | None = None
    saved: Checkpoint | None = None

    @property
    def done(self) -> bool:
        """Whether an interrupted run has finished the output."""
        return self.saved is not None and self.saved.done

    @property
    def output(self) -> Path | str | None:
        """The output as named by the user: a path, or a remote name."""
        target = self.named.target
        return str(target) if isinstance(target, Remote) else target


@attrs.define(kw_only=True, eq=False)
class FileJob(Job):
    """A file job.

    Attributes:
        pairs: Its inputs and outputs.
        target: The output as the user named it.
        find: Finds the identifiers in the header of an input.
        keys: The input columns that the delta contains.
        table: The rows in memory that are mapped instead of files, with the methods
            ``open_reader`` and ``open_output``; a job with a state reads them twice.
        folder: The job's folder; None if it is not open, or the job is not resumable.
        parts: The folder of unfinished files; None if there are none.
        bad_rows: Collects the rows that cannot be read, unless they are an error.
        files: The inputs and outputs, once they are open.
        offsets: The number of bytes in the inputs before each, and in all.
        resources: Closes all of these.
    """

    options: MapOptions | StatusOptions  # pyright: ignore[reportIncompatibleVariableOverride] # set once
    pairs: Sequence[FilePair]
    target: str
    find: Callable[..., IdentifierColumns]
    formatter: RowFormatter
    endpoint: Endpoint
    keys: Sequence[str] = ()
    table: Any = None
    folder: JobFolder | None = attrs.field(default=None, init=False)
    parts: Path | None = attrs.field(default=None, init=False)
    bad_rows: BadRows | None = attrs.field(default=None, init=False)
    files: Sequence[InputFile] = attrs.field(default=(), init=False)
    offsets: Sequence[int] = attrs.field(default=(), init=False)
    resources: ExitStack = attrs.field(factory=ExitStack, init=False)
    _rehearsed: set[int] = attrs.field(factory=set, init=False)

    @property
    def remotes(self) -> list[Remote]:
        """The inputs and outputs that are not local files."""
        ends = (end for pair in self.pairs for end in (pair.source, pair.target))
        return [end for end in ends if isinstance(end, Remote)]

    def terms(self, salt: str) -> dict[str, Any]:
        """Return what must not change until the job is done, as JSON values."""
        state = None if self.state is None else str(self.state.path)
        options = {**self.options.terms(), "delta": self.delta, "state": state}
        pinned = [str(one) for one in self.remotes if one.is_pinned]
        if pinned:
            options["source"] = pinned
        return {
            "target": self.target,
            "options": options,
            "settings": self.client.settings_digest(salt),
        }

    def open(
        self, file: InputFile, on_bad_row: OnBadRow = None, *, resume: bool = False
    ) -> tuple[Reader, IdentifierColumns]:
        """Open an input, find its columns, and check its output. Blocks.

        To *resume*, skip the rows that are already in its output.
        """
        reader: Reader
        if self.table is not None:
            reader = self.table.open_reader()
        else:
            source = file.named.source
            name = source.name if isinstance(source, Remote) else None
            reader = open_reader(
                file.source, file.reading, name=name, on_bad_row=on_bad_row
            )
        try:
            columns = self.find(reader.header, name=reader.name)
            reader.select(columns.wanted, self.keys, self.formatter.contents)
            if self.table is None:
                explode = getattr(self.options, "explode", False)
                added, target = self.formatter.contents, file.named.target
                schema = check_output(reader, file.writing, added, explode=explode)
                # A job with a state opens its inputs several times.
                if isinstance(target, Remote) and file.index not in self._rehearsed:
                    job = "" if self.folder is None else self.folder.job
                    target.rehearse(schema, job=job)
                    self._rehearsed.add(file.index)
            if resume and file.saved is not None and file.saved.rows:
                reader.skip(file.saved.rows)
        except BaseException:
            reader.close()
            raise
        return reader, columns

    async def finish_bad_rows(self) -> None:
        """Finish the file of bad rows, once all are collected."""
        if self.bad_rows is not None:
            if self.folder is not None:
                # So that the next run knows this file as its own.
                self.folder.keep = True
            await run_in_thread(self.bad_rows.finish)

    def report_file(self, file: InputFile, bytes_read: int, **more: Any) -> None:
        """Report the progress of reading or writing *file*."""
        if self.on_progress is not None:
            before, total = self.offsets[file.index], self.offsets[-1]
            self.on_progress(
                FileProgress(
                    bytes_read=before + bytes_read,
                    total_bytes=None if file.identity is None else total,
                    **more,
                )
            )


@attrs.frozen
class RowGroup:
    """Some rows of an input on their way through a job.

    Attributes:
        file: The input.
        reader: Its reader.
        rows: The rows; None after the last ones.
        bytes_read: The number of bytes of the input read so far.
    """

    file: InputFile
    reader: Reader
    rows: Rows | None = attrs.field(repr=False)
    bytes_read: int


class FileSource:
    """A dispatcher's source: the rows of several inputs, one input after another.

    Each input ends with a chunk without rows. A thread reads, and the event loop
    parses. Parsing in a thread would compete with the loop for the interpreter lock.
    """

    def __init__(self, job: FileJob, files: Iterable[InputFile], **how: Any) -> None:
        """Read *files*, each opened by :meth:`FileJob.open`."""
        self._open = partial(job.open, **how)
        self._waiting = iter(files)
        self._file: InputFile | None = None
        self._reader: Reader | None = None
        self._columns: IdentifierColumns | None = None
        self._is_loading = False
        self._ended = False

    async def load(self) -> bool:
        """Read more; see :meth:`uid2_async.bulk.batches.Source.load`."""
        if self._reader is not None and self._columns is not None:
            self._is_loading = True
            self._ended = not await run_in_thread(self._reader.load)
            self._is_loading = False
            return True
        await self.aclose()
        self._file = next(self._waiting, None)
        if self._file is None:
            return False
        reader, self._columns = await run_in_thread(
            partial(self._open, self._file), discard=lambda opened: opened[0].close()
        )
        self._reader, self._ended = reader, False
        return True

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - files are not waited for
        """Parse some rows; see :meth:`uid2_async.bulk.batches.Source.take`."""
        file, reader, columns = self._file, self._reader, self._columns
        # A reader is not safe for use by two threads.
        if file is None or reader is None or columns is None or self._is_loading:
            return None
        rows = reader.take(columns.step_rows)
        if rows is None and not self._ended:
            return None
        group = RowGroup(file, reader, rows, reader.bytes_read)
        if rows is not None:
            return Chunk(group, rows.count, columns.identities(rows))
        self._columns = None
        return Chunk(group, 0, ())

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield all chunks, and yield to the event loop between them."""
        while True:
            chunk = self.take(partial=True)
            if chunk is not None:
                yield chunk
                await asyncio.sleep(0)
            elif not await self.load():
                return

    async def aclose(self) -> None:
        """Close the open input."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await run_in_thread(reader.close)


# --- rows that cannot be read ---------------------------------------------------------


class BadRows(TableWriter):
    """Collects the rows that cannot be read in a separate file."""

    def __init__(self, path: Path, *, disk: Disk) -> None:
        """Open the file. Blocks."""
        columns: dict[str, Content] = dict.fromkeys(_BAD_ROW_COLUMNS, Content.TEXT)
        super().__init__(path, columns, disk=disk)

    def __call__(self, row: BadRow) -> None:
        """Collect a row, unless the file is done, since inputs are read again."""
        if not self.is_finished:
            cells = ([row.name], [str(row.line)], [row.cause], [row.text])
            self.write(dict(zip(_BAD_ROW_COLUMNS, cells, strict=True)))


class InputFaults:
    """Collects the faults of a job's inputs, to report all at once.

    Called with each row that cannot be read.
    """

    def __init__(self, on_bad_row: OnBadRow = None) -> None:
        """Collect faults; bad rows do not count if they go to *on_bad_row*."""
        self.errors: list[InputError] = []
        self._on_bad_row = on_bad_row

    def __call__(self, bad: BadRow) -> None:
        """Collect a row."""
        if self._on_bad_row is not None:
            self._on_bad_row(bad)
            return
        self.errors.append(bad.error())
        if self.is_full:
            raise bad.error()

    @property
    def is_full(self) -> bool:
        """Whether reading should stop."""
        return len(self.errors) >= _MAX_FAULTS

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the error of one file, so that the next one can be read."""
        try:
            yield
        except InputError as error:
            if not self.is_full:
                self.errors.append(error.with_traceback(None))

    def check(self) -> None:
        """Raise all faults as one error."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if not self.errors:
            return
        more = f" The first {_MAX_FAULTS} are:" if self.is_full else ""
        # Messages are one line; a line end would be shown as an escape.
        listed = [f" [{n}] {one.message}" for n, one in enumerate(self.errors, 1)]
        hints = dict.fromkeys(one.hint for one in self.errors if one.hint)
        raise InputError(
            f"{len(self.errors)} errors were found in the input.{more}"
            f"{''.join(listed)}",
            hint=" ".join(hints),
        )


def read_check(
    opens: Sequence[Callable[[OnBadRow], tuple[Reader, object]]],
    on_bad_row: OnBadRow = None,
) -> None:
    """Read all text files before the first request. Blocks.

    Each of *opens* opens an input and finds its columns. Only the schema of Parquet and
    Arrow files is read.
    """
    faults = InputFaults(on_bad_row)
    for open_file in opens:
        if not faults.is_full:
            with faults.collecting(), closing(open_file(faults)[0]) as reader:
                if isinstance(reader, CsvReader):
                    reader.select(())  # any value is valid
                while isinstance(reader, CsvReader | JsonReader) and (
                    reader.take(5_000) or reader.load()
                ):
                    pass
    faults.check()
