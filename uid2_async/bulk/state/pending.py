"""What was recorded but is not in the table ``mapping`` yet.

Identities are random numbers: written one by one into a large table, each costs a page.
So they are written three times, each time in a row::

    journal     on disk, in the order in which they came: makes a record durable
    recent      the same rows by key, in memory
    segment_N   on disk, by key: what recent was each time when it was full

and merged into ``mapping`` in the order of their keys, at last. What is in several of
them holds as it stands in the latest. After a crash the journal says what was recent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from uid2_async.bulk.state.probes import Probes
from uid2_async.bulk.state.reading import Shape, by_size, find_rows, read_rows
from uid2_async.bulk.state.schema import ROW, make_rows_table, transaction
from uid2_async.bulk.state.stored import COLUMNS, Stored

__all__ = ["Pending"]

# About 35 MB in memory.
_RECENT_ROWS: Final = 200_000
_MOST_SEGMENTS: Final = 128
# How many rows one transaction of a merge takes: they are sorted in memory.
_SLICE_ROWS: Final = 50_000
_FIRST_BYTES: Final = 256

_COLUMNS_FROM_JSON: Final = ", ".join(
    f"json_extract(value, '$[{at}]')" for at in range(len(COLUMNS))
)


class Pending:
    """The tables before ``mapping``, and a filter that says who may be in them.

    Attributes:
        is_all: Whether the filter covers ``mapping`` too, since that was empty when the
            state was opened: then a first load need not look there for what is new.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, recent_rows: int = _RECENT_ROWS
    ) -> None:
        """Find what a crash has left, and merge it."""
        self._connection = connection
        self._most = recent_rows
        self._probes = Probes()
        self._segments = self._find_segments()
        self._recent = self._copy_to_recent(0)
        self.last = self._find_last()
        self.is_all: bool = False
        self.merge()
        found = connection.execute("SELECT 1 FROM mapping LIMIT 1").fetchone()
        self.is_all = found is None

    def __bool__(self) -> bool:
        """Tell whether there is anything to merge."""
        return bool(self._recent or self._segments)

    def _find_segments(self) -> list[str]:
        """List the segments, the oldest first."""
        names = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE name GLOB 'segment_*'"
        )
        return sorted((name for (name,) in names), key=lambda name: int(name[8:]))

    def _find_last(self) -> int:
        """Number the last row of the journal."""
        found = self._connection.execute("SELECT max(number) FROM journal").fetchone()
        return found[0] or 0

    def _copy_to_recent(self, after: int) -> int:
        """Copy the journal's rows behind *after*; return how many these were."""
        return self._connection.execute(
            f"INSERT OR REPLACE INTO recent SELECT {ROW} FROM journal"  # noqa: S608 - constants
            " WHERE number > ? ORDER BY number",
            (after,),
        ).rowcount

    # --- writing ----------------------------------------------------------------------

    def write(
        self, kind: int, identities: Sequence[bytes], rows: Sequence[Stored]
    ) -> None:
        """Write rows into the journal, inside of the caller's transaction."""
        for size, places in by_size(identities).items():
            keys, values = identities, rows
            if places is not None:
                keys = [identities[at] for at in places]
                values = [rows[at] for at in places]
            self._connection.execute(
                f"INSERT INTO journal ({ROW})"  # noqa: S608 - constants
                f" SELECT substr(:keys, key * :size + 1, :size), :kind,"
                f" {_COLUMNS_FROM_JSON} FROM json_each(:rows)",
                {
                    "keys": b"".join(keys),
                    "size": size,
                    "kind": kind,
                    "rows": msgspec.json.encode(values).decode(),
                },
            )

    def committed(self, identities: Sequence[bytes]) -> None:
        """Take over what :meth:`write` wrote of *identities*, after the commit."""
        self._probes.add(identities)
        self._recent += self._copy_to_recent(self.last)
        self.last = self._find_last()

    def tidy(self) -> None:
        """Write to disk what has become too much for memory, and merge what is many."""
        if self._recent >= self._most:
            self._make_segment()
        if len(self._segments) >= _MOST_SEGMENTS:
            self.merge()

    def _make_segment(self) -> None:
        """Write what is recent to disk, by key."""
        if not self._recent:
            return
        number = int(self._segments[-1][8:]) + 1 if self._segments else 0
        name = f"segment_{number}"
        with transaction(self._connection):
            make_rows_table(self._connection, name)
            self._connection.execute(
                f"INSERT INTO {name} SELECT * FROM recent"  # noqa: S608 - made above
            )
            self._connection.execute("DELETE FROM journal")
        self._connection.execute("DELETE FROM recent")
        self._segments.append(name)
        self._recent = self.last = 0

    # --- reading ----------------------------------------------------------------------

    def read(
        self,
        kind: int,
        identities: Sequence[bytes],
        shape: Shape,
        parameters: Mapping[str, int],
    ) -> list[Any]:
        """Read the rows of *identities*, here and in ``mapping``: the latest ones."""
        connection = self._connection
        suspects = self._probes.find(identities)
        if self.is_all:
            rows: list[Any] = [None] * len(identities)
            tables = ["recent", *reversed(self._segments), "mapping"]
        else:
            rows = read_rows(connection, "mapping", kind, identities, shape, parameters)
            tables = ["recent", *reversed(self._segments)]
        for table in tables:
            if not suspects:
                break
            some = [identities[at] for at in suspects]
            here = [suspects[at] for at in find_rows(connection, table, kind, some)]
            if not here:
                continue
            some = [identities[at] for at in here]
            found = read_rows(connection, table, kind, some, shape, parameters)
            for at, row in zip(here, found, strict=True):
                rows[at] = row
            gone = set(here)
            suspects = [at for at in suspects if at not in gone]
        return rows

    def read_recent(
        self,
        kind: int,
        identities: Sequence[bytes],
        shape: Shape,
        parameters: Mapping[str, int],
    ) -> list[Any]:
        """Read rows that have just been written."""
        return read_rows(
            self._connection, "recent", kind, identities, shape, parameters
        )

    # --- merging ----------------------------------------------------------------------

    def merge(self) -> None:
        """Move everything into ``mapping``.

        Each slice of the keys is a transaction of its own: if it is broken off, all is
        done again, with the same result.
        """
        self._make_segment()
        if not self._segments:
            return
        union = " UNION ALL ".join(
            f"SELECT *, {age} AS age FROM {name}"  # noqa: S608 - names made here
            " WHERE identity >= :low AND identity < :high"
            for age, name in enumerate(self._segments)
        )
        statement = (
            f"INSERT OR REPLACE INTO mapping SELECT {ROW} FROM ({union})"  # noqa: S608 - as above
            " ORDER BY identity, kind, age"
        )
        for low, high in self._slice():
            with transaction(self._connection):
                self._connection.execute(statement, {"low": low, "high": high})
        with transaction(self._connection):
            for name in self._segments:
                self._connection.execute(f"DROP TABLE {name}")
        self._segments = []
        if not self.is_all:
            self._probes.clear()

    def _slice(self) -> Iterator[tuple[bytes, bytes]]:
        """Cut the range of all keys by their first byte, as finely as there are rows.

        Identities are random numbers, so that the slices are about equal.
        """
        rows = self._most * len(self._segments)
        slices = min(max(1, rows // _SLICE_ROWS), _FIRST_BYTES)
        ends = [bytes([at * _FIRST_BYTES // slices]) for at in range(slices)]
        ends[0] = b""
        yield from pairwise([*ends, b"\xff" * 64])
