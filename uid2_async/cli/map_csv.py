"""Map the identities of a CSV stream: in order, in bounded memory, many at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import islice
from typing import Final, TextIO, TypeAlias

import attrs

from uid2_async.bulk.in_thread import in_thread
from uid2_async.bulk.mapper import BulkMapper
from uid2_async.bulk.records import MapFailure, MapRecord
from uid2_async.cli.csv_rows import Columns, CsvRows, CsvWriter
from uid2_async.client import UID2Client
from uid2_async.errors import UID2Error
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash
from uid2_async.protocol.identity import MAP_V3_PATH

__all__ = ["OUTPUT_COLUMNS", "MapProgress", "MapSummary", "map_csv"]

OUTPUT_COLUMNS: Final = ("UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED")

HEAD_ROWS: Final = 8
_STEP_ROWS: Final = 1_000

MAPPED: Final = ""
OPTED_OUT: Final = "OPTOUT"
INVALID_IDENTIFIER: Final = "INVALID IDENTIFIER"
INVALID_TYPE: Final = "INVALID INPUT TYPE"

Cells: TypeAlias = tuple[str, str, str, str]

_IDENTITIES: Final[dict[str, type[Identity]]] = {
    cls.kind: cls for cls in (Email, EmailHash, Phone, PhoneHash)
}
# Invalid, and therefore never sent.
_NOBODY: Final = Email("")


@attrs.frozen(kw_only=True)
class MapProgress:
    """How far a job is.

    Attributes:
        rows: How many rows have been written.
        bytes_read: How many bytes of the input they came from.
    """

    rows: int
    bytes_read: int


@attrs.frozen(kw_only=True)
class MapSummary:
    """What a job did.

    Attributes:
        rows: How many rows were read and written.
        mapped: How many have a raw UID.
        opted_out: How many people have opted out.
        invalid: How many identities or types of identity were invalid.
        other: How many the operator left unmapped for another reason.
        duplicates: How many rows were answered from an earlier row's request.
        seconds: How long it took.
        head: The first rows of the result, header excluded.
    """

    rows: int
    mapped: int
    opted_out: int
    invalid: int
    other: int
    duplicates: int
    seconds: float
    head: tuple[tuple[str, ...], ...] = attrs.field(repr=False)


class _Line:
    """A row on its way.

    Attributes:
        cells: The row's own cells.
        identity: Whom it names; an empty one where its type is not known.
        typed: Whether the type is known.
        bytes_read: How much of the input had been read with it.
    """

    __slots__ = ("bytes_read", "cells", "identity", "typed")

    def __init__(self, cells: list[str], kind: str, value: str, read: int) -> None:
        make = _IDENTITIES.get(kind)
        self.cells = cells
        self.identity: Identity = _NOBODY if make is None else make(value)
        self.typed = make is not None
        self.bytes_read = read


class _Reader:
    """Reads rows; in a thread, one call at a time."""

    def __init__(self, rows: CsvRows, columns: Columns) -> None:
        self._rows = rows
        self._columns = columns

    def read(self) -> list[_Line]:
        """Read some more rows; none at the end of the stream."""
        columns, rows = self._columns, self._rows
        lines = []
        for row in islice(rows, _STEP_ROWS):
            kind = columns.constant_kind
            if columns.kind is not None:
                kind = row[columns.kind].strip().lower()
            value = row[columns.value]
            lines.append(_Line(row, kind or "", value, rows.bytes_read))
        return lines


class _Writer:
    """Writes finished batches and counts; runs in a thread, one call at a time."""

    def __init__(self, target: TextIO, rows: CsvRows) -> None:
        self._target = CsvWriter(target, line_end=rows.line_end)
        self._target.write([*rows.header, *OUTPUT_COLUMNS])
        self.outcomes: Counter[str] = Counter()
        self.head: list[tuple[str, ...]] = []

    def write(self, records: list[MapRecord[_Line]]) -> MapProgress:
        """Write answered rows.

        Raises:
            UID2Error: If one of them could not be asked about.
        """
        for record in records:
            row = record.item.cells
            row.extend(_cells(record))
            self.outcomes[row[-1]] += 1
            self._target.write(row)
        missing = HEAD_ROWS - len(self.head)
        self.head += [tuple(record.item.cells) for record in records[:missing]]
        bytes_read = records[-1].item.bytes_read
        return MapProgress(rows=self.outcomes.total(), bytes_read=bytes_read)


async def map_csv(
    rows: CsvRows,
    columns: Columns,
    target: TextIO,
    *,
    client: UID2Client,
    on_progress: Callable[[MapProgress], object] | None = None,
    stall_timeout: float = 120.0,
) -> MapSummary:
    """Write every row with its raw UID behind it.

    The rows keep their order and their values; see
    :class:`~uid2_async.bulk.mapper.BulkMapper` for how they are asked about.

    Args:
        rows: The input, its header read.
        columns: Where the identities stand.
        target: Where the result goes; it is not closed.
        client: Who maps.
        on_progress: Told after each step that was written.
        stall_timeout: After how many seconds without any success the job ends.

    Returns:
        What was done.

    Raises:
        UID2Error: If a row could not be asked about, or cannot be read.
        OSError: If reading or writing failed.
    """
    started = time.monotonic()
    reader = _Reader(rows, columns)
    writer = _Writer(target, rows)
    mapper = BulkMapper(client, stall_timeout=stall_timeout)
    async with mapper.map(_read_all(reader), key=_identity) as records:
        while (step := await records.next_step()) is not None:
            progress = await in_thread(partial(writer.write, step))
            if on_progress is not None:
                on_progress(progress)
        duplicates = records.progress.duplicates
    return _summarize(writer, duplicates, time.monotonic() - started)


async def _read_all(reader: _Reader) -> AsyncIterator[_Line]:
    """Give row after row; reading them does not hold up the event loop."""
    while lines := await in_thread(reader.read):
        for line in lines:
            yield line


def _identity(line: _Line) -> Identity:
    """Say whom a row names."""
    return line.identity


def _cells(record: MapRecord[_Line]) -> Cells:
    """Turn an answer into the four columns, in the words of the file contract."""
    row = record.outcome
    if isinstance(row, MapFailure):
        raise _failure(row)
    if row.mapped:
        due = "" if row.r is None else str(row.r)
        return (row.u or "", row.p or "", due, MAPPED)
    if not record.item.typed:
        return ("", "", "", INVALID_TYPE)
    return ("", "", "", (row.e or "unknown").upper())


def _failure(failure: MapFailure) -> UID2Error:
    """Make the error of a row that could not be asked about: it is not unmapped."""
    status = "" if failure.status is None else f", HTTP {failure.status}"
    error = UID2Error(
        f"Some rows could not be mapped: {failure.error}{status}.",
        hint="Run the command again; if it stays, ask the operator's support.",
    )
    error.endpoint = MAP_V3_PATH
    return error


def _summarize(writer: _Writer, duplicates: int, seconds: float) -> MapSummary:
    """Count the outcomes."""
    outcomes = writer.outcomes
    rows = outcomes.total()
    invalid = outcomes[INVALID_IDENTIFIER] + outcomes[INVALID_TYPE]
    mapped, opted_out = outcomes[MAPPED], outcomes[OPTED_OUT]
    return MapSummary(
        rows=rows,
        mapped=mapped,
        opted_out=opted_out,
        invalid=invalid,
        other=rows - mapped - opted_out - invalid,
        duplicates=duplicates,
        seconds=seconds,
        head=tuple(writer.head),
    )
