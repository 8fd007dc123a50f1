"""Deltas, exports and histories of a state, as files.

The audience delta lists the changes since the last delta, to be merged downstream. It
is written to an unfinished file, renamed when it is complete, and only then does the
state count its changes as exported. If a job is killed in between, the next run writes
the same delta again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from uid2_async._portal import run_in_thread
from uid2_async.bulk.batches import Chunk, IdentityColumn
from uid2_async.bulk.files import TableWriter, check_output
from uid2_async.bulk.options import DELTA_COLUMNS, MapOptions
from uid2_async.bulk.outcomes import Endpoint, MapFailure, OptOutRule, Outcome
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    FilePair,
    InputIdentity,
    Location,
    Remote,
    check_roles,
    check_targets,
    identify,
    path_of,
    state_paths,
)
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.bulk.resume import Checkpoint, encode_checkpoint
from uid2_async.bulk.state import MappingState
from uid2_async.bulk.state_changes import DELTA
from uid2_async.bulk.state_values import (
    SUPPRESSED,
    Change,
    ChangeKind,
    IdentityKey,
    Run,
    StateRow,
)
from uid2_async.bulk.stores import locate
from uid2_async.errors import InputError
from uid2_async.models import IdentityType, UnmappedReason
from uid2_async.protocol import base64

if TYPE_CHECKING:
    from uid2_async.bulk.job import RowGroup  # which imports aiohttp

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

# A row and its identity.
_Cell: TypeAlias = tuple[int, IdentityType, bytes]

_ADDING: Final = (ChangeKind.ADDED, ChangeKind.RETURNED)
_OPTED_OUT: Final = UnmappedReason.OPTED_OUT.value
_INPUT_TYPES: Final = {kind: f"{kind.value}_hash" for kind in IdentityType}
_SAVE_LINES: Final = 5_000


class DeltaWriter:
    """Writes one delta."""

    def __init__(
        self,
        target: str,
        *,
        options: MapOptions | None = None,
        folder: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the unfinished file. Blocks.

        The *options* are those of a job whose rows :meth:`write_rows` gets.
        """
        options = options or MapOptions()
        self._target = target
        self._keys = options.keys
        self._by_row = options.optout_rule is OptOutRule.ANY and not options.explode
        self._columns = [*DELTA_COLUMNS, *self._keys]
        self._table = TableWriter(
            locate(target),
            dict.fromkeys(self._columns, Content.TEXT),
            spreadsheet_safe=options.spreadsheet_safe,
            folder=folder,
            disk=disk,
        )
        self._waiting: list[list[str | None]] = []

    async def write_rows(
        self, state: MappingState, endpoint: Endpoint, chunk: Chunk
    ) -> None:
        """Write a line for each identity of a row of *chunk* with a pending change."""
        group: RowGroup = chunk.payload
        outcomes = chunk.outcomes()
        # By row and identity: two columns of a row may have the same one.
        changed: dict[_Cell, StateRow] = {}
        for column, answers in zip(chunk.columns, outcomes, strict=True):
            changed.update(await _changes(state, endpoint, column, answers))
        if group.rows is None or not changed:
            return
        withheld = self._withheld(changed, outcomes)
        written = [cell for cell in changed if cell not in withheld]
        written.sort(key=itemgetter(0))
        keys = [group.rows.key_texts(key) for key in self._keys]
        self._waiting += [
            [*_cells_of(cell, changed[cell]), *[one[cell[0]] for one in keys]]
            for cell in written
        ]
        for kind, some in _by_kind(written).items():
            await state.mark_written(kind, some)
        for kind, some in _by_kind(withheld).items():
            await state.withhold(kind, some)
        if len(self._waiting) >= _SAVE_LINES:
            await self._save()

    def _withheld(
        self, changed: dict[_Cell, StateRow], outcomes: Sequence[Sequence[Outcome]]
    ) -> set[_Cell]:
        """Return the identities that their rows keep from being added.

        The any rule leaves a row without a UID if one of its identifiers is, or may be,
        opted out.
        """
        if not self._by_row or len(outcomes) == 1:
            return set()
        return {
            cell
            for cell, found in changed.items()
            if found.change in _ADDING
            and any(_may_be_opted_out(column[cell[0]]) for column in outcomes)
        }

    async def complete(self, state: MappingState, run: Run) -> int:
        """Add the other pending changes, rename the delta, and count its lines.

        Afterwards, the state may count them as exported. It records the identity of the
        delta before that has its name: if *run* is killed in between, the next one
        knows this delta as its own.
        """
        await self._write(state.pending_changes())
        identity = await run_in_thread(self._table.complete)
        if identity is not None:
            identity = msgspec.structs.replace(identity, name=self._target)
            detail = encode_checkpoint(Checkpoint(input=identity, done=True))
            await state.set_file_done(run, DELTA, detail)
        await run_in_thread(self._table.finish)
        return self._table.rows

    async def write_changes(self, pages: AsyncIterator[Sequence[Change]]) -> int:
        """Write a line for each change, rename the file, and count its lines."""
        await self._write(pages)
        await run_in_thread(self._table.finish)
        return self._table.rows

    async def _write(self, pages: AsyncIterator[Sequence[Change]]) -> None:
        """Write a line for each change."""
        await self._save()
        async for page in pages:
            hashes = base64.encode_texts([one.identity for one in page])
            columns: dict[str, list[Any]] = {
                "CHANGE": [one.change for one in page],
                "INPUT_TYPE": [_INPUT_TYPES[one.kind] for one in page],
                "IDENTITY_HASH": hashes,
                "UID": [one.uid for one in page],
                "OLD_UID": [one.old_uid for one in page],
                **{key: [None] * len(page) for key in self._keys},
            }
            await run_in_thread(partial(self._table.write, columns))

    def close(self) -> None:
        """Close the file; remove it if it is not complete. Blocks."""
        self._table.close()

    async def aclose(self) -> None:
        """See :meth:`close`."""
        await run_in_thread(self.close)

    async def _save(self) -> None:
        if self._waiting:
            lines, self._waiting = self._waiting, []
            columns = map(list, zip(*lines, strict=True))
            rows = dict(zip(self._columns, columns, strict=True))
            await run_in_thread(partial(self._table.write, rows))


async def _changes(
    state: MappingState,
    endpoint: Endpoint,
    column: IdentityColumn,
    outcomes: Sequence[Outcome],
) -> dict[_Cell, StateRow]:
    """Return the identities of a column with pending changes, by row."""
    changed: dict[_Cell, StateRow] = {}
    for name, rows in column.rows_by_kind():
        some = [row for row in rows if _may_have_changed(outcomes[row])]
        if not some:
            continue
        kind = IdentityType(endpoint.kinds[name].subject)
        identities = column.identity_bytes(endpoint.kinds[name], some)
        pairs = list(zip(some, identities, strict=True))
        hidden = [key for row, key in pairs if key and _hides_change(outcomes[row])]
        known = await state.changes_of(kind, hidden) if hidden else {}
        for row, identity in pairs:
            assert identity is not None  # noqa: S101 - the state was asked about it
            found = known.get(identity, outcomes[row])
            if isinstance(found, StateRow) and found.change:
                changed[row, kind, identity] = found
    return changed


def _may_have_changed(outcome: Outcome) -> bool:
    if isinstance(outcome, StateRow) and outcome.change:
        return True
    return _hides_change(outcome)


def _hides_change(outcome: Outcome) -> bool:
    """Return whether an identity may have a change that its outcome does not show."""
    return outcome is SUPPRESSED or isinstance(outcome, MapFailure)


def _may_be_opted_out(outcome: Outcome) -> bool:
    if outcome.raw_uid is not None:
        return False
    return outcome.reason == _OPTED_OUT or isinstance(outcome, MapFailure)


def _cells_of(cell: _Cell, found: StateRow) -> list[str | None]:
    """Return the cells of a line before its keys."""
    _, kind, identity = cell
    hashed = base64.encode_text(identity)
    fixed = (str(found.change), _INPUT_TYPES[kind], hashed)
    return [*fixed, found.raw_uid, found.old_uid]


def _by_kind(cells: Iterable[_Cell]) -> dict[IdentityType, list[bytes]]:
    """Group the identities of cells."""
    found: dict[IdentityType, list[bytes]] = defaultdict(list)
    for _, kind, identity in cells:
        found[kind].append(identity)
    return found


def check_delta(target: str, keys: Sequence[str] = ()) -> None:
    """Reject a delta that could not be written, before anything is sent. Blocks."""
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
        check_targets([pair], may_exist=force, allow_shared=shared)
    return path


def is_delta(target: str | None, saved: InputIdentity | None) -> bool:
    """Return whether a run has written *target*, as it *saved*. Blocks.

    Of a remote object, only the size is known before it is uploaded. Without a file,
    nothing is saved.
    """
    path = None if target is None else locate(target)
    if path is None or saved is None:
        return path is None and saved is None
    with suppress(InputError):  # there is none
        found = identify(path)
        if isinstance(path, Remote):
            return found.size == saved.size
        return msgspec.structs.replace(found, name=saved.name) == saved
    return False


async def export_state(state: MappingState, target: str, *, force: bool = False) -> int:
    """Write an open *state*, whole or not at all; return the number of identities."""
    path = await run_in_thread(partial(check_export, state, target, force=force))
    folder = state.path.parent
    table = await run_in_thread(
        partial(TableWriter, path, _EXPORTED, folder=folder), discard=TableWriter.close
    )
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
        _INPUT_TYPES[key.kind],
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
    writer = await run_in_thread(
        partial(DeltaWriter, target, folder=folder), discard=DeltaWriter.close
    )
    async with aclosing(writer) as delta:
        return await delta.write_changes(state.history(since))
