"""How much work a file is: counted on this machine, without asking anybody."""

from __future__ import annotations

import os
from collections import Counter

import attrs

from uid2_async.bulk.costs import work_out
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
        sent_bytes: What goes to the operator.
        received_bytes: What comes back.
        state_bytes: How large a state of them is.
        first_load_seconds: How long it takes at the least if there is to be a state.
        daily_unique: How many of the identities are due on a day after that; those that
            were not asked about for long are asked about as well.
        daily_batches: How many requests these take.
        daily_seconds: How long such a day's run takes at the least.
    """

    rows: int
    identifiers: int
    unique: int
    is_exact: bool
    invalid: int
    empty: int
    batches: int
    seconds: float
    sent_bytes: int
    received_bytes: int
    state_bytes: int
    first_load_seconds: float
    daily_unique: int
    daily_batches: int
    daily_seconds: float


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
    processes: int = 1,
) -> Estimate:
    """Say how much work it is to map a file; blocks, and reads all of it once.

    The figures behind it are those of docs/scale.md.

    Args:
        source: A file, a folder, a pattern, or ``-``.
        options: Where the identifiers are.
        batch_size: How many identities one request carries.
        concurrency: How many requests are in flight.
        latency: How many seconds the operator takes for one.
        processes: How many share the work, each with a part of the file.

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
    costs = work_out(
        unique,
        rows=count.rows,
        batch_size=batch_size,
        concurrency=concurrency,
        latency=latency,
        processes=processes,
    )
    return Estimate(
        rows=count.rows,
        identifiers=count.endings[Ending.MAPPED] + count.endings[Ending.INVALID],
        unique=unique,
        is_exact=count.unique.is_exact,
        invalid=count.endings[Ending.INVALID],
        empty=count.endings[Ending.EMPTY],
        batches=costs.once.batches,
        seconds=costs.once.seconds,
        sent_bytes=costs.once.sent_bytes,
        received_bytes=costs.once.received_bytes,
        state_bytes=costs.state_bytes,
        first_load_seconds=costs.first_load.seconds,
        daily_unique=costs.daily.identities,
        daily_batches=costs.daily.batches,
        daily_seconds=costs.daily.seconds,
    )


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
