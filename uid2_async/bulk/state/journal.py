"""The journal: what was recorded, in the shapes in which it is written fastest.

One line holds the rows of a call: their identities as one blob, and their columns

- as one JSON array, which holds any row, or
- *plain*, as blobs of equal pieces: the UIDs, when they are due, and the numbers of the
  changes. That is for identities whose UID has not changed since they were added, which
  is what a first load consists of, and SQL cuts blobs several times faster than it
  looks into JSON.

All lines of one shape are taken apart by one statement, which runs without the
interpreter's lock. A statement for each line would find pages there that the one before
it has written, and SQLite would save these for the case that it fails.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
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
    run, checked, kind, size, count, identities, rows, uids, dues, seqs, replaced
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

_READ_LINES: Final = """SELECT checked, kind, size, count, replaced,
    identities, rows, uids, dues, seqs FROM journal ORDER BY number"""

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
_DIGITS: Final = 12
_FROM_PLAIN: Final = f"""
    (identity, kind, uid, refresh_from, checked, seq, change, told) {ASKED}
    SELECT {IDENTITY}, :kind,
        CAST(substr(:uids, i * {_UID_BYTES} + 1, {_UID_BYTES}) AS TEXT),
        CAST(substr(:dues, i * {_DIGITS} + 1, {_DIGITS}) AS INTEGER),
        :checked,
        CAST(substr(:seqs, i * {_DIGITS} + 1, {_DIGITS}) AS INTEGER),
        '{_ADDED}', 0
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


def _make_plain(rows: Sequence[Stored]) -> tuple[None, bytes, bytes, bytes] | None:
    """Make the columns of a plain line; None if there is any other row."""
    uids, dues, seqs = [], [], []
    for row in rows:
        if (
            row.uid is None
            or row.refresh_from is None
            or row.prev is not None
            or row.bucket is not None
            or row.change != _ADDED
        ):
            return None
        uids.append(row.uid)
        dues.append(row.refresh_from)
        seqs.append(row.seq)
    if set(map(len, uids)) != {_UID_BYTES}:
        return None
    text = "".join(uids)
    if not text.isascii():
        return None
    pattern = f"%0{_DIGITS}d" * len(rows)
    dues_text, seqs_text = pattern % tuple(dues), pattern % tuple(seqs)
    return None, text.encode(), dues_text.encode(), seqs_text.encode()


@attrs.define
class _Lines:
    """Lines of one shape, put together."""

    count: int = 0
    columns: dict[str, list[bytes]] = attrs.field(factory=lambda: defaultdict(list))

    def parameters(self) -> dict[str, int | bytes | str]:
        """Give what _FROM_PLAIN or _FROM_JSON refers to."""
        joined: dict[str, int | bytes | str] = {"count": self.count}
        for name, parts in self.columns.items():
            if name == "rows":
                joined[name] = f"[{b','.join([part[1:-1] for part in parts]).decode()}]"
            else:
                joined[name] = b"".join(parts)
        return joined


def expand_journal(connection: sqlite3.Connection, table: str) -> tuple[int, list[int]]:
    """Write the rows of the whole journal into *table*; nobody has two of them.

    Returns:
        How many these were, and the numbers of the changes that theirs replace.
    """
    shapes: defaultdict[tuple[int, int, int, str], _Lines] = defaultdict(_Lines)
    replaced: list[int] = []
    for checked, kind, size, count, numbers, *columns in connection.execute(
        _READ_LINES
    ):
        names = ("keys", "rows", "uids", "dues", "seqs")
        pairs = zip(names, columns, strict=True)
        given = {name: column for name, column in pairs if column is not None}
        source = _FROM_JSON if "rows" in given else _FROM_PLAIN
        lines = shapes[checked, kind, size, source]
        lines.count += count
        for name, column in given.items():
            lines.columns[name].append(column)
        replaced += msgspec.json.decode(numbers)
    for (checked, kind, size, source), lines in shapes.items():
        fixed = {"checked": checked, "kind": kind, "size": size}
        connection.execute(
            f"INSERT INTO {table} {source}", {**lines.parameters(), **fixed}
        )
    return sum(lines.count for lines in shapes.values()), replaced
