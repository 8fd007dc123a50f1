"""Data between files and a state: input rows, output rows, deltas and exports.

The audience delta lists the changes since the last delta, to be merged downstream. It
is written to an unfinished file, renamed when it is complete, and only then does the
state count its changes as exported. If a job is killed in between, the next run writes
the same delta again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import STEP_ROWS, Chunk, IdentityColumn, join_outcomes
from uid2_async.bulk.job_files import FileSource, RowGroup
from uid2_async.bulk.outcomes import INVALID, RAW_UID, Endpoint, Outcome
from uid2_async.bulk.paths import (
    Content,
    FilePair,
    Location,
    check_roles,
    check_targets,
    state_paths,
)
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import Change, IdentityKey, Run, StateRow
from uid2_async.bulk.stores import locate
from uid2_async.bulk.writers import TableWriter
from uid2_async.errors import JobError
from uid2_async.models import IdentityType
from uid2_async.protocol import base64

T = TypeVar("T")

# A sorted lookup of this many identities touches each page of the state once.
_GROUP_ROWS: Final = 40_000
_GROUPS_AHEAD: Final = 2


class PageSource:
    """Pages of a state as a dispatcher's source."""

    def __init__(self, pages: AsyncIterator[list[Chunk]]) -> None:
        """Read *pages*, which are already in chunks."""
        self._pages = pages
        self._loaded: deque[Chunk] = deque()

    async def load(self) -> bool:
        """Read a page; see :meth:`uid2_async.bulk.batches.Source.load`."""
        async for page in self._pages:
            self._loaded += page
            return True
        return False

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - pages are not waited for
        """Return the next chunk; see :meth:`uid2_async.bulk.batches.Source.take`."""
        return self._loaded.popleft() if self._loaded else None


async def identity_pages(
    pages: AsyncIterator[tuple[IdentityType, Sequence[bytes]]],
    limit: int | None = None,
) -> AsyncIterator[list[Chunk]]:
    """Yield pages of identities in chunks, up to *limit* identities."""
    left = limit
    async for kind, identities in pages:
        taken = identities if left is None else identities[:left]
        columns = [
            IdentityColumn(f"{kind.value}_hash", identities=some)
            for some in _steps(taken)
        ]
        yield [Chunk(None, len(column), [column]) for column in columns]
        if left is not None:
            left -= len(taken)
            if not left:
                return


async def uid_pages(
    pages: AsyncIterator[Sequence[tuple[IdentityKey, StateRow]]],
) -> AsyncIterator[list[Chunk]]:
    """Yield the raw UIDs of mapped identities in chunks; their payload is the keys."""
    async for page in pages:
        mapped = [(key, row.raw_uid) for key, row in page if row.raw_uid is not None]
        yield [
            Chunk(
                [key for key, _ in some],
                len(some),
                [IdentityColumn(RAW_UID, [uid for _, uid in some])],
            )
            for some in _steps(mapped)
        ]


def _steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split *items* into steps."""
    for start in range(0, len(items), STEP_ROWS):
        yield items[start : start + STEP_ROWS]


async def stage_all(
    source: FileSource,
    state: MappingState,
    run: Run,
    endpoint: Endpoint,
    on_chunk: Callable[[Chunk], bool],
) -> bool:
    """Stage the identities of all rows.

    Returns:
        Whether all rows were read.
    """
    waiting: dict[IdentityType, list[bytes]] = {}
    staging: asyncio.Future[None] | None = None
    rows = 0
    async for chunk in source.chunks():
        if not on_chunk(chunk):
            return False
        for column in chunk.columns:
            _collect(endpoint, column, waiting)
        rows += chunk.rows
        if rows >= _GROUP_ROWS:
            if staging is not None:
                await staging
            staging = asyncio.ensure_future(_stage(state, run, waiting))
            waiting, rows = {}, 0
    if staging is not None:
        await staging
    await _stage(state, run, waiting)
    return True


async def _stage(
    state: MappingState, run: Run, identities: dict[IdentityType, list[bytes]]
) -> None:
    for kind, some in identities.items():
        await state.stage(run, kind, some)


def _collect(
    endpoint: Endpoint,
    column: IdentityColumn,
    identities: dict[IdentityType, list[bytes]],
) -> None:
    """Add the valid identities of a column."""
    for name, rows in column.rows_by_kind():
        kind = endpoint.kinds.get(name)
        if kind is not None:
            subject = IdentityType(kind.subject)
            found = column.read(kind, rows)
            identities.setdefault(subject, []).extend(filter(None, found))


async def answer_from_state(
    source: FileSource,
    state: MappingState,
    endpoint: Endpoint,
    is_stopped: Callable[[], bool],
) -> AsyncIterator[Chunk]:
    """Yield the rows of *source*, in order, with their answers from the state.

    Rows are looked up in tens of thousands while earlier rows are written.
    """
    groups: deque[asyncio.Task[list[Chunk]]] = deque()
    waiting: list[Chunk] = []
    rows = 0
    try:
        async for chunk in source.chunks():
            waiting.append(chunk)
            rows += chunk.rows
            if rows < _GROUP_ROWS:
                continue
            groups.append(asyncio.create_task(_answer(waiting, state, endpoint)))
            waiting, rows = [], 0
            if len(groups) >= _GROUPS_AHEAD:
                for answered in await groups.popleft():
                    yield answered
            if is_stopped():
                return
        groups.append(asyncio.create_task(_answer(waiting, state, endpoint)))
        while groups:
            for answered in await groups.popleft():
                yield answered
    finally:
        for group in groups:
            group.cancel()
        await asyncio.gather(*groups, return_exceptions=True)


class _Lookup:
    """The identities of some chunks to look up in a state, by type."""

    def __init__(self) -> None:
        """Start empty."""
        self.identities: dict[IdentityType, list[bytes]] = {}
        self.found: dict[IdentityType, list[Outcome]] = {}

    def add(
        self, endpoint: Endpoint, column: IdentityColumn
    ) -> Callable[[], list[Outcome]]:
        """Add a column; return a function that makes its outcomes after the lookup."""
        parts = []
        for name, rows in column.rows_by_kind():
            kind = endpoint.kinds.get(name)
            if kind is not None:
                subject = IdentityType(kind.subject)
                identities = self.identities.setdefault(subject, [])
                read, start = column.read(kind, rows), len(identities)
                identities += filter(None, read)
                parts.append((rows, partial(self._outcomes, subject, start, read)))
        return partial(join_outcomes, column, parts)

    def _outcomes(
        self, subject: IdentityType, start: int, read: Sequence[bytes | None]
    ) -> list[Outcome]:
        """Return the outcomes of identities; invalid ones need no lookup."""
        stop = start + len(read) - read.count(None)
        found = self.found[subject][start:stop]
        if len(found) == len(read):
            return found
        rest = iter(found)
        return [INVALID if one is None else next(rest) for one in read]


async def _answer(
    chunks: list[Chunk], state: MappingState, endpoint: Endpoint
) -> list[Chunk]:
    """Look up the identities of some chunks, and set their outcomes."""
    lookup = _Lookup()
    for chunk in chunks:
        for column in chunk.columns:
            chunk.expect((), lookup.add(endpoint, column))
        await asyncio.sleep(0)
    # They are no longer needed, and there are many.
    identities, lookup.identities = lookup.identities, {}
    for kind in list(identities):
        found = await state.look_up(kind, identities.pop(kind))
        if None in found:
            raise JobError(
                "The state has no answer for an identifier of the input.",
                hint="The input may have changed while it was read. Run the same "
                "command again.",
            )
        lookup.found[kind] = found  # type: ignore[assignment] # by the line above
    return chunks


# --- rows of files and a state --------------------------------------------------------

DELTA_COLUMNS: Final = ("CHANGE", "INPUT_TYPE", "IDENTITY_HASH", "UID", "OLD_UID")

_EXPORTED: Final = {
    "INPUT_TYPE": Content.TEXT,
    "IDENTITY_HASH": Content.TEXT,
    "UID": Content.TEXT,
    "PREV_UID": Content.TEXT,
    "REFRESH_FROM": Content.INSTANT,
    "UNMAPPED": Content.TEXT,
    "BUCKET_ID": Content.TEXT,
    "CHECKED": Content.INSTANT,
}

_INPUT_TYPES: Final = {kind: f"{kind.value}_hash" for kind in IdentityType}
_SAVE_LINES: Final = 5_000


class DeltaWriter:
    """Writes one delta."""

    def __init__(
        self,
        target: str,
        *,
        keys: Sequence[str] = (),
        folder: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the unfinished file. Blocks."""
        self.lines: int = 0
        self._keys = keys
        self._columns = [*DELTA_COLUMNS, *keys]
        self._table = TableWriter(
            locate(target),
            dict.fromkeys(self._columns, Content.TEXT),
            folder=folder,
            disk=disk,
        )
        self._waiting: list[list[str | None]] = []

    async def noting_rows(
        self,
        chunks: AsyncIterator[Chunk],
        state: MappingState,
        run: Run,
        endpoint: Endpoint,
    ) -> AsyncIterator[Chunk]:
        """Pass on *chunks*, and write the lines of their rows."""
        async for chunk in chunks:
            await self._note_rows(state, run, endpoint, chunk)
            yield chunk

    async def _note_rows(
        self, state: MappingState, run: Run, endpoint: Endpoint, chunk: Chunk
    ) -> None:
        """Write a line for each identifier of *chunk* with a pending change."""
        group: RowGroup = chunk.payload
        changed = [
            (row, place, kind, identity, outcome)
            for place, (column, found) in enumerate(
                zip(chunk.columns, chunk.outcomes(), strict=True)
            )
            for row, kind, identity, outcome in _changed(endpoint, column, found)
        ]
        if not changed:
            return
        changed.sort(key=itemgetter(0, 1))
        cells = [group.rows.values(key) for key in self._keys]
        named: dict[IdentityType, list[bytes]] = {}
        for row, _, kind, identity, outcome in changed:
            named.setdefault(kind, []).append(identity)
            self._waiting.append(
                [
                    str(outcome.change),
                    _INPUT_TYPES[kind],
                    base64.encode_text(identity),
                    outcome.raw_uid,
                    outcome.old_uid,
                    *[one[row] for one in cells],
                ]
            )
        self.lines += len(changed)
        for kind, some in named.items():
            await state.mark_written(run, kind, some)
        if len(self._waiting) >= _SAVE_LINES:
            await self._save()

    async def complete(self, state: MappingState, run: Run) -> int:
        """Add the other pending changes, and rename the delta to its final name.

        Afterwards, the state may count them as exported.

        Returns:
            The number of lines.
        """
        await self.add_changes(state.pending_changes(run))
        await self.place()
        return self.lines

    async def add_changes(self, pages: AsyncIterator[Sequence[Change]]) -> None:
        """Write a line for each change of *pages*."""
        await self._save()
        async for page in pages:
            self.lines += len(page)
            hashes = base64.encode_texts([one.identity for one in page])
            columns: dict[str, list[Any]] = {
                "CHANGE": [one.change for one in page],
                "INPUT_TYPE": [_INPUT_TYPES[one.kind] for one in page],
                "IDENTITY_HASH": hashes,
                "UID": [one.uid for one in page],
                "OLD_UID": [one.old_uid for one in page],
                **{key: [""] * len(page) for key in self._keys},
            }
            await run_in_thread(partial(self._table.write, columns))

    async def place(self) -> None:
        """Rename the complete delta to its final name."""
        await self._save()
        await run_in_thread(self._table.finish)

    async def discard(self) -> None:
        """Remove the unfinished file; after :meth:`place` there is none."""
        await run_in_thread(self._table.close)

    async def _save(self) -> None:
        """Write the buffered lines in a thread."""
        if self._waiting:
            lines, self._waiting = self._waiting, []
            columns = map(list, zip(*lines, strict=True))
            rows = dict(zip(self._columns, columns, strict=True))
            await run_in_thread(partial(self._table.write, rows))


def _changed(
    endpoint: Endpoint, column: IdentityColumn, outcomes: Sequence[Outcome]
) -> Iterator[tuple[int, IdentityType, bytes, StateRow]]:
    """Yield the rows of a column whose identities have pending changes."""
    for name, rows in column.rows_by_kind():
        found = [
            (row, outcome)
            for row in rows
            if isinstance(outcome := outcomes[row], StateRow) and outcome.change
        ]
        if not found:
            continue
        kind = endpoint.kinds[name]
        identities = column.read(kind, [row for row, _ in found])
        for (row, outcome), identity in zip(found, identities, strict=True):
            assert identity is not None  # noqa: S101 - the state has a row for it
            yield row, IdentityType(kind.subject), identity, outcome


def check_export(
    state: MappingState,
    target: str,
    *,
    role: str = "OUT",
    force: bool = False,
    shared: bool = False,
) -> Location | None:
    """Check the target of an export; return None for stdout. Blocks."""
    path = locate(target)
    if path is not None:
        check_roles({"STATE": state_paths(state.path), role: [path]})
        pair = FilePair(None, path)
        check_targets([pair], force=force, unfinished=False, allow_shared=shared)
    return path


async def export_state(state: MappingState, target: str, *, force: bool = False) -> int:
    """Write the content of an open *state*, whole or not at all.

    Returns:
        The number of identities written.
    """
    path = await run_in_thread(partial(check_export, state, target, force=force))
    folder = state.path.parent
    table = await run_in_thread(partial(TableWriter, path, _EXPORTED, folder=folder))
    try:
        async for page in state.export():
            cells = zip(*(_cells(*one) for one in page), strict=True)
            columns = dict(zip(_EXPORTED, map(list, cells), strict=True))
            await run_in_thread(partial(table.write, columns))
        await run_in_thread(table.finish)
    finally:
        await run_in_thread(table.close)
    return table.rows


def _cells(key: IdentityKey, row: StateRow) -> list[str | int | None]:
    """Return what is known about one identity."""
    return [
        f"{key.kind.value}_hash",
        base64.encode_text(key.identity),
        row.raw_uid,
        row.previous_raw_uid,
        row.refresh_from_s,
        None if row.mapped else (row.reason or "").upper(),
        row.bucket_id,
        row.checked_s,
    ]


async def export_history(
    state: MappingState, target: str, *, since: int, force: bool = False
) -> int:
    """Write the net changes since run *since*, without counting them as exported.

    Returns:
        The number of changes written.
    """
    await run_in_thread(partial(check_export, state, target, force=force))
    folder = state.path.parent
    delta = await run_in_thread(partial(DeltaWriter, target, folder=folder))
    try:
        await delta.add_changes(state.history(since))
        await delta.place()
    finally:
        await delta.discard()
    return delta.lines
