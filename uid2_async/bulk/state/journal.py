"""The journal: what was recorded, in the shape in which it is written fastest.

One line holds thousands of rows: their identities as one blob, and their columns as one
JSON array. Most rows are those of an identity that was mapped once and has not changed;
of them three columns are written, and SQL need not look for the others.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import msgspec

from uid2_async.bulk.state.reading import by_size
from uid2_async.bulk.state.schema import ROW
from uid2_async.bulk.state.stored import Stored
from uid2_async.bulk.state.values import ChangeKind

__all__ = ["INSERT_LINE", "Batch", "expand_journal", "make_lines"]

_ADDED: Final = ChangeKind.ADDED.value

# The subquery with a limit is not merged into the outer one: `value` is written as
# text once and not for each column.
_EXPAND: Final = f"""({ROW})
    SELECT substr(:keys, key * :size + 1, :size), :kind,
        json_extract(value, '$[0]'),
        json_extract(rest, '$[0]'), json_extract(rest, '$[1]'),
        json_extract(value, '$[1]'),
        json_extract(rest, '$[2]'), json_extract(rest, '$[3]'),
        :checked,
        json_extract(value, '$[2]'),
        CASE WHEN rest IS NULL THEN '{_ADDED}' ELSE json_extract(rest, '$[4]') END,
        CASE WHEN rest IS NULL THEN 0 ELSE json_extract(rest, '$[5]') END,
        json_extract(rest, '$[6]')
    FROM (
        SELECT key, value, json_extract(value, '$[3]') AS rest
        FROM (SELECT key, value FROM json_each(:rows) LIMIT -1) LIMIT -1
    )
    ORDER BY 1, key"""  # noqa: S608 - constants

INSERT_LINE: Final = """INSERT INTO journal
    (run, checked, kind, size, identities, rows, replaced)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


@attrs.frozen(kw_only=True, repr=False)
class Batch:
    """Rows of one identity type, to be written.

    Attributes:
        bit: The type.
        checked: When they were checked, all of them, in seconds since the Unix epoch.
        identities: Whose rows they are, each of them once.
        rows: The rows.
        replaced: The numbers of the untold changes that theirs replace.
    """

    bit: int
    checked: int
    identities: Sequence[bytes]
    rows: Sequence[Stored]
    replaced: Sequence[int]


def make_lines(run: int, batch: Batch) -> Iterator[tuple[int | bytes, ...]]:
    """Make the lines of the journal, one for each size of identities."""
    replaced = msgspec.json.encode(batch.replaced)
    for size, places in by_size(batch.identities).items():
        identities, rows = batch.identities, batch.rows
        if places is not None:
            identities = [identities[at] for at in places]
            rows = [rows[at] for at in places]
        packed = msgspec.json.encode([_pack(row) for row in rows])
        keys = b"".join(identities)
        yield run, batch.checked, batch.bit, size, keys, packed, replaced


def _pack(row: Stored) -> tuple[Any, ...]:
    """Leave out the columns that say nothing."""
    if row.prev is None and row.bucket is None and row.change == _ADDED:
        return row.uid, row.refresh_from, row.seq
    rest = (
        row.prev,
        row.since,
        row.status,
        row.bucket,
        row.change,
        row.told,
        row.told_uid,
    )
    return row.uid, row.refresh_from, row.seq, rest


def expand_journal(
    connection: sqlite3.Connection, table: str
) -> tuple[int, Sequence[int]]:
    """Write the rows of the whole journal into *table*, in the order of identities.

    Returns:
        How many these were, and the numbers of the changes that theirs replace.
    """
    parts: defaultdict[tuple[int, int, int], list[tuple[bytes, bytes]]]
    parts = defaultdict(list)
    replaced: list[int] = []
    for checked, kind, size, keys, rows, numbers in connection.execute(
        "SELECT checked, kind, size, identities, rows, replaced FROM journal"
        " ORDER BY number"
    ):
        parts[checked, kind, size].append((keys, rows))
        replaced += msgspec.json.decode(numbers)
    count = 0
    for (checked, kind, size), lines in parts.items():
        count += connection.execute(
            f"INSERT OR REPLACE INTO {table} {_EXPAND}",
            {
                "checked": checked,
                "kind": kind,
                "size": size,
                "keys": b"".join(keys for keys, _ in lines),
                "rows": f"[{b','.join(rows[1:-1] for _, rows in lines).decode()}]",
            },
        ).rowcount
    return count, replaced
