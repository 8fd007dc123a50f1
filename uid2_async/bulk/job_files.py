"""The files of a job, opened where an earlier life has left them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from uid2_async.bulk.file_feed import FileFeed
from uid2_async.bulk.file_job import FileTask
from uid2_async.bulk.files import (
    FilePair,
    IdentifierColumns,
    Layout,
    Output,
    Reader,
    check_targets,
    identify,
    open_output,
    open_reader,
)
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.resume.folder import JobFolder, job_folder_for
from uid2_async.bulk.resume.journal import Checkpoint, Journal
from uid2_async.bulk.resume.manifest import JobTerms
from uid2_async.bulk.run_options import RunOptions
from uid2_async.client import UID2Client

__all__ = ["JobFiles", "JobPlan", "open_job"]


@attrs.frozen(kw_only=True)
class JobPlan:
    """What a job is to do with its files.

    Attributes:
        pairs: The files.
        target: The output as the user named it.
        delta: Where a delta goes, if one is wanted.
        layout: How rows are written down.
        find: Finds the columns of the identifiers in a header.
        keys: Other columns that are read.
        terms: What else decides about the output.
    """

    pairs: Sequence[FilePair]
    target: str
    delta: Path | None
    layout: Layout
    find: Callable[[Sequence[str]], IdentifierColumns]
    keys: Sequence[str]
    terms: dict[str, Any]

    @property
    def is_resumable(self) -> bool:
        """Whether the job can be gone on with: a stream is gone when it is read."""
        return all(pair.source and pair.target for pair in self.pairs)

    def open(
        self, pair: FilePair, position: Any = None
    ) -> tuple[Reader, IdentifierColumns]:
        """Open an input, behind *position* if that is given.

        Raises:
            InputError: If it cannot be read, or lacks a column.
        """
        reader = open_reader(pair.source, self.layout)
        try:
            columns = self.find(reader.header)
            reader.want(columns.wanted, self.keys)
            if position is not None:
                reader.seek(position)
        except BaseException:
            reader.close()
            raise
        return reader, columns

    def check(self, *, force: bool, begun: bool) -> None:
        """Refuse what cannot be done, before anything is.

        Raises:
            InputError: If an input or an output is not as it must be.
            JobError: If a folder is not.
        """
        outputs = [FilePair(None, self.delta)] if self.delta else []
        check_targets([*self.pairs, *outputs], force=force, begun=begun)
        for pair in self.pairs:
            if pair.source is not None:
                reader, _ = self.open(pair)
                reader.close()


class JobFiles:
    """The files of a job that has been begun.

    Attributes:
        folder: Where it keeps what it has done; None where it cannot be resumed.
        parts: Where the outputs grow; None where they go to stdout.
        disk: The calls of the operating system that may fail.
    """

    def __init__(
        self,
        plan: JobPlan,
        folder: JobFolder | None,
        parts: Path | None,
        *,
        disk: Disk = DISK,
    ) -> None:
        """Open the files of *plan*."""
        self.disk: Disk = disk
        self.folder: JobFolder | None = folder
        self.parts: Path | None = parts
        self._plan = plan
        self._readers: dict[int, Reader] = {}

    @property
    def journal(self) -> Journal | None:
        """Where the job notes how far it is."""
        return None if self.folder is None else self.folder.journal

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._plan.pairs)

    def saved(self, number: int) -> Checkpoint | None:
        """Say how far an earlier life came with a file."""
        return None if self.journal is None else self.journal.by_file.get(number)

    def saved_delta(self) -> int:
        """Say how many bytes of the delta's part an earlier life has saved."""
        last = None if self.journal is None else self.journal.last
        return 0 if last is None else last.delta

    def feed(self) -> FileFeed:
        """Make the feed of the files that are not done."""
        return FileFeed(
            [
                (number, partial(self._open_input, number))
                for number in range(len(self._plan.pairs))
                if not ((saved := self.saved(number)) and saved.done)
            ]
        )

    def _open_input(self, number: int) -> tuple[Reader, IdentifierColumns]:
        """Open an input where an earlier life has left it."""
        saved = self.saved(number)
        position = None if saved is None else saved.position
        reader, columns = self._plan.open(self._plan.pairs[number], position)
        self._readers[number] = reader
        return reader, columns

    def tasks(self) -> list[FileTask]:
        """List the files."""
        return [
            FileTask(
                open=partial(self._open_output, number),
                saved=self.saved(number),
                size=None if pair.source is None else pair.source.stat().st_size,
                target=pair.target,
            )
            for number, pair in enumerate(self._plan.pairs)
        ]

    def _open_output(self, number: int) -> Output:
        """Open an output where an earlier life has left it; its input is open."""
        pair, saved = self._plan.pairs[number], self.saved(number)
        part = None
        if pair.target is not None and self.parts is not None:
            part = self.parts / f"part-{number:05}"
        return open_output(
            self._readers.pop(number),
            self._plan.layout,
            part,
            remembered=None if saved is None else saved.output,
            disk=self.disk,
        )


@contextlib.contextmanager
def open_job(plan: JobPlan, client: UID2Client, run: RunOptions) -> Iterator[JobFiles]:
    """Begin a job, or go on with it; the block is the life of it. Blocks.

    Raises:
        InputError: If an input or an output is not as it must be.
        JobError: If the job was begun with something else, or works elsewhere.
    """
    if not plan.is_resumable:
        plan.check(force=run.force, begun=False)
        with _temporary(plan) as parts:
            yield JobFiles(plan, None, parts, disk=run.disk)
        return
    path = Path(run.job_dir) if run.job_dir else job_folder_for(plan.target)
    begun = JobFolder.is_begun(path) and not run.restart
    plan.check(force=run.force, begun=begun)
    terms = JobTerms(
        inputs=[identify(pair.source) for pair in plan.pairs if pair.source],
        target=plan.target,
        options=plan.terms,
        settings=client.settings_digest,
    )
    with JobFolder.open(
        path, terms, now=run.clock(), restart=run.restart, disk=run.disk
    ) as folder:
        try:
            yield JobFiles(plan, folder, folder.folder, disk=run.disk)
        except BaseException:
            if folder.journal.last is None:
                # Nothing is done that a later life could go on with.
                folder.discard()
            raise


@contextlib.contextmanager
def _temporary(plan: JobPlan) -> Iterator[Path | None]:
    """Make a folder beside the output for parts that nobody will go on with."""
    beside = plan.pairs[0].target or plan.delta
    if beside is None:
        yield None
        return
    folder = tempfile.mkdtemp(prefix=f".{beside.name[:40]}.", dir=beside.parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
