"""Reads rows by the thousand, without the interpreter's lock.

Python's sqlite3 lets go of the lock for each step of a statement and takes it again
after it, which under a busy event loop costs up to 5 ms each time. So one statement
answers for thousands of identities, with one value: their keys go in as one blob, which
SQL cuts, and their rows come out as one JSON array, which msgspec reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from uid2_async.bulk.state.stored import COLUMNS, KEPT_SECONDS, REMOVED, Stored, view
from uid2_async.bulk.state.values import StateRow
from uid2_async.models import UnmappedReason

__all__ = [
    "ASKED",
    "CADENCE",
    "IDENTITY",
    "STORED",
    "VIEW",
    "VIEW_IF_KNOWN",
    "Shape",
    "by_size",
    "find_latest",
    "read_rows",
]

_PLACES: Final = msgspec.json.Decoder(list[tuple[int, int]])

ASKED: Final = """WITH RECURSIVE asked(i) AS (
    SELECT 0 UNION ALL SELECT i + 1 FROM asked WHERE i + 1 < :count
)"""
"""The places of the identities that lie in ``:keys``, all of the same size."""

IDENTITY: Final = "substr(:keys, i * :size + 1, :size)"
"""The identity at a place."""


class Shape(msgspec.Struct, frozen=True):
    """What is read of a row.

    Attributes:
        sql: An expression over the columns that gives a JSON value.
        decoder: What reads an array of them.
        of: Gives the same of a row in memory, and of the parameters.
    """

    sql: str
    decoder: msgspec.json.Decoder[Any]
    of: Callable[[Stored, Mapping[str, int]], Any]


# How long a check counts. What was checked in this very run is never asked twice.
CADENCE: Final = """CASE status
    WHEN 'optout' THEN :optout_recheck
    WHEN 'invalid identifier' THEN :invalid_recheck
    ELSE :recheck END"""
_CADENCES: Final = {
    UnmappedReason.OPTED_OUT.value: "optout_recheck",
    UnmappedReason.INVALID_IDENTIFIER.value: "invalid_recheck",
}
_KNOWN_SQL: Final = f"""checked >= :started OR (
    checked > :started - {CADENCE}
    AND (refresh_from IS NULL OR refresh_from > :started)
)"""
_VIEW_SQL: Final = f"""json_array(
    uid,
    CASE WHEN status IS NULL AND since > :started - {KEPT_SECONDS} THEN prev END,
    refresh_from, status, bucket, checked,
    CASE WHEN seq > :told THEN seq ELSE 0 END,
    CASE WHEN seq > :told THEN change END,
    CASE WHEN seq > :told THEN told_uid END
)"""


def _view(row: Stored, given: Mapping[str, int]) -> StateRow | None:
    """Do in Python what _VIEW_SQL does."""
    return view(row, now=given["started"], told_seq=given["told"])


def _view_if_known(row: Stored, given: Mapping[str, int]) -> StateRow | None:
    """Do in Python what _KNOWN_SQL does, too."""
    started = given["started"]
    if row.checked < started:
        cadence = given[_CADENCES.get(row.status or "", "recheck")]
        due = row.refresh_from is not None and row.refresh_from <= started
        if due or row.checked <= started - cadence:
            return None
    return _view(row, given)


_ROWS: Final = msgspec.json.Decoder(list[StateRow | None])

STORED: Final = Shape(
    f"json_array({', '.join(COLUMNS)})",
    msgspec.json.Decoder(list[Stored | None]),
    lambda row, _: row,
)
"""The columns as they are."""

VIEW: Final = Shape(
    f"CASE WHEN status IS NOT '{REMOVED}' THEN {_VIEW_SQL} END", _ROWS, _view
)
"""The row as :class:`StateRow` says it; none of what was removed."""

VIEW_IF_KNOWN: Final = Shape(
    f"CASE WHEN status IS NOT '{REMOVED}' AND ({_KNOWN_SQL}) THEN {_VIEW_SQL} END",
    _ROWS,
    _view_if_known,
)
"""The same, and none of what the operator must be asked about."""


def by_size(identities: Sequence[bytes]) -> dict[int, Sequence[int] | None]:
    """List the places of the identities of each size; None if all have the same one.

    Nearly all are of 32 bytes; 31 and 33 exist (docs/protocol.md 3.3).
    """
    sizes = set(map(len, identities))
    if len(sizes) == 1:
        return {sizes.pop(): None}
    return {
        size: [at for at, identity in enumerate(identities) if len(identity) == size]
        for size in sorted(sizes)
    }


def find_latest(
    connection: sqlite3.Connection,
    tables: Sequence[str],
    kind: int,
    identities: Sequence[bytes],
) -> dict[str, list[int]]:
    """List which of *identities* have their latest row in which of *tables*.

    Args:
        connection: Of the state.
        tables: The oldest one first.
        kind: The bit of the identity type.
        identities: A few of them.

    Returns:
        By table, the places of the identities.
    """
    latest: dict[int, int] = {}
    each = " UNION ALL ".join(
        f"SELECT i, {age} AS age FROM asked CROSS JOIN {table} AS row"
        f" ON row.identity = {IDENTITY} AND row.kind = :kind"
        for age, table in enumerate(tables)
    )
    statement = f"{ASKED} SELECT json_group_array(json_array(i, age)) FROM ({each})"
    for size, places in by_size(identities).items() if tables else ():
        some = identities if places is None else [identities[at] for at in places]
        (answer,) = connection.execute(
            statement,
            {"keys": b"".join(some), "size": size, "count": len(some), "kind": kind},
        ).fetchone()
        for at, age in _PLACES.decode(answer):
            place = at if places is None else places[at]
            latest[place] = max(age, latest.get(place, 0))
    found: dict[str, list[int]] = {}
    for place, age in latest.items():
        found.setdefault(tables[age], []).append(place)
    return found


def read_rows(
    connection: sqlite3.Connection,
    table: str,
    kind: int,
    identities: Sequence[bytes],
    shape: Shape,
    parameters: Mapping[str, int],
) -> list[Any]:
    """Read the rows of *identities* from *table*.

    Args:
        connection: Of the state.
        table: ``mapping``, or a layer of what is pending.
        kind: The bit of the identity type.
        identities: A few thousand of them.
        shape: What is read.
        parameters: What the expression of *shape* refers to.

    Returns:
        For each of *identities* what *shape* reads, or None.
    """
    # The keys are cut in their order, and json_group_array keeps it.
    statement = (
        f"{ASKED} SELECT json_group_array(CASE WHEN row.checked IS NOT NULL"
        f" THEN {shape.sql} END) FROM asked LEFT JOIN {table} AS row"
        f" ON row.identity = {IDENTITY} AND row.kind = :kind"
    )
    rows: list[Any] = [None] * len(identities)
    for size, places in by_size(identities).items():
        some = identities if places is None else [identities[at] for at in places]
        given = {"keys": b"".join(some), "size": size, "count": len(some), "kind": kind}
        (answer,) = connection.execute(statement, {**parameters, **given}).fetchone()
        here = shape.decoder.decode(answer)
        if places is None:
            return cast("list[Any]", here)
        for at, row in zip(places, here, strict=True):
            rows[at] = row
    return rows
