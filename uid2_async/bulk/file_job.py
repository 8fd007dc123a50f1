"""A job on files: rows in, rows with more columns out, saved as it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import msgspec

from uid2_async.bulk.batches import Block
from uid2_async.bulk.delta import DeltaPart
from uid2_async.bulk.file_feed import RowStep
from uid2_async.bulk.files import Formatted, Output
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.job import MapJob
from uid2_async.bulk.job_summary import FileProgress
from uid2_async.bulk.records import Outcome
from uid2_async.bulk.resume.journal import Checkpoint, Journal

__all__ = ["FileJob", "FileTask", "Made", "RowMaker"]


class Made:
    """What becomes of some rows.

    Attributes:
        columns: The columns that are added.
        rows: Which of the rows they belong to; None where it is each of them once.
        delta: What is added to the part of a delta.
    """

    __slots__ = ("columns", "delta", "rows")

    def __init__(
        self,
        columns: Mapping[str, list[Any]],
        rows: Sequence[int] | None = None,
        delta: bytes = b"",
    ) -> None:
        """Hold them."""
        self.columns: Mapping[str, list[Any]] = columns
        self.rows: Sequence[int] | None = rows
        self.delta: bytes = delta


class RowMaker(Protocol):
    """Turns answers into columns.

    Attributes:
        endings: How many rows have ended how.
    """

    endings: Counter[str]

    def make(self, step: RowStep, outcomes: Sequence[Sequence[Outcome]]) -> Made:
        """Make the columns of some rows; a list of outcomes for each identifier."""
        ...


@attrs.frozen(kw_only=True)
class FileTask:
    """One of the files of a job.

    Attributes:
        open: Opens its output, behind what an earlier life of the job has saved.
        saved: How far that was, None where the file was not begun.
        size: How many bytes the input has, None where that is not known.
        target: Where the output goes in the end.
    """

    open: Callable[[], Output]
    saved: Checkpoint | None
    size: int | None
    target: Path | None

    @property
    def is_done(self) -> bool:
        """Whether an earlier life of the job has finished it."""
        return self.saved is not None and self.saved.done


class FileJob:
    """Writes what a :class:`~uid2_async.bulk.job.MapJob` answers.

    Attributes:
        endings: How many rows of the finished files and the present one ended how.
        rows: How many have been written.
        duplicates: How many identifiers shared a request with an earlier one.
    """

    def __init__(
        self,
        job: MapJob,
        tasks: Sequence[FileTask],
        maker: RowMaker,
        *,
        journal: Journal | None,
        delta: DeltaPart | None = None,
        on_progress: Callable[[FileProgress], object] | None = None,
    ) -> None:
        """Prepare to write.

        Args:
            job: It is fed with the rows of *tasks* that are not done, in order.
            tasks: The files.
            maker: Turns its answers into columns.
            journal: Where to save how far it is; None where it cannot be resumed.
            delta: The part of the delta, if there is to be one.
            on_progress: Told after each step.
        """
        self.endings: Counter[str] = Counter()
        self.rows: int = 0
        self.duplicates: int = 0
        self._job = job
        self._tasks = tasks
        self._maker = maker
        self._journal = journal
        self._delta = delta
        self._on_progress = on_progress
        self._at = -1
        self._file_rows = 0
        self._output: Output | None = None
        self._position: Any = None
        self._unsaved: list[Formatted] = []
        self._unsaved_rows = 0
        self._unsaved_delta: list[bytes] = []
        self._saving: asyncio.Task[None] | None = None
        self._bytes_before = 0

    async def run(self, stop: asyncio.Event | None = None) -> bool:
        """Write until the job ends; what has been answered is saved however it ends.

        Args:
            stop: Lets the job end in order before its time.

        Returns:
            Whether all files are finished: each is whole and has its name.
        """
        self._job.start()
        watch = asyncio.create_task(self._job.drain_on(stop)) if stop else None
        try:
            while (block := await self._job.next_block()) is not None:
                await self._write(block)
                # All that one reply answers is there at once.
                await asyncio.sleep(0)
            if self._job.is_drained:
                await self.save()
                return False
            await self._enter(len(self._tasks))
        except BaseException:
            await self._save_what_there_is()
            raise
        finally:
            if watch is not None:
                watch.cancel()
            await self._job.stop()
            if self._output is not None:
                self._output.close()
        return True

    async def save(self) -> None:
        """Save what has been written so far, for a later life of the job."""
        await self._start_saving()
        await self._end_saving()

    async def _save_what_there_is(self) -> None:
        """Save after a failure, unless it is saving that failed.

        What could not be saved is not in the output, so nothing may come behind it.
        """
        # The failure that came first is the one that is raised.
        with contextlib.suppress(Exception):
            await self.save()

    async def _write(self, block: Block) -> None:
        """Write the rows of an answered block."""
        step: RowStep = block.payload
        if step.file != self._at:
            await self._enter(step.file)
        assert self._output is not None  # noqa: S101 - by _enter
        each = block.outcomes()
        rows = step.chunk.rows
        made = self._maker.make(
            step, [each[at : at + rows] for at in range(0, len(each), rows)]
        )
        self._unsaved.append(self._output.format(step.chunk, made.columns, made.rows))
        self._unsaved_delta.append(made.delta)
        self._unsaved_rows += rows
        self._file_rows += rows
        self.rows += rows
        self.duplicates += block.duplicates
        self._position = step.chunk.end
        if self._unsaved_rows >= self._output.save_rows:
            await self._start_saving()
        self._tell(step)

    async def _enter(self, number: int) -> None:
        """Finish the files before *number*, and open the output of that one."""
        while self._at < number:
            if self._output is not None:
                await self._finish_file()
            self._at += 1
            if self._at < len(self._tasks):
                await self._open_file(self._tasks[self._at])

    async def _open_file(self, task: FileTask) -> None:
        """Open the output of a file, or pass over one that is done."""
        saved = task.saved
        self._file_rows = 0 if saved is None else saved.rows
        self._position = None if saved is None else saved.position
        self.rows += self._file_rows
        self._maker.endings.clear()
        if saved is not None:
            self._maker.endings.update(saved.counts)
        if task.is_done:
            self._leave(task)
        else:
            self._output = await in_thread(task.open)

    async def _finish_file(self) -> None:
        """Give the present file its name."""
        task, output = self._tasks[self._at], self._output
        assert output is not None  # noqa: S101 - by _enter
        await self.save()
        await in_thread(partial(output.finish, task.target))
        if self._journal is not None:
            await in_thread(partial(self._journal.append, self._checkpoint(done=True)))
        self._output = None
        self._leave(task)

    def _leave(self, task: FileTask) -> None:
        """Count a file that is done."""
        self.endings.update(self._maker.endings)
        self._maker.endings.clear()
        self._bytes_before += task.size or 0

    def _checkpoint(self, *, output: Any = None, done: bool = False) -> Checkpoint:
        """Say how far the present file is."""
        return Checkpoint(
            file=self._at,
            rows=self._file_rows,
            position=self._position,
            output=output,
            delta=0 if self._delta is None else self._delta.size,
            counts=dict(self._maker.endings),
            done=done,
        )

    async def _start_saving(self) -> None:
        """Save what has been formatted, while the job goes on."""
        await self._end_saving()
        if self._output is None or not self._unsaved:
            return
        formatted, self._unsaved = self._unsaved, []
        delta, self._unsaved_delta = b"".join(self._unsaved_delta), []
        self._unsaved_rows = 0
        work = partial(self._save, self._output, formatted, delta, self._checkpoint())
        self._saving = asyncio.create_task(in_thread(work))

    async def _end_saving(self) -> None:
        """Wait until all is saved that is being saved."""
        if self._saving is not None:
            # Where it failed it stays, and fails whatever is to be saved after it.
            await asyncio.shield(self._saving)
            self._saving = None

    def _save(
        self,
        output: Output,
        formatted: Sequence[Formatted],
        delta: bytes,
        checkpoint: Checkpoint,
    ) -> None:
        """Write and save; runs in a thread. The journal is last: it vouches for all."""
        for one in formatted:
            output.write(one)
        size = 0 if self._delta is None else self._delta.write(delta)
        if self._journal is not None:
            remembered = output.sync()
            self._journal.append(
                msgspec.structs.replace(checkpoint, output=remembered, delta=size)
            )

    def _tell(self, step: RowStep) -> None:
        """Tell how far the job is."""
        if self._on_progress is None:
            return
        sizes = [task.size for task in self._tasks]
        self._on_progress(
            FileProgress(
                rows=self.rows,
                bytes_read=self._bytes_before + step.bytes_read,
                total_bytes=None if None in sizes else sum(filter(None, sizes)),
                endings=self.endings + self._maker.endings,
                job=attrs.evolve(
                    self._job.progress(), rows=self.rows, duplicates=self.duplicates
                ),
            )
        )
