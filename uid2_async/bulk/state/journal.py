"""The journal: what was recorded, in the shapes in which it is written fastest.

One line holds the rows of a call: their identities as one blob, and their columns

- as one JSON array, which holds any row, or
- *plain*: as two blobs of equal pieces, the UIDs and when they are due. That is for
  identities that are all mapped for the first time, which is what a first load consists
  of, and SQL cuts blobs several times faster than it looks into JSON.

Either is taken apart by one statement, which runs without the interpreter's lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import msgspec

from uid2_async.bulk.state.reading import ASKED, IDENTITY, by_size
from uid2_async.bulk.state.schema import ROW
from uid2_async.bulk.state.stored import Stored
from uid2_async.bulk.state.values import ChangeKind

__all__ = ["INSERT_LINE", "Batch", "expand_journal", "make_lines"]

_ADDED: Final = ChangeKind.ADDED.value

INSERT_LINE: Final = """INSERT INTO journal (
    run, checked, kind, size, count, identities, rows, uids, dues, first, replaced
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_READ_LINES: Final = """SELECT replaced, checked, kind, size, count,
    identities AS keys, CAST(rows AS TEXT) AS rows, uids, dues, first
    FROM journal ORDER BY number"""

# The columns as they stand in Stored; `checked` is that of the line.
_FIELDS: Final = tuple(
    f"json_extract(value, '$[{at}]')" if name != "checked" else ":checked"
    for at, name in enumerate(Stored.__struct_fields__)
)
# Because of its limit the inner query is not merged into the outer one, which would
# write `value` as text once for each column.
_FROM_JSON: Final = f"""({ROW})
    SELECT substr(:keys, key * :size + 1, :size), :kind, {", ".join(_FIELDS)}
    FROM (SELECT key, value FROM json_each(:rows) LIMIT -1)
    ORDER BY 1"""

_UID_BYTES: Final = 44
_DUE_DIGITS: Final = 12
_FROM_PLAIN: Final = f"""
    (identity, kind, uid, refresh_from, checked, seq, change, told) {ASKED}
    SELECT {IDENTITY}, :kind,
        CAST(substr(:uids, i * {_UID_BYTES} + 1, {_UID_BYTES}) AS TEXT),
        CAST(substr(:dues, i * {_DUE_DIGITS} + 1, {_DUE_DIGITS}) AS INTEGER),
        :checked, :first + i, '{_ADDED}', 0
    FROM asked ORDER BY 1"""


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


def make_lines(run: int, batch: Batch) -> Iterator[tuple[Any, ...]]:
    """Make the lines of the journal, one for each size of identities."""
    replaced = msgspec.json.encode(batch.replaced)
    for size, places in by_size(batch.identities).items():
        identities, rows = batch.identities, batch.rows
        if places is not None:
            identities = [identities[at] for at in places]
            rows = [rows[at] for at in places]
        columns = _make_plain(rows) or (msgspec.json.encode(rows), None, None, None)
        head = (run, batch.checked, batch.bit, size, len(rows), b"".join(identities))
        yield (*head, *columns, replaced)


def _make_plain(rows: Sequence[Stored]) -> tuple[None, bytes, bytes, int] | None:
    """Make the columns of a plain line; None if there is any other row."""
    first = rows[0].seq
    uids, dues = [], []
    for seq, row in enumerate(rows, first):
        if (
            row.uid is None
            or row.refresh_from is None
            or row.prev is not None
            or row.bucket is not None
            or row.change != _ADDED
            or row.seq != seq
        ):
            return None
        uids.append(row.uid)
        dues.append(row.refresh_from)
    if set(map(len, uids)) != {_UID_BYTES}:
        return None
    text = "".join(uids)
    if not text.isascii():
        return None
    digits = f"%0{_DUE_DIGITS}d" * len(dues) % tuple(dues)
    return None, text.encode(), digits.encode(), first


def expand_journal(connection: sqlite3.Connection, table: str) -> tuple[int, list[int]]:
    """Write the rows of the whole journal into *table*; later ones replace earlier.

    Returns:
        How many these were, and the numbers of the changes that theirs replace.
    """
    replaced: list[int] = []
    count = 0
    found = connection.execute(_READ_LINES)
    names = [name for name, *_ in found.description]
    for line in found:
        given = dict(zip(names, line, strict=True))
        source = _FROM_PLAIN if given["rows"] is None else _FROM_JSON
        replaced += msgspec.json.decode(given.pop("replaced"))
        statement = f"INSERT OR REPLACE INTO {table} {source}"
        count += connection.execute(statement, given).rowcount
    return count, replaced
