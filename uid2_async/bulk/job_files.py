"""The files of a job: inputs as a source of chunks, and growing outputs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk
from uid2_async.bulk.columns import (
    IdentifierColumns,
    InputWarnings,
    OutcomeColumns,
    StatusColumns,
)
from uid2_async.bulk.options import FileProgress
from uid2_async.bulk.outcomes import Progress
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Remote,
    check_unchanged,
)
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.resume import Checkpoint, JobFolder, part_path
from uid2_async.bulk.text import (
    BadRow,
    CsvReader,
    JsonReader,
    OnBadRow,
    Reader,
    Rows,
)
from uid2_async.bulk.writers import Output, TableWriter, open_output
from uid2_async.errors import InputError

_BAD_ROW_COLUMNS: Final[tuple[str, ...]] = ("FILE", "LINE", "REASON", "ROW")
# How many times the rows of a usual save may wait for a slow disk.
_MAX_UNSAVED: Final = 4
# More are not collected: a file with the wrong delimiter has one in each line.
_MAX_FAULTS: Final = 20

OpenOutput: TypeAlias = Callable[
    [Reader, FileFormatOptions, Mapping[str, Content]], Output
]

RowFormatter: TypeAlias = OutcomeColumns | StatusColumns
"""Turns outcomes into added columns, and counts rows by status."""


class BadRows:
    """Collects the rows that cannot be read in a separate file."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        """Open the file. Blocks."""
        self.count: int = 0
        self._is_whole = False
        columns: dict[str, Content] = dict.fromkeys(_BAD_ROW_COLUMNS, Content.TEXT)
        self._table = TableWriter(path, columns, disk=disk)

    def __call__(self, row: BadRow) -> None:
        """Collect a row, unless the file is done, since inputs are read again."""
        if self._is_whole:
            return
        cells = (row.name, str(row.line), row.cause, row.text)
        self._table.write(
            {name: [cell] for name, cell in zip(_BAD_ROW_COLUMNS, cells, strict=True)}
        )
        self.count += 1

    def finish(self) -> None:
        """Rename the file to its final name. Blocks."""
        self._is_whole = True
        self._table.finish()

    def close(self) -> None:
        """Close the file, and remove it if it is not complete."""
        self._table.close()


class InputFaults:
    """Collects the faults of a job's inputs, to report all at once.

    Called with each row that cannot be read.
    """

    def __init__(self, on_bad_row: OnBadRow = None) -> None:
        """Collect faults; bad rows do not count if they go to *on_bad_row*."""
        self._on_bad_row = on_bad_row
        self._faults: list[InputError] = []

    def __call__(self, bad: BadRow) -> None:
        """Collect a row."""
        if self._on_bad_row is not None:
            self._on_bad_row(bad)
            return
        self._faults.append(bad.error())
        if self.is_full:
            raise bad.error()

    @property
    def count(self) -> int:
        """The number of faults."""
        return len(self._faults)

    @property
    def is_full(self) -> bool:
        """Whether reading should stop."""
        return self.count >= _MAX_FAULTS

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the error of one file, so that the next one can be read."""
        try:
            yield
        except InputError as error:
            if not self.is_full:
                self._faults.append(error.with_traceback(None))

    def check(self) -> None:
        """Raise all faults as one error."""
        if self.count == 1:
            raise self._faults[0]
        if not self._faults:
            return
        more = f" The first {_MAX_FAULTS} are:" if self.is_full else ""
        # Messages are one line; a line end would be shown as an escape.
        listed = [f" [{n}] {one.message}" for n, one in enumerate(self._faults, 1)]
        hints = dict.fromkeys(one.hint for one in self._faults if one.hint)
        raise InputError(
            f"{self.count} errors were found in the input.{more}{''.join(listed)}",
            hint=" ".join(hints),
        )


def read_check(
    opens: Sequence[Callable[[OnBadRow], tuple[Reader, object]]],
    on_bad_row: OnBadRow = None,
) -> int:
    """Read all text files before the first request. Blocks.

    Only the schema of Parquet and Arrow files is read.

    Args:
        opens: Each opens an input and finds its columns.
        on_bad_row: Takes the rows that cannot be read; otherwise they are an error.

    Returns:
        The number of text rows.
    """
    faults = InputFaults(on_bad_row)
    rows = 0
    for open_file in opens:
        if not faults.is_full:
            with faults.collecting():
                reader, _ = open_file(faults)
                with contextlib.closing(reader):
                    rows += _count_rows(reader)
    faults.check()
    return rows


def _count_rows(reader: Reader) -> int:
    """Read a text file to its end; return the number of rows."""
    rows = 0
    if isinstance(reader, CsvReader):
        reader.want(())  # any value is valid
    while isinstance(reader, CsvReader | JsonReader):
        found = reader.take(5_000)
        if found is not None:
            rows += found.count
        elif not reader.load():
            break
    return rows


@attrs.frozen
class RowGroup:
    """Some rows of an input on their way through a job."""

    file: int
    rows: Rows = attrs.field(repr=False)
    bytes_read: int


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
        name: The name of the input in messages, if it is not the path.
        identity: The identity of the input when the job opened it; None for stdin.
        job: A unique name of the job, for a remote output.
        saved: The checkpoint of an interrupted run, if there is one.
    """

    index: int
    named: FilePair
    reading: FileFormatOptions
    writing: FileFormatOptions
    source: Path | None = None
    target: Path | None = None
    name: str | None = None
    identity: InputIdentity | None = None
    job: str = ""
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

    @property
    def size(self) -> int | None:
        """The size of the input in bytes, or None if unknown."""
        return None if self.identity is None else self.identity.size


class FileSource:
    """The rows of several inputs, one after the other, as a dispatcher's source.

    A thread reads, and the event loop parses. Parsing in a thread would compete with
    the loop for the interpreter lock.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        open_file: Callable[[InputFile], tuple[Reader, IdentifierColumns]],
    ) -> None:
        """Read *files*, each opened by *open_file*, which blocks."""
        self.readers: dict[int, Reader] = {}
        self._open_file = open_file
        self._waiting = list(reversed(files))
        self._index = 0
        self._reader: Reader | None = None
        self._columns: IdentifierColumns | None = None
        self._ended = False

    async def load(self) -> bool:
        """Read more; see :meth:`uid2_async.bulk.dispatch.Source.load`."""
        if self._reader is not None and not self._ended:
            self._ended = not await run_in_thread(self._reader.load)
            return True
        await self.aclose()
        if not self._waiting:
            return False
        file = self._waiting.pop()
        self._index = file.index
        reader, self._columns = await run_in_thread(
            partial(self._open_file, file), discard=lambda opened: opened[0].close()
        )
        self._reader = reader
        self.readers[file.index] = reader
        self._ended = False
        return True

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - files are not waited for
        """Parse some rows; see :meth:`uid2_async.bulk.dispatch.Source.take`."""
        if self._reader is None or self._columns is None:
            return None
        rows = self._reader.take(self._columns.step_rows)
        if rows is None:
            return None
        identities = self._columns.identities(rows)
        group = RowGroup(self._index, rows, self._reader.bytes_read)
        return Chunk(group, rows.count, identities)

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


@attrs.define(kw_only=True, repr=False, eq=False)
class JobOutputs:
    """Writes answered chunks to the outputs of a job, one output after the other.

    Attributes:
        rows: Rows written, including those of an interrupted run.
        duplicates: Identifiers that were answered by a request for an earlier one.
        input_warnings: Suspicious patterns in the inputs, with the number of
            identifiers.
    """

    _files: Sequence[InputFile] = attrs.field(alias="files")
    _source: FileSource = attrs.field(alias="source")
    _formatter: RowFormatter = attrs.field(alias="formatter")
    _parts: Path | None = attrs.field(alias="parts")
    _log: JobFolder | None = attrs.field(default=None, alias="log")
    _open_table: OpenOutput | None = attrs.field(default=None, alias="open_table")
    _disk: Disk = attrs.field(default=DISK, alias="disk")
    _on_done: Callable[[Checkpoint], Awaitable[None]] | None = attrs.field(
        default=None, alias="on_done"
    )
    _on_progress: Callable[[FileProgress], object] | None = attrs.field(
        default=None, alias="on_progress"
    )
    rows: int = attrs.field(default=0, init=False)
    duplicates: int = attrs.field(default=0, init=False)
    input_warnings: Counter[str] = attrs.field(factory=Counter, init=False)
    # For finished outputs; the formatter counts for the current one.
    _status_counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _warnings: InputWarnings = attrs.field(factory=InputWarnings, init=False)
    _index: int = attrs.field(default=-1, init=False)
    _output: Output | None = attrs.field(default=None, init=False)
    _file_rows: int = attrs.field(default=0, init=False)
    _unsaved: list[Any] = attrs.field(factory=list, init=False)
    _unsaved_rows: int = attrs.field(default=0, init=False)
    _saving: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _bytes_before: int = attrs.field(default=0, init=False)

    async def write(self, chunk: Chunk, progress: Callable[[], Progress]) -> None:
        """Write the rows of an answered chunk."""
        group: RowGroup = chunk.payload
        await self._advance(group.file)
        if self._output is not None:
            kinds = [column.kinds for column in chunk.columns]
            outcomes = chunk.outcomes()
            columns, repeat = self._formatter.make(outcomes, kinds)
            self._warnings.add(chunk.columns, outcomes)
            self._unsaved.append(self._output.format(group.rows, columns, repeat))
            self._unsaved_rows += chunk.rows
            self._file_rows += chunk.rows
            self.rows += chunk.rows
            self.duplicates += chunk.duplicates
            # While the last rows are being saved, more are collected, up to a limit.
            is_saving = self._saving is not None and not self._saving.done()
            saves = _MAX_UNSAVED if is_saving else 1
            if self._unsaved_rows >= saves * self._output.save_rows:
                await self._start_saving()
        if self._on_progress is not None:
            self._on_progress(self._progress(group, progress()))

    @property
    def status_counts(self) -> Counter[str]:
        """Rows by status, of the finished outputs and the current one."""
        return self._status_counts + self._formatter.status_counts

    @property
    def finished(self) -> tuple[Path | str, ...]:
        """The outputs that are complete and have their final names."""
        return tuple(
            file.output
            for index, file in enumerate(self._files)
            if file.output and (file.done or index < self._index)
        )

    async def finish(self) -> None:
        """Finish the remaining outputs, and rename them to their final names."""
        await self._advance(len(self._files))

    async def save(self) -> None:
        """Save what has been written so far, for a run that resumes."""
        await self._start_saving()
        await self._end_saving()

    async def close(self, *, save: bool) -> None:
        """Close the current output; after a failure, save as much as possible first."""
        if save:
            # The first failure is the one to raise. Data that could not be saved is not
            # in the log, so nothing refers to it.
            with contextlib.suppress(Exception):
                await self.save()
        output, self._output = self._output, None
        if output is not None:
            output.close()

    async def _advance(self, index: int) -> None:
        """Finish the outputs before *index*, and open that one."""
        while self._index < index:
            await self._finish_file()
            self._index += 1
            if self._index < len(self._files):
                await self._open_file(self._files[self._index])

    async def _open_file(self, file: InputFile) -> None:
        """Open an output at its checkpoint, or count a finished one."""
        saved = file.saved
        self._file_rows = 0 if saved is None else saved.rows
        self.rows += self._file_rows
        if saved is not None:
            self._formatter.status_counts.update(saved.counts)
            self._warnings = InputWarnings(saved.input_warnings)
        if file.done:
            self._leave(file)
            return
        # An input without rows has no chunks, so that nothing has opened it.
        while file.index not in self._source.readers and await self._source.load():
            pass
        self._output = await run_in_thread(
            partial(self._open_output, file), discard=methodcaller("close")
        )

    def _open_output(self, file: InputFile) -> Output:
        """Open an output, which is a growing part or stdout. Blocks."""
        reader = self._source.readers.pop(file.index)
        if self._open_table is not None:
            return self._open_table(reader, file.writing, self._formatter.contents)
        part = None
        if file.target is not None and self._parts is not None:
            name = str(file.index) if file.identity is None else file.identity.name
            part = part_path(self._parts, name)
        return open_output(
            reader,
            file.writing,
            part,
            added=self._formatter.contents,
            saved=None if file.saved is None else file.saved.output,
            resumable=self._log is not None,
            disk=self._disk,
        )

    async def _finish_file(self) -> None:
        """Rename the current output to its final name, and record that it is done."""
        output = self._output
        if output is None:
            return
        file = self._files[self._index]
        await self.save()
        await run_in_thread(partial(_finish, output, file))
        self._output = None
        if file.identity is not None:
            checkpoint = self._checkpoint(file.identity, done=True)
            if self._log is not None:
                await run_in_thread(partial(self._log.append, checkpoint))
            if self._on_done is not None:
                await self._on_done(checkpoint)
        if isinstance(file.named.target, Remote) and file.target is not None:
            await run_in_thread(partial(file.target.unlink, missing_ok=True))
        self._leave(file)

    def _leave(self, file: InputFile) -> None:
        """Count a finished output."""
        self._status_counts.update(self._formatter.status_counts)
        self._formatter.status_counts.clear()
        self.input_warnings.update(self._warnings.counts)
        self._warnings = InputWarnings()
        self._bytes_before += file.size or 0

    def _checkpoint(
        self, identity: InputIdentity, *, output: Any = None, done: bool = False
    ) -> Checkpoint:
        return Checkpoint(
            input=identity,
            rows=self._file_rows,
            output=output,
            counts=dict(self._formatter.status_counts),
            input_warnings=dict(self._warnings.counts),
            done=done,
        )

    async def _start_saving(self) -> None:
        """Save formatted rows in a thread while the job continues."""
        await self._end_saving()
        if self._output is None or not self._unsaved:
            return
        formatted, self._unsaved, self._unsaved_rows = self._unsaved, [], 0
        file = self._files[self._index]
        checkpoint = None
        if self._log is not None and file.identity is not None:
            checkpoint = self._checkpoint(file.identity)
        work = partial(self._save, self._output, formatted, checkpoint)
        self._saving = asyncio.create_task(run_in_thread(work))

    async def _end_saving(self) -> None:
        """Wait for the saving thread; if it failed, everything after it fails."""
        if self._saving is not None:
            await asyncio.shield(self._saving)
            self._saving = None

    def _save(
        self, output: Output, formatted: Sequence[Any], checkpoint: Checkpoint | None
    ) -> None:
        """Write, then save a checkpoint, which refers to the written data. Blocks."""
        for one in formatted:
            output.write(one)
        if checkpoint is not None and self._log is not None:
            saved = msgspec.structs.replace(checkpoint, output=output.sync())
            self._log.append(saved)

    def _progress(self, group: RowGroup, job: Progress) -> FileProgress:
        sizes = [file.size for file in self._files]
        return FileProgress(
            rows=self.rows,
            bytes_read=self._bytes_before + group.bytes_read,
            total_bytes=None if None in sizes else sum(filter(None, sizes)),
            endings=self.status_counts,
            job=attrs.evolve(job, rows=self.rows, duplicates=self.duplicates),
        )


def _finish(output: Output, file: InputFile) -> None:
    """Finish an output, unless its input changed while it was read. Blocks."""
    source, remote = file.named.source, file.named.target
    pinned = isinstance(source, Remote) and source.is_pinned
    if file.identity is not None and source is not None and not pinned:
        check_unchanged(source, file.identity)
    output.sync()
    output.finish(file.target)
    if isinstance(remote, Remote) and file.target is not None:
        remote.deliver(file.target, job=file.job)
