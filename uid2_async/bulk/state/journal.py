"""The journal: what was recorded, in the shapes in which it is written fastest.

One line holds the rows of a call: their identities as one blob, and their columns

- as one JSON array, which holds any row, or
- of those who are added, as blobs of equal pieces: the UIDs, when they are due, and the
  numbers of the changes, since SQL cuts blobs several times faster than it looks into
  JSON.

All lines of one shape are taken apart by one statement, which runs without the
interpreter's lock. A statement for each line would find pages there that the one before
it has written, and SQLite would save these for the case that it fails.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import attrs
import msgspec

from uid2_async.bulk.state.reading import ASKED, IDENTITY, by_size
from uid2_async.bulk.state.schema import ROW
from uid2_async.bulk.state.settling import DIGEST_BYTES, UID_LETTERS, Batch
from uid2_async.bulk.state.stored import Stored
from uid2_async.bulk.state.values import ChangeKind

__all__ = ["expand_journal", "make_lines", "write_lines"]

_ADDED: Final = ChangeKind.ADDED.value

_INSERT: Final = """INSERT INTO journal (
    run, checked, kind, size, count, identities, rows, uids, dues, seqs, replaced
) VALUES """
_VALUES: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

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

_DIGITS: Final = 12
_FROM_COLUMNS: Final = f"""
    (identity, kind, uid, refresh_from, checked, seq, change, told) {ASKED}
    SELECT {IDENTITY}, :kind,
        CAST(substr(:uids, i * {UID_LETTERS} + 1, {UID_LETTERS}) AS TEXT),
        CAST(substr(:dues, i * {_DIGITS} + 1, {_DIGITS}) AS INTEGER),
        :checked,
        CAST(substr(:seqs, i * {_DIGITS} + 1, {_DIGITS}) AS INTEGER),
        '{_ADDED}', 0
    FROM asked ORDER BY 1"""


def write_lines(connection: sqlite3.Connection, lines: Sequence[Sequence[Any]]) -> None:
    """Write *lines* into the journal, all of them or none."""
    # One statement: each costs the thread a wait for the interpreter's lock.
    statement = _INSERT + ", ".join([_VALUES] * len(lines))
    connection.execute(statement, list(chain.from_iterable(lines)))


def make_lines(run: int, batch: Batch) -> list[tuple[Any, ...]]:
    """Make the lines of the journal: one for who is added, else one for each size."""
    lines: list[tuple[Any, ...]] = []
    head = (run, batch.checked, batch.bit)
    added = batch.added
    count = len(added.identities)
    if count:
        uids = "".join(added.uids).encode()
        numbers = range(added.first, added.first + count)
        columns = (None, uids, _write_column(added.dues), _write_column(numbers), b"[]")
        lines.append((*head, DIGEST_BYTES, count, b"".join(added.identities), *columns))
    replaced = msgspec.json.encode(batch.replaced)
    for size, places in by_size(batch.identities).items():
        identities, rows = batch.identities, batch.rows
        if places is not None:
            identities = [identities[at] for at in places]
            rows = [rows[at] for at in places]
        keys = b"".join(identities)
        texts = (msgspec.json.encode(rows), None, None, None, replaced)
        lines.append((*head, size, len(rows), keys, *texts))
    return lines


def _write_column(numbers: Sequence[int]) -> bytes:
    """Write *numbers* as pieces of equal size."""
    return (f"%0{_DIGITS}d" * len(numbers) % tuple(numbers)).encode()


@attrs.define
class _Lines:
    """Lines of one shape, put together."""

    count: int = 0
    columns: dict[str, list[bytes]] = attrs.field(factory=lambda: defaultdict(list))

    def parameters(self) -> dict[str, int | bytes | str]:
        """Give what _FROM_COLUMNS or _FROM_JSON refers to."""
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
        source = _FROM_JSON if "rows" in given else _FROM_COLUMNS
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
