"""What was recorded but is not in the table ``mapping`` yet.

Identities are random numbers: written one by one into a large table, each costs a page.
So they are gathered, and merged in their order::

    journal     on disk, one row for each call, as it came: makes a record durable
    recent      the same in memory, by identity
    layer_N     on disk, by identity: what was recent each time when that was full

and into ``mapping`` at last. Who is in several of them is as the latest says. The
changes lie in the rows; they are listed in the table ``change`` with each layer.
After a crash the journal says what was recent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import attrs

from uid2_async.bulk.state.journal import expand_journal, make_lines, write_lines
from uid2_async.bulk.state.probes import Probes
from uid2_async.bulk.state.reading import Shape, find_latest, read_rows
from uid2_async.bulk.state.schema import ROW, make_rows_table, transaction
from uid2_async.bulk.state.settling import Batch, stored_of_added
from uid2_async.bulk.state.stored import Stored
from uid2_async.bulk.state.values import StateRow

__all__ = ["RECENT_ROWS", "Pending"]

# About 25 MB in memory, and as much again while they are written. Fewer would make more
# layers, all of which are searched and merged: 10 million rows take a fifth longer with
# half as many.
RECENT_ROWS: Final = 64_000
_MOST_LAYERS: Final = 400  # SQLite takes 500 terms in one UNION
_MOST_ROWS: Final = 30_000_000
# How many rows one transaction of a merge takes: they are sorted in memory.
_SLICE_ROWS: Final = 50_000
_FIRST_BYTES: Final = 256


_Recent: TypeAlias = dict[bytes, Stored | StateRow]


@attrs.frozen
class _Layer:
    name: str
    rows: int


class Pending:
    """The tables before ``mapping``, and a filter that says who may be in them.

    Attributes:
        is_all: Whether the filter covers ``mapping`` too, since that was empty when the
            state was opened: then a first load need not look there for what is new.
    """

    def __init__(self, connection: sqlite3.Connection, recent_rows: int) -> None:
        """Find what a crash has left, and merge it."""
        self._connection = connection
        self._most = recent_rows
        self._probes = Probes()
        self._recent: tuple[_Recent, _Recent] = ({}, {})
        self._layers = self._find_layers()
        found = connection.execute("SELECT max(run) FROM journal").fetchone()
        self._run: int | None = found[0]
        self._searched = 0
        self.is_all: bool = False
        self.merge()
        found = connection.execute("SELECT 1 FROM mapping LIMIT 1").fetchone()
        self.is_all = found is None

    def __bool__(self) -> bool:
        """Tell whether there is anything to merge."""
        return self._run is not None or bool(self._layers)

    def _find_layers(self) -> list[_Layer]:
        """List the layers, the oldest first."""
        names = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE name GLOB 'layer_*'"
        )
        ordered = sorted((name for (name,) in names), key=lambda name: int(name[6:]))
        return [_Layer(name, self._most) for name in ordered]

    # --- writing ----------------------------------------------------------------------

    def write(self, run: int, batches: Sequence[Batch]) -> None:
        """Write *batches* into the journal: all of them or nothing."""
        if self._run not in (None, run) or self._has_any(batches):
            # The lines of the journal are of one run, and nobody is in two of them.
            self.flush()
        lines = [line for batch in batches for line in make_lines(run, batch)]
        if not lines:
            return
        write_lines(self._connection, lines)
        self._run = run
        for batch in batches:
            recent = self._recent[batch.bit]
            # Of who is added the view says all that there is.
            recent.update(zip(batch.added.identities, batch.added.views, strict=True))
            recent.update(zip(batch.identities, batch.rows, strict=True))
            self._probes.add(batch.added.identities)
            self._probes.add(batch.identities)

    def _has_any(self, batches: Sequence[Batch]) -> bool:
        """Tell whether any of *batches* is recent already."""
        return not all(
            self._recent[batch.bit].keys().isdisjoint(identities)
            for batch in batches
            for identities in (batch.added.identities, batch.identities)
        )

    def tidy(self) -> None:
        """Write to disk what has become too much for memory, and merge what is many."""
        if sum(map(len, self._recent)) < self._most:
            return
        self.flush()
        rows = sum(layer.rows for layer in self._layers)
        if rows >= _MOST_ROWS or len(self._layers) >= _MOST_LAYERS:
            self.merge()
        elif len(self._layers) > 1 and self._searched >= rows:
            # To search on in all of them would cost more than to make one of them.
            self._merge_into_one()

    def flush(self) -> None:
        """Make a layer of what is recent, and list its changes."""
        if self._run is None:
            return
        connection = self._connection
        name = self._name_next()
        with transaction(connection):
            make_rows_table(connection, name)
            rows, replaced = expand_journal(connection, name)
            self._list_changes(name, replaced)
            connection.execute("DELETE FROM journal")
        for recent in self._recent:
            recent.clear()
        self._layers.append(_Layer(name, rows))
        self._run = None

    def _name_next(self) -> str:
        """Name the next layer; a later one has a higher number."""
        number = int(self._layers[-1].name[6:]) + 1 if self._layers else 0
        return f"layer_{number}"

    def _list_changes(self, layer: str, replaced: Sequence[int]) -> None:
        """List the new changes of *layer*, and drop the untold that they replace."""
        connection = self._connection
        (listed,) = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'change'"
        ).fetchone()
        connection.executemany(
            "DELETE FROM change WHERE seq = ?", ((seq,) for seq in replaced)
        )
        connection.execute(
            "INSERT INTO change (seq, run, identity, kind, change, uid, old_uid)"
            f" SELECT seq, ?, identity, kind, change, uid, told_uid FROM {layer}"
            " WHERE seq > ? ORDER BY seq",
            (self._run, listed),
        )

    # --- reading ----------------------------------------------------------------------

    def read(
        self,
        bit: int,
        identities: Sequence[bytes],
        shape: Shape,
        parameters: Mapping[str, int],
    ) -> list[Any]:
        """Read the rows of *identities*, here and in ``mapping``: the latest ones."""
        suspects = self._probes.find(identities)
        if self.is_all:
            rows: list[Any] = [None] * len(identities)
        else:
            rows = read_rows(
                self._connection, "mapping", bit, identities, shape, parameters
            )
        if not suspects:
            return rows
        recent = self._recent[bit]
        elsewhere = []
        for at in suspects:
            row = recent.get(identities[at])
            if row is None:
                elsewhere.append(at)
            else:
                stored = row if isinstance(row, Stored) else stored_of_added(row)
                rows[at] = shape.of(stored, parameters)
        self._read_layers(bit, identities, shape, parameters, elsewhere, rows)
        return rows

    def _read_layers(
        self,
        bit: int,
        identities: Sequence[bytes],
        shape: Shape,
        parameters: Mapping[str, int],
        places: list[int],
        rows: list[Any],
    ) -> None:
        """Fill in the rows at *places*, from the latest table that has each."""
        tables = [layer.name for layer in self._layers]
        if self.is_all:
            tables.insert(0, "mapping")
        some = [identities[at] for at in places]
        self._searched += len(some) * len(tables)
        for table, found in find_latest(self._connection, tables, bit, some).items():
            here = [some[at] for at in found]
            read = read_rows(self._connection, table, bit, here, shape, parameters)
            for at, row in zip(found, read, strict=True):
                rows[places[at]] = row

    # --- merging ----------------------------------------------------------------------

    def merge(self) -> None:
        """Move everything into ``mapping``."""
        self.flush()
        if not self._layers:
            return
        self._move("mapping", self._layers)
        self._layers = []
        self._searched = 0
        if not self.is_all:
            self._probes.clear()

    def _merge_into_one(self) -> None:
        """Make one layer of all."""
        layer = _Layer(self._name_next(), sum(one.rows for one in self._layers))
        make_rows_table(self._connection, layer.name)
        self._move(layer.name, self._layers)
        self._layers = [layer]
        self._searched = 0

    def _move(self, target: str, layers: Sequence[_Layer]) -> None:
        """Move the rows of *layers* to *target*, in the order of the identities.

        Each slice of them is a transaction of its own: if it is broken off, all is done
        again, with the same result.
        """
        union = " UNION ALL ".join(
            f"SELECT *, {age} AS age FROM {layer.name}"
            " WHERE identity >= :low AND identity < :high"
            for age, layer in enumerate(layers)
        )
        statement = (
            f"INSERT OR REPLACE INTO {target} SELECT {ROW} FROM ({union})"
            " ORDER BY identity, kind, age"
        )
        for low, high in _slice(sum(layer.rows for layer in layers)):
            with transaction(self._connection):
                self._connection.execute(statement, {"low": low, "high": high})
        with transaction(self._connection):
            for layer in layers:
                self._connection.execute(f"DROP TABLE {layer.name}")


def _slice(rows: int) -> Iterator[tuple[bytes, bytes]]:
    """Cut the range of all keys by their first byte, as finely as there are *rows*.

    Identities are random numbers, so that the slices are about equal.
    """
    slices = min(max(1, rows // _SLICE_ROWS), _FIRST_BYTES)
    ends = [bytes([at * _FIRST_BYTES // slices]) for at in range(slices)]
    ends[0] = b""
    return pairwise([*ends, b"\xff" * 64])
