"""The outputs of a job: answered rows in growing files, renamed when complete."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk
from uid2_async.bulk.columns import InputWarnings
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.files import Output, open_output
from uid2_async.bulk.job import FileJob, FileSource, InputFile, RowGroup, summarize
from uid2_async.bulk.options import JobSummary
from uid2_async.bulk.paths import InputIdentity, Remote, check_unchanged
from uid2_async.bulk.resume import Checkpoint, part_path

# How many times the rows of a usual save may wait for a slow disk.
_MAX_UNSAVED: Final = 4


class JobOutputs:
    """Writes answered chunks to the outputs of a job, one output after the other."""

    def __init__(
        self,
        job: FileJob,
        source: FileSource,
        dispatcher: Dispatcher,
        on_done: Callable[[Checkpoint], Awaitable[None]] | None = None,
    ) -> None:
        """Write the rows of *source*; await *on_done* after each finished output."""
        self._job = job
        self._source = source
        self._dispatcher = dispatcher
        self._on_done = on_done
        self._formatter = job.formatter
        # A job with a state has no checkpoints within a file.
        self._log = job.folder if job.state is None else None
        self._rows = 0
        self._duplicates = 0
        # Those of finished outputs; the formatter counts the current one.
        self._status_counts: Counter[str] = Counter()
        self._input_warnings: Counter[str] = Counter()
        self._warnings = InputWarnings()
        self._index = -1
        self._output: Output | None = None
        self._file_rows = 0
        self._unsaved: list[Any] = []
        self._unsaved_rows = 0
        self._saving: asyncio.Task[None] | None = None

    async def write_all(
        self, chunks: AsyncIterator[Chunk], is_stopped: Callable[[], bool]
    ) -> bool:
        """Write answered chunks, and save them even if the job fails.

        Returns whether every output is complete and has its final name.
        """
        complete = False
        try:
            async for chunk in chunks:
                await self._write(chunk)
                # One reply answers many chunks at once.
                await asyncio.sleep(0)
            if not is_stopped():
                await self._advance(len(self._job.files))
                complete = True
        finally:
            await self._close(save=not complete)
        return complete

    def summarize(self, **more: Any) -> JobSummary:
        """Summarize the job."""
        bad_rows, files = self._job.bad_rows, self._job.files
        done = [one for one in files if one.done or one.index < self._index]
        defaults = {
            "rows": self._rows,
            "duplicates": self._duplicates,
            "input_warnings": dict(self._input_warnings),
            "bad_rows": 0 if bad_rows is None else bad_rows.count,
            "outputs": tuple(one.output for one in done if one.output),
        }
        return summarize(self._dispatcher, self._all_counts(), **{**defaults, **more})

    def _all_counts(self) -> Counter[str]:
        return self._status_counts + self._formatter.status_counts

    async def _write(self, chunk: Chunk) -> None:
        """Write the rows of an answered chunk."""
        group: RowGroup = chunk.payload
        await self._advance(group.file.index)
        if self._output is not None:
            kinds = [column.kinds for column in chunk.columns]
            outcomes = chunk.outcomes()
            columns, repeat = self._formatter.make(outcomes, kinds)
            self._warnings.add(chunk.columns, outcomes)
            self._unsaved.append(self._output.format(group.rows, columns, repeat))
            self._unsaved_rows += chunk.rows
            self._file_rows += chunk.rows
            self._rows += chunk.rows
            self._duplicates += chunk.duplicates
            # While the last rows are being saved, more are collected, up to a limit.
            is_saving = self._saving is not None and not self._saving.done()
            saves = _MAX_UNSAVED if is_saving else 1
            if self._unsaved_rows >= saves * self._output.save_rows:
                await self._save(wait=False)
        if self._job.on_progress is not None:
            progress = self._dispatcher.progress()
            self._job.report_file(
                group.file,
                group.bytes_read,
                rows=self._rows,
                endings=self._all_counts(),
                job=attrs.evolve(
                    progress, rows=self._rows, duplicates=self._duplicates
                ),
            )

    async def _close(self, *, save: bool) -> None:
        """Close the current output; after a failure, save as much as possible first."""
        if save:
            # The first failure is the one to raise. Data that could not be saved is not
            # in the log, so nothing refers to it.
            with contextlib.suppress(Exception):
                await self._save()
        output, self._output = self._output, None
        if output is not None:
            output.close()

    # --- files ------------------------------------------------------------------------

    async def _advance(self, index: int) -> None:
        """Finish the outputs before *index*, and open that one."""
        files = self._job.files
        while self._index < index:
            if self._output is not None:
                await self._finish_file(self._output, files[self._index])
            self._index += 1
            if self._index < len(files):
                await self._open_file(files[self._index])

    async def _open_file(self, file: InputFile) -> None:
        """Open an output at its checkpoint, or count a finished one."""
        saved = file.saved
        self._file_rows = 0
        if saved is not None:
            self._file_rows = saved.rows
            self._formatter.status_counts.update(saved.counts)
            self._warnings = InputWarnings(saved.input_warnings)
        self._rows += self._file_rows
        if file.done:
            self._count_finished()
            return
        # An input without rows has no chunks, so that nothing has opened it.
        while file.index not in self._source.readers and await self._source.load():
            pass
        self._output = await run_in_thread(
            partial(self._open_output, file), discard=methodcaller("close")
        )

    def _open_output(self, file: InputFile) -> Output:
        """Open an output, which is a growing part or stdout. Blocks."""
        job, reader = self._job, self._source.readers.pop(file.index)
        if job.table is not None:
            output: Output = job.table.open_output(
                reader, file.writing, self._formatter.contents
            )
            return output
        part: Path | None = None
        if file.target is not None and job.parts is not None:
            name = str(file.index) if file.identity is None else file.identity.name
            part = part_path(job.parts, name)
        return open_output(
            reader,
            file.writing,
            part,
            added=self._formatter.contents,
            saved=None if file.saved is None else file.saved.output,
            resumable=self._log is not None,
            disk=job.system.disk,
        )

    async def _finish_file(self, output: Output, file: InputFile) -> None:
        """Rename the current output to its final name, and record that it is done."""
        await self._save()
        await run_in_thread(partial(self._rename, output, file))
        self._output = None
        if file.identity is not None:
            checkpoint = self._checkpoint(file.identity, done=True)
            if self._log is not None:
                await run_in_thread(partial(self._log.append, checkpoint))
            if self._on_done is not None:
                await self._on_done(checkpoint)
        if isinstance(file.named.target, Remote) and file.target is not None:
            await run_in_thread(partial(file.target.unlink, missing_ok=True))
        self._count_finished()

    def _rename(self, output: Output, file: InputFile) -> None:
        """Finish an output, unless its input changed while it was read. Blocks."""
        source, remote, folder = file.named.source, file.named.target, self._job.folder
        pinned = isinstance(source, Remote) and source.is_pinned
        if file.identity is not None and source is not None and not pinned:
            check_unchanged(source, file.identity)
        output.sync()
        output.finish(file.target)
        if isinstance(remote, Remote) and file.target is not None:
            remote.deliver(file.target, job="" if folder is None else folder.job)

    def _count_finished(self) -> None:
        """Add the counts of a finished output to those of the job."""
        self._status_counts.update(self._formatter.status_counts)
        self._formatter.status_counts.clear()
        self._input_warnings.update(self._warnings.counts)
        self._warnings = InputWarnings()

    # --- saving -----------------------------------------------------------------------

    async def _save(self, *, wait: bool = True) -> None:
        """Save formatted rows in a thread; without *wait*, the job continues meanwhile.

        If an earlier save has failed, everything after it fails.
        """
        if self._saving is not None:
            await asyncio.shield(self._saving)
            self._saving = None
        if self._output is not None and self._unsaved:
            rows, self._unsaved, self._unsaved_rows = self._unsaved, [], 0
            identity, checkpoint = self._job.files[self._index].identity, None
            if self._log is not None and identity is not None:
                checkpoint = self._checkpoint(identity)
            work = partial(self._write_rows, self._output, rows, checkpoint)
            self._saving = asyncio.create_task(run_in_thread(work))
            if wait:
                await self._save()

    def _write_rows(
        self, output: Output, rows: Sequence[Any], checkpoint: Checkpoint | None
    ) -> None:
        """Write, then save a checkpoint, which refers to the written data. Blocks."""
        for one in rows:
            output.write(one)
        if checkpoint is not None and self._log is not None:
            saved = msgspec.structs.replace(checkpoint, output=output.sync())
            self._log.append(saved)

    def _checkpoint(self, identity: InputIdentity, *, done: bool = False) -> Checkpoint:
        return Checkpoint(
            input=identity,
            rows=self._file_rows,
            counts=dict(self._formatter.status_counts),
            input_warnings=dict(self._warnings.counts),
            done=done,
        )
