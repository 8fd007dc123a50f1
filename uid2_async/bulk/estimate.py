"""How much work a file is: counted on this machine, without asking anybody."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import Final

import attrs

from uid2_async.bulk.feed import Named
from uid2_async.bulk.files import (
    FilePair,
    IdentifierColumns,
    Layout,
    expand,
    find_identifiers,
    format_of,
    open_reader,
)
from uid2_async.bulk.map_options import MapOptions
from uid2_async.bulk.national_phones import NationalPhones
from uid2_async.bulk.outcome_columns import Ending
from uid2_async.bulk.unique_count import UniqueCount
from uid2_async.protocol.normalize import READERS

__all__ = ["Estimate", "estimate_file"]

# What a row costs on one core of a present machine, whatever the operator does
# (docs/scale.md).
ROW_SECONDS: Final = 8e-6


@attrs.frozen(kw_only=True)
class Estimate:
    """How much work a file is.

    Attributes:
        rows: How many rows there are.
        identifiers: How many identifiers they name.
        unique: How many different identities are among them, within 0.4 %.
        is_exact: Whether that is no estimate.
        invalid: How many identifiers are invalid, or of no known type.
        empty: How many rows name nobody.
        batches: How many requests it takes.
        seconds: How long it takes at the least.
    """

    rows: int
    identifiers: int
    unique: int
    is_exact: bool
    invalid: int
    empty: int
    batches: int
    seconds: float


class _Count:
    """Counts the identifiers of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.endings: Counter[Ending] = Counter()
        self.unique = UniqueCount()

    def add(self, named: list[Named], rows: int) -> None:
        """Count some rows."""
        self.rows += rows
        for column in named:
            self._add_column(column)
        for values in zip(*(column.values for column in named), strict=True):
            self.endings[Ending.EMPTY] += not any(values)

    def _add_column(self, column: Named) -> None:
        """Count the identifiers of a column."""
        kinds = column.kinds
        found: list[bytes] = []
        for row, value in enumerate(column.values):
            if value is None:
                continue
            kind = kinds if isinstance(kinds, str) else kinds[row]
            read = READERS.get(kind)
            identity = None if read is None else read(value)
            if identity is None:
                self.endings[Ending.INVALID] += 1
            else:
                # Turned round, a phone's hash is not taken for that of an e-mail.
                found.append(identity if kind[0] == "e" else identity[::-1])
        self.endings[Ending.MAPPED] += len(found)
        self.unique.add(found)


def estimate_file(
    source: str | os.PathLike[str],
    *,
    options: MapOptions | None = None,
    batch_size: int = 5_000,
    concurrency: int = 20,
    latency: float = 0.5,
) -> Estimate:
    """Say how much work it is to map a file; blocks, and reads all of it once.

    Args:
        source: A file, a folder, a pattern, or ``-``.
        options: Where the identifiers are.
        batch_size: How many identities one request carries.
        concurrency: How many requests are in flight.
        latency: How many seconds the operator takes for one.

    Raises:
        InputError: If the file cannot be read.
    """
    options = options or MapOptions()
    source = os.fspath(source)
    layout = Layout(
        format=format_of(source, source, options.format),
        added={},
        delimiter=options.delimiter,
        encoding=options.encoding,
    )
    phones = options.national_phones()
    count = _Count()
    for pair in expand(source, "."):
        _count_file(pair, layout, options, phones, count)
    unique = int(count.unique)
    batches = math.ceil(unique / batch_size)
    return Estimate(
        rows=count.rows,
        identifiers=count.endings[Ending.MAPPED] + count.endings[Ending.INVALID],
        unique=unique,
        is_exact=count.unique.is_exact,
        invalid=count.endings[Ending.INVALID],
        empty=count.endings[Ending.EMPTY],
        batches=batches,
        seconds=estimate_seconds(
            count.rows, batches, concurrency=concurrency, latency=latency
        ),
    )


def estimate_seconds(
    rows: int, batches: int, *, concurrency: int, latency: float
) -> float:
    """Say how long a job takes at the least: what is slower, operator or machine."""
    rounds = math.ceil(batches / concurrency)
    return max(rounds * latency, rows * ROW_SECONDS)


def _count_file(
    pair: FilePair,
    layout: Layout,
    options: MapOptions,
    phones: NationalPhones | None,
    count: _Count,
) -> None:
    """Count the rows of one file."""
    reader = open_reader(pair.source, layout)
    try:
        columns: IdentifierColumns = find_identifiers(
            reader.header,
            column=options.column,
            kind=options.type,
            several=options.identifiers,
            phones=phones,
        )
        reader.want(columns.wanted)
        while True:
            chunk = reader.take(columns.step_rows)
            if chunk is not None:
                count.add(columns.identities(chunk), chunk.rows)
            elif not reader.load():
                return
    finally:
        reader.close()
