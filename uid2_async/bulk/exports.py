"""What leaves a state as a file: deltas, their history, and all that is known.

The audience delta lists what changed since the last one, to be merged downstream. It is
written into an unfinished file, gets its name when it is whole, and only then does the
state count its changes as exported. A job that is killed in between writes the same
delta again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from uid2_async._threads import run_in_thread
from uid2_async.bulk.batches import Chunk, IdentityColumn
from uid2_async.bulk.endpoints import Endpoint
from uid2_async.bulk.job_files import RowGroup
from uid2_async.bulk.outcomes import Outcome
from uid2_async.bulk.paths import (
    STDIO,
    Content,
    FileFormatOptions,
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
from uid2_async.models import IdentityType
from uid2_async.protocol import base64

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
    """Writes one delta.

    Attributes:
        lines: How many lines were written.
    """

    def __init__(
        self,
        target: Location | None,
        *,
        keys: Sequence[str] = (),
        options: FileFormatOptions | None = None,
        folder: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the unfinished file. Blocks."""
        self.lines: int = 0
        self._keys = keys
        self._columns = [*DELTA_COLUMNS, *keys]
        self._table = TableWriter(
            target,
            dict.fromkeys(self._columns, Content.TEXT),
            options=options or FileFormatOptions(),
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
        """Pass *chunks* on, and write the lines of their rows."""
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
            uids = (outcome.raw_uid, outcome.old_uid)
            keys = [one[row] for one in cells]
            self._add(str(outcome.change), (kind, identity), uids, keys)
        for kind, some in named.items():
            await state.mark_written(run, kind, some)
        if len(self._waiting) >= _SAVE_LINES:
            await self._save()

    async def complete(self, state: MappingState, run: Run) -> int:
        """Add the other pending changes, and give the delta its name.

        The state may count them as exported after that.

        Returns:
            How many lines it has.
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
        """Give the delta its name: it is whole."""
        await self._save()
        await run_in_thread(self._table.finish)

    async def discard(self) -> None:
        """Remove what is unfinished; after :meth:`place` that is nothing."""
        await run_in_thread(self._table.close)

    def _add(
        self,
        change: str,
        who: tuple[IdentityType, bytes],
        uids: tuple[str | None, str | None],
        keys: Sequence[str],
    ) -> None:
        kind, identity = who
        hashed = (f"{kind.value}_hash", base64.encode_text(identity))
        self._waiting.append([change, *hashed, *uids, *keys])
        self.lines += 1

    async def _save(self) -> None:
        """Write the lines that wait, in a thread."""
        if self._waiting:
            lines, self._waiting = self._waiting, []
            columns = map(list, zip(*lines, strict=True))
            rows = dict(zip(self._columns, columns, strict=True))
            await run_in_thread(partial(self._table.write, rows))


def _changed(
    endpoint: Endpoint, column: IdentityColumn, outcomes: Sequence[Outcome]
) -> Iterator[tuple[int, IdentityType, bytes, StateRow]]:
    """Yield the rows of a column whose identity has a pending change."""
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
    """Return where an export goes; None for stdout."""
    if target == STDIO:
        return None
    path = locate(target)
    check_roles({"STATE": state_paths(state.path), role: [path]})
    check_targets([FilePair(None, path)], force=force, begun=False, allow_shared=shared)
    return path


async def export_state(state: MappingState, target: str, *, force: bool = False) -> int:
    """Write everything that an open *state* knows, whole or not at all.

    Returns:
        How many identities were written.
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
    """Write the net changes since run *since* began; none counts as exported by that.

    Returns:
        How many changes were written.
    """
    path = await run_in_thread(partial(check_export, state, target, force=force))
    folder = state.path.parent
    delta = await run_in_thread(partial(DeltaWriter, path, folder=folder))
    try:
        await delta.add_changes(state.history(since))
        await delta.place()
    finally:
        await delta.discard()
    return delta.lines
