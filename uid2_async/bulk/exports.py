"""Deltas, exports and histories of a state, as files.

The audience delta lists the changes since the last delta, to be merged downstream. It
is written to an unfinished file, renamed when it is complete, and only then does the
state count its changes as exported. If a job is killed in between, the next run writes
the same delta again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk, IdentityColumn
from uid2_async.bulk.files import TableWriter, check_output
from uid2_async.bulk.outcomes import Endpoint, Outcome
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    FilePair,
    Location,
    check_roles,
    check_targets,
    path_of,
    state_paths,
)
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_values import Change, IdentityKey, StateRow
from uid2_async.bulk.stores import locate
from uid2_async.errors import InputError
from uid2_async.models import IdentityType
from uid2_async.protocol import base64

if TYPE_CHECKING:
    from uid2_async.bulk.job import RowGroup  # which imports aiohttp

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

    async def write_rows(
        self, state: MappingState, endpoint: Endpoint, chunk: Chunk
    ) -> None:
        """Write a line for each identifier of *chunk* with a pending change."""
        group: RowGroup = chunk.payload
        changed = [
            (row, index, kind, identity, outcome)
            for index, (column, found) in enumerate(
                zip(chunk.columns, chunk.outcomes(), strict=True)
            )
            for row, kind, identity, outcome in _changed(endpoint, column, found)
        ]
        if group.rows is None or not changed:
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
            await state.mark_written(kind, some)
        if len(self._waiting) >= _SAVE_LINES:
            await self._save()

    async def complete(self, state: MappingState) -> int:
        """Add the other pending changes, rename the delta, and count its lines.

        Afterwards, the state may count them as exported.
        """
        await self.write_changes(state.pending_changes())
        return self.lines

    async def write_changes(self, pages: AsyncIterator[Sequence[Change]]) -> None:
        """Write a line for each change, and rename the delta to its final name."""
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
        await run_in_thread(self._table.finish)

    async def aclose(self) -> None:
        """Close the file; remove it if it is not complete."""
        await run_in_thread(self._table.close)

    async def _save(self) -> None:
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
        identities = column.identity_bytes(kind, [row for row, _ in found])
        for (row, outcome), identity in zip(found, identities, strict=True):
            assert identity is not None  # noqa: S101 - the state has a row for it
            yield row, IdentityType(kind.subject), identity, outcome


def check_delta(target: str, keys: Sequence[str] = ()) -> None:
    """Reject a delta that could not be written, before anything is sent. Blocks."""
    taken = [key for key in keys if key.upper() in DELTA_COLUMNS]
    if taken:
        raise InputError(
            f"The delta has a column '{taken[0].upper()}' of its own.",
            hint="Rename the key in the input.",
        )
    options = FileFormatOptions().for_file(path_of(locate(target)))
    check_output(None, options, dict.fromkeys((*DELTA_COLUMNS, *keys), Content.TEXT))


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
    """Write an open *state*, whole or not at all; return the number of identities."""
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
    """Write the net changes since a run, not counted as exported; return how many."""
    await run_in_thread(partial(check_export, state, target, force=force))
    folder = state.path.parent
    writer = await run_in_thread(partial(DeltaWriter, target, folder=folder))
    async with aclosing(writer) as delta:
        await delta.write_changes(state.history(since))
    return delta.lines
