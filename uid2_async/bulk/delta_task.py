"""Finishing a job with a state: the delta is whole before the state forgets it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from uid2_async.bulk.delta import DeltaFile, DeltaPart
from uid2_async.bulk.files.output import beside
from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.job_files import JobFiles
from uid2_async.bulk.private_files import open_private, replace
from uid2_async.bulk.resume.journal import Checkpoint
from uid2_async.bulk.state import MappingState, Run

__all__ = ["DeltaTask", "write_delta"]

_PAGE: Final = 5_000


class DeltaTask:
    """The delta of a job on files."""

    def __init__(
        self,
        state: MappingState,
        run: Run,
        target: Path,
        files: JobFiles,
        *,
        keys: Sequence[str],
    ) -> None:
        """Prepare to write the changes of *state* to *target*."""
        self._state = state
        self._run = run
        self._target = target
        self._files = files
        self._keys = keys

    @property
    def _part(self) -> Path:
        """Where the lines of the job's rows are collected."""
        assert self._files.parts is not None  # noqa: S101 - a delta is a file
        return self._files.parts / "delta"

    def open_part(self) -> DeltaPart:
        """Open the part where an earlier life of the job has left it; blocks."""
        size = self._files.saved_delta()
        return DeltaPart(self._part, size=size, disk=self._files.disk)

    async def finish(self) -> int:
        """Write the delta, and tell the state that its changes have been told.

        Killed between any two of these steps, the job does the rest when it goes on:
        the journal says whether the delta is whole.

        Returns:
            How many changes it tells.
        """
        journal = self._files.journal
        saved = self._files.saved(self._files.count)
        if saved is None:
            after = await self._state.told_seq()
            until = await self._state.last_seq()
            lines = await write_delta(
                self._state,
                self._target,
                keys=self._keys,
                after=after,
                until=until,
                part=self._part,
            )
            saved = Checkpoint(
                file=self._files.count, rows=lines, position=until, done=True
            )
            if journal is not None:
                await in_thread(partial(journal.append, saved))
        await self._state.finish(self._run, told_until=saved.position)
        return saved.rows


async def write_delta(
    state: MappingState,
    target: Path,
    *,
    after: int,
    until: int,
    keys: Sequence[str] = (),
    part: Path | None = None,
) -> int:
    """Write the changes of *state* from *after* to *until*, whole or not at all.

    Args:
        state: It must be open.
        target: Where to; what is there is replaced.
        after: The number of the last change that is not wanted.
        until: The number of the last one that is.
        keys: The names of the input's key columns.
        part: The lines that a job has collected.

    Returns:
        How many changes there are.
    """
    unfinished = beside(target)
    descriptor = await in_thread(partial(open_private, unfinished))
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        delta = DeltaFile(file, keys=keys, after=after, until=until)
        if part is not None:
            await in_thread(partial(delta.add_part, part))
        while after < until:
            page = await state.changes(after=after, until=until, limit=_PAGE)
            if not page:
                break
            await in_thread(partial(delta.add_rest, page))
            after = page[-1].seq
    await in_thread(partial(replace, unfinished, target))
    return delta.lines
