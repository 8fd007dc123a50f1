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
from uid2_async.bulk.files import Output, Rows, open_output
from uid2_async.bulk.job import FileJob, InputFile, RowGroup, summarize
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
        dispatcher: Dispatcher,
        on_done: Callable[[Checkpoint], Awaitable[None]] | None = None,
    ) -> None:
        """Write the outputs that are not done; await *on_done* after each."""
        self._job = job
        self._dispatcher = dispatcher
        self._on_done = on_done
        self._formatter = job.formatter
        # A job with a state has no checkpoints within a file.
        self._log = job.folder if job.state is None else None
        # The rows, statuses and warnings of all outputs, and of those before this one.
        self._rows = 0
        self._duplicates = 0
        self._warnings = InputWarnings()
        self._before = (0, Counter[str](), Counter[str]())
        self._unfinished = {one.index for one in job.files if not one.done}
        self._output: Output | None = None
        self._identity: InputIdentity | None = None
        self._unsaved: list[Any] = []
        self._unsaved_rows = 0
        self._saving: asyncio.Task[None] | None = None
        for file in job.files:
            if file.done:
                self._count_saved(file)

    async def write_all(self, chunks: AsyncIterator[Chunk]) -> bool:
        """Write answered chunks, and save them even if the job fails.

        Returns whether every output is complete and has its final name.
        """
        try:
            async for chunk in chunks:
                await self._write(chunk)
                # One reply answers many chunks at once.
                await asyncio.sleep(0)
        finally:
            # The first failure is the one to raise. Data that could not be saved is not
            # in the log, so nothing refers to it.
            try:
                with contextlib.suppress(Exception):
                    await self._save()
            finally:
                self._close(self._saving)
        return not self._unfinished

    def _close(self, saving: asyncio.Task[None] | None) -> None:
        """Close the current output after its last save.

        Nobody waits for a save if the job is canceled again and again.
        """
        if saving is not None and not saving.done():
            saving.add_done_callback(self._close)
            return
        if saving is not None and not saving.cancelled():
            saving.exception()  # otherwise, asyncio logs it
        if self._output is not None:
            self._output.close()

    def summarize(self, **more: Any) -> JobSummary:
        """Summarize the job."""
        bad_rows, files = self._job.bad_rows, self._job.files
        done = [one.output for one in files if one.index not in self._unfinished]
        defaults = {
            "rows": self._rows,
            "duplicates": self._duplicates,
            "input_warnings": dict(self._warnings.counts),
            "bad_rows": 0 if bad_rows is None else bad_rows.rows,
            "outputs": tuple(filter(None, done)),
        }
        counts = self._formatter.status_counts
        return summarize(self._dispatcher, counts, **{**defaults, **more})

    async def _write(self, chunk: Chunk) -> None:
        """Write the rows of an answered chunk."""
        group: RowGroup = chunk.payload
        if group.file.index in self._unfinished:
            output = self._output or await self._open(group)
            if group.rows is None:
                await self._finish(output, group.file)
            else:
                await self._add(output, chunk, group.rows)
        if self._job.on_progress is not None:
            progress = self._dispatcher.progress()
            self._job.report_file(
                group.file,
                group.bytes_read,
                rows=self._rows,
                endings=self._formatter.status_counts.copy(),
                job=attrs.evolve(
                    progress, rows=self._rows, duplicates=self._duplicates
                ),
            )

    async def _add(self, output: Output, chunk: Chunk, rows: Rows) -> None:
        """Add rows to the current output."""
        kinds = [column.kinds for column in chunk.columns]
        outcomes = chunk.outcomes()
        columns, repeat = self._formatter.make(outcomes, kinds)
        self._warnings.add(chunk.columns, outcomes)
        self._unsaved.append(output.format(rows, columns, repeat))
        self._unsaved_rows += chunk.rows
        self._rows += chunk.rows
        self._duplicates += chunk.duplicates
        # While the last rows are being saved, more are collected, up to a limit.
        is_saving = self._saving is not None and not self._saving.done()
        saves = _MAX_UNSAVED if is_saving else 1
        if self._unsaved_rows >= saves * output.save_rows:
            await self._save(wait=False)

    # --- files ------------------------------------------------------------------------

    async def _open(self, group: RowGroup) -> Output:
        """Open the output of a file at its checkpoint."""
        counts, warnings = self._formatter.status_counts, self._warnings.counts
        self._before = (self._rows, counts.copy(), warnings.copy())
        self._count_saved(group.file)
        self._identity = group.file.identity
        output: Output = await run_in_thread(
            partial(self._open_output, group), discard=methodcaller("close")
        )
        self._output = output
        return output

    def _open_output(self, group: RowGroup) -> Output:
        """Open an output, which is a growing part or stdout. Blocks."""
        job, file = self._job, group.file
        if job.table is not None:
            output: Output = job.table.open_output(
                group.reader, file.writing, self._formatter.contents
            )
            return output
        part: Path | None = None
        if file.target is not None and job.parts is not None:
            name = str(file.index) if file.identity is None else file.identity.name
            # Jobs of several machines may write to one file system.
            salt = "" if job.folder is None else job.folder.job
            part = part_path(job.parts, f"{salt}{name}")
        return open_output(
            group.reader,
            file.writing,
            part,
            added=self._formatter.contents,
            saved=None if file.saved is None else file.saved.output,
            resumable=self._log is not None,
            disk=job.system.disk,
        )

    def _count_saved(self, file: InputFile) -> None:
        """Count what an interrupted run has written of an output."""
        warnings = self._warnings.counts
        if file.saved is not None:
            self._rows += file.saved.rows
            self._formatter.status_counts.update(file.saved.counts)
            warnings.update(file.saved.input_warnings)
        # A new one, since it examines only so many values of an input.
        self._warnings = InputWarnings(warnings)

    async def _finish(self, output: Output, file: InputFile) -> None:
        """Rename the current output to its final name, and record that it is done."""
        await self._save()
        await run_in_thread(partial(self._rename, output, file))
        self._output = None
        checkpoint = self._checkpoint(done=True)
        if checkpoint is not None:
            if self._log is not None:
                await run_in_thread(partial(self._log.append, checkpoint))
            if self._on_done is not None:
                await self._on_done(checkpoint)
        if isinstance(file.named.target, Remote) and file.target is not None:
            await run_in_thread(partial(file.target.unlink, missing_ok=True))
        self._unfinished.remove(file.index)

    def _rename(self, output: Output, file: InputFile) -> None:
        """Finish an output, unless its input changed while it was read. Blocks."""
        source, remote, folder = file.named.source, file.named.target, self._job.folder
        pinned = isinstance(source, Remote) and source.is_pinned
        if file.identity is not None and source is not None and not pinned:
            check_unchanged(source, file.identity)
        if folder is not None:
            # From now on, an output may have its final name, which only this job may
            # find there.
            folder.keep = True
        output.sync()
        output.finish(file.target)
        if isinstance(remote, Remote) and file.target is not None:
            remote.deliver(file.target, job="" if folder is None else folder.job)

    # --- saving -----------------------------------------------------------------------

    async def _save(self, *, wait: bool = True) -> None:
        """Save formatted rows in a thread; without *wait*, the job continues meanwhile.

        If an earlier save has failed, everything after it fails.
        """
        if self._saving is not None:
            # If this is cancelled, Python 3.14 would log the error of a shielded task.
            await asyncio.wait([self._saving])
            self._saving.result()
            self._saving = None
        if self._output is not None and self._unsaved:
            rows, self._unsaved, self._unsaved_rows = self._unsaved, [], 0
            work = partial(self._write_rows, self._output, rows, self._checkpoint())
            self._saving = asyncio.create_task(run_in_thread(work))
            if wait:
                await self._save()

    def _write_rows(
        self, output: Output, rows: Sequence[Any], checkpoint: Checkpoint | None
    ) -> None:
        """Write, then save a checkpoint, which refers to the written data. Blocks."""
        # One call: after each, a thread waits for the interpreter lock.
        output.write(*rows)
        if checkpoint is not None and self._log is not None:
            saved = msgspec.structs.replace(checkpoint, output=output.sync())
            self._log.append(saved)

    def _checkpoint(self, *, done: bool = False) -> Checkpoint | None:
        """Return the state of the current output, unless its input is stdin."""
        if self._identity is None:
            return None
        rows, counts, warnings = self._before
        return Checkpoint(
            input=self._identity,
            rows=self._rows - rows,
            counts=dict(self._formatter.status_counts - counts),
            input_warnings=dict(self._warnings.counts - warnings),
            done=done,
        )
