"""Goes through a state: what is due, how much there is, and all of it in order."""

from __future__ import annotations

from typing import Final, TypeAlias

from uid2_async.bulk.state.reading import CADENCE, STORED, VIEW
from uid2_async.bulk.state.schema import DUE_INDEX
from uid2_async.bulk.state.store import KINDS, Store
from uid2_async.bulk.state.stored import REMOVED, Stored
from uid2_async.bulk.state.values import (
    IdentityKey,
    Run,
    Selection,
    StateCounts,
    StateRow,
)
from uid2_async.models import IdentityScope, IdentityType

__all__ = ["START", "Place", "count", "export_page", "select_page"]

Place: TypeAlias = tuple[int, int, bytes, int]
"""Where a page ended: the number of the query, its day, the identity and its type."""

START: Final[Place] = (0, -1, b"", -1)

_DUE: Final = """SELECT refresh_from / 86400 AS day, identity, kind FROM mapping
    WHERE refresh_from IS NOT NULL
    AND (refresh_from / 86400, identity, kind) > (:day, :identity, :kind)
    AND refresh_from / 86400 BETWEEN :day AND :started / 86400
    AND refresh_from <= :started AND checked < :started
    ORDER BY refresh_from / 86400, identity, kind LIMIT :limit"""

_SLOW: Final = f"""SELECT checked / 86400 AS day, identity, kind FROM mapping
    WHERE status IS NOT NULL
    AND (checked / 86400, identity, kind) > (:day, :identity, :kind)
    AND checked / 86400 BETWEEN :day AND :started / 86400
    AND checked <= :started - {CADENCE} AND status <> '{REMOVED}'
    AND checked < :started
    ORDER BY checked / 86400, identity, kind LIMIT :limit"""

_SWEEP: Final = """SELECT 0 AS day, identity, kind FROM mapping
    WHERE (identity, kind) > (:identity, :kind)
    AND (status IS NULL OR status = 'optout')
    AND checked <= :started - :unchecked_for AND checked < :started
    ORDER BY identity, kind LIMIT :limit"""

_ROTATED: Final = """SELECT 0 AS day, identity, kind FROM mapping
    JOIN temp.rotated ON name = bucket
    WHERE (identity, kind) > (:identity, :kind)
    AND status IS NULL AND checked < rotated.at AND checked < :started
    ORDER BY identity, kind LIMIT :limit"""


def select_page(
    store: Store, run: Run, selection: Selection, after: Place, limit: int
) -> tuple[list[IdentityKey], Place | None]:
    """List identities that are to be asked about again, and where to go on.

    Returns:
        At most *limit* of them, and the place behind them, None at the end. What was
        recorded in *run* is left out.
    """
    parameters = store.parameters(run)
    if selection.rotated is not None:
        queries: tuple[str, ...] = (_ROTATED,)
        if after == START:
            _load_rotated(store, selection)
    elif selection.unchecked_for is not None:
        queries = (_SWEEP,)
        parameters["unchecked_for"] = int(selection.unchecked_for.total_seconds())
    else:
        queries = (_DUE, _SLOW)
        if after == START:
            store.connection.execute(DUE_INDEX)
    number, day, identity, bit = after
    place = {"day": day, "identity": identity, "kind": bit, "limit": limit}
    found = store.connection.execute(queries[number], {**parameters, **place})
    rows = found.fetchall()
    keys = [IdentityKey(KINDS[bit], identity) for _, identity, bit in rows]
    if len(rows) == limit:
        behind: Place | None = (number, *rows[-1])
    else:
        behind = (number + 1, *START[1:]) if number + 1 < len(queries) else None
    return _drop_recorded(store, run, keys), behind


def _load_rotated(store: Store, selection: Selection) -> None:
    """Put the rotated buckets into a table, to join with."""
    store.connection.execute("DELETE FROM temp.rotated")
    store.connection.executemany(
        "INSERT INTO temp.rotated VALUES (?, ?)", (selection.rotated or {}).items()
    )


def _drop_recorded(
    store: Store, run: Run, keys: list[IdentityKey]
) -> list[IdentityKey]:
    """Leave out what was recorded since it was merged last."""
    if not store.pending:
        return keys
    recorded: set[IdentityKey] = set()
    for kind in KINDS:
        some = [key for key in keys if key.kind is kind]
        rows: list[Stored] = store.pending.read(
            kind.bit, [key.identity for key in some], STORED, {}
        )
        recorded.update(
            key
            for key, row in zip(some, rows, strict=True)
            if row.checked >= run.started or row.status == REMOVED
        )
    return [key for key in keys if key not in recorded]


def export_page(
    store: Store, run: Run, after: IdentityKey | None, limit: int
) -> list[tuple[IdentityKey, StateRow]]:
    """List identities and their rows in the order of their keys."""
    store.pending.merge()
    last = (after.identity, after.kind.bit) if after else (b"", -1)
    found = store.connection.execute(
        "SELECT identity, kind FROM mapping WHERE (identity, kind) > (?, ?)"
        " AND status IS NOT ? ORDER BY identity, kind LIMIT ?",
        (*last, REMOVED, limit),
    )
    keys = [IdentityKey(KINDS[bit], identity) for identity, bit in found]
    rows: dict[IdentityKey, StateRow] = {}
    for kind in KINDS:
        some = [key for key in keys if key.kind is kind]
        views = store.pending.read(
            kind.bit, [key.identity for key in some], VIEW, store.parameters(run)
        )
        rows.update(zip(some, views, strict=True))
    return [(key, rows[key]) for key in keys]


def count(store: Store, now: int) -> StateCounts:
    """Count what there is; reads the whole state once."""
    store.pending.merge()
    connection = store.connection
    found = connection.execute(
        "SELECT kind, coalesce(status, 'mapped'), count(*) FROM mapping GROUP BY 1, 2"
    )
    rows: dict[tuple[IdentityType, str], int] = {
        (KINDS[bit], status): number for bit, status, number in found
    }
    run = Run(number=0, started=now)
    due = 0
    for query in (_DUE, _SLOW):
        place = {"day": -1, "identity": b"", "kind": -1, "limit": -1}
        (number,) = connection.execute(
            f"SELECT count(*) FROM ({query})",
            {**store.parameters(run), **place},
        ).fetchone()
        due += number
    (oldest,) = connection.execute(
        "SELECT min(checked) FROM mapping WHERE status IS NOT ?", (REMOVED,)
    ).fetchone()
    (untold,) = connection.execute(
        "SELECT count(*) FROM change WHERE seq > ?", (store.told_seq,)
    ).fetchone()
    scope = store.meta("scope")
    return StateCounts(
        rows=rows,
        due=due,
        oldest_check=oldest,
        untold=untold,
        forgotten=store.forgotten,
        runs=tuple(store.runs()),
        scope=None if scope is None else IdentityScope(scope),
        operator=store.meta("operator"),
        file_bytes=_measure(store),
    )


def _measure(store: Store) -> int:
    """Measure the file, with what is still in the WAL."""
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    (size,) = store.connection.execute("PRAGMA page_size").fetchone()
    return int(pages * size)
