"""A job: its settings, its files, and the steps that all jobs share."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk, Source
from uid2_async.bulk.columns import IdentifierColumns, RowStatus
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.job_files import (
    BadRows,
    FileSource,
    InputFile,
    JobOutputs,
    RowFormatter,
)
from uid2_async.bulk.options import (
    FileProgress,
    JobOptions,
    JobSummary,
    MapOptions,
    StatusOptions,
)
from uid2_async.bulk.outcomes import Endpoint, Progress
from uid2_async.bulk.paths import Content, FileFormatOptions, FilePair, Remote
from uid2_async.bulk.private_files import System
from uid2_async.bulk.resume import JobFolder, job_terms
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.stores import local_path
from uid2_async.bulk.text import OnBadRow, Reader, open_reader
from uid2_async.bulk.writers import Output
from uid2_async.client import UID2Client


@attrs.frozen(kw_only=True)
class Job:
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

    def report_progress(self, counts: Counter[str], dispatcher: Dispatcher) -> None:
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


def job_settings(
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


@attrs.frozen(kw_only=True)
class FileJob(Job):
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


# --- steps ----------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class JobFiles:
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


def job_outputs(
    job: FileJob, files: JobFiles, source: FileSource, **more: Any
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


async def write_all(
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


def summarize(
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


async def finish_bad_rows(files: JobFiles, *, whole: bool) -> int:
    """Finish the file of bad rows if all were collected; return their number."""
    if files.bad_rows is None:
        return 0
    if whole:
        await run_in_thread(files.bad_rows.finish)
    return files.bad_rows.count


@asynccontextmanager
async def dispatching(
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


@asynccontextmanager
async def open_state(state: MappingState) -> AsyncIterator[MappingState]:
    """Open a state for a job, unless it is open already."""
    if state.is_open:
        yield state
        return
    async with state:
        yield state
