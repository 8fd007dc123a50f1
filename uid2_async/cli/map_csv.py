"""Map the identities of a CSV stream: in order, in bounded memory, many at once."""

from __future__ import annotations

import asyncio
import csv
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, TextIO, TypeAlias

import attrs

from uid2_async.cli.csv_rows import Columns, CsvRows
from uid2_async.cli.in_thread import in_thread
from uid2_async.client import UID2Client
from uid2_async.models import EmailHash, Identity, MapRow, PhoneHash
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import KINDS, identity_bytes

__all__ = ["OUTPUT_COLUMNS", "MapProgress", "MapSummary", "map_csv"]

OUTPUT_COLUMNS: Final = ("UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED")

CONCURRENCY: Final = 20
DEDUPE_WINDOW: Final = 100_000
HEAD_ROWS: Final = 8
# A file of duplicates must not pile up rows until it has a whole batch of new ones.
_ROWS_PER_SLOT: Final = 2

MAPPED: Final = ""
OPTED_OUT: Final = "OPTOUT"
INVALID_IDENTIFIER: Final = "INVALID IDENTIFIER"
INVALID_TYPE: Final = "INVALID INPUT TYPE"

Cells: TypeAlias = tuple[str, str, str, str]


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


class _Slot:
    """The answer for one identity, shared by all of its rows; unset until it comes."""

    __slots__ = ("cells",)

    cells: Cells

    @classmethod
    def unmapped(cls, why: str) -> _Slot:
        """Make a slot that needs no request."""
        slot = cls()
        slot.cells = ("", "", "", why)
        return slot


_INVALID_IDENTIFIER: Final = _Slot.unmapped(INVALID_IDENTIFIER)
_INVALID_TYPE: Final = _Slot.unmapped(INVALID_TYPE)


class _Window:
    """The slots of the identities that were met last, two generations of them.

    Dropping a whole generation costs nothing for each identity, and at least half of
    *size* distinct identities are always remembered.
    """

    def __init__(self, size: int) -> None:
        self._limit = max(1, size // 2)
        self._young: dict[bytes, _Slot] = {}
        self._old: dict[bytes, _Slot] = {}

    def get(self, key: bytes) -> _Slot | None:
        return self._young.get(key) or self._old.get(key)

    def add(self, key: bytes) -> _Slot:
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
        slot = self._young[key] = _Slot()
        return slot


@attrs.define(kw_only=True)
class _Batch:
    """Some rows in a row, and the identities among them that have to be asked about."""

    rows: list[list[str]] = attrs.field(factory=list, repr=False)
    slots: list[_Slot] = attrs.field(factory=list, repr=False)
    identities: list[Identity] = attrs.field(factory=list, repr=False)
    asked: list[_Slot] = attrs.field(factory=list, repr=False)
    duplicates: int = 0
    bytes_read: int = 0


_Queue: TypeAlias = "asyncio.Queue[tuple[_Batch, asyncio.Task[None]] | None]"


class _Reader:
    """Cuts rows into batches; runs in a thread, one call at a time."""

    def __init__(self, rows: CsvRows, columns: Columns, batch_size: int) -> None:
        self._rows = rows
        self._columns = columns
        self._batch_size = batch_size
        self._window = _Window(DEDUPE_WINDOW)

    def read(self) -> _Batch:
        """Read the next batch, without rows at the end of the stream."""
        batch = _Batch()
        for row in islice(self._rows, self._batch_size * _ROWS_PER_SLOT):
            batch.rows.append(row)
            batch.slots.append(self._slot(row, batch))
            if len(batch.asked) == self._batch_size:
                break
        batch.bytes_read = self._rows.bytes_read
        return batch

    def _slot(self, row: list[str], batch: _Batch) -> _Slot:
        """Find the slot of the identity in *row*, or make one."""
        columns = self._columns
        if columns.kind is None:
            kind = columns.constant_kind
        else:
            kind = row[columns.kind].strip().lower()
        if kind not in KINDS:
            return _INVALID_TYPE
        data = identity_bytes(kind, row[columns.value])
        if data is None:
            return _INVALID_IDENTIFIER
        # One person in two spellings, or in clear and hashed, is asked about once.
        key = kind[:1].encode() + data
        slot = self._window.get(key)
        if slot is not None:
            batch.duplicates += 1
            return slot
        slot = self._window.add(key)
        batch.asked.append(slot)
        hash_type = EmailHash if kind.startswith("e") else PhoneHash
        batch.identities.append(hash_type(base64.encode_text(data)))
        return slot


class _Writer:
    """Writes finished batches and counts; runs in a thread, one call at a time."""

    def __init__(self, target: TextIO, rows: CsvRows) -> None:
        self._plain = csv.writer(target, lineterminator=rows.line_end)
        # Before Python 3.13 the plain writer leaves a lone CR unquoted, which then
        # reads as the end of the row.
        self._quoting = csv.writer(
            target, lineterminator=rows.line_end, quoting=csv.QUOTE_ALL
        )
        self._write_row([*rows.header, *OUTPUT_COLUMNS])
        self.outcomes: Counter[str] = Counter()
        self.duplicates = 0
        self.head: list[tuple[str, ...]] = []

    def write(self, batch: _Batch) -> MapProgress:
        """Write the rows of *batch*, all of whose slots are filled."""
        for row, slot in zip(batch.rows, batch.slots, strict=True):
            row.extend(slot.cells)
            self.outcomes[slot.cells[-1]] += 1
            self._write_row(row)
        missing = HEAD_ROWS - len(self.head)
        self.head += [tuple(row) for row in batch.rows[:missing]]
        self.duplicates += batch.duplicates
        return MapProgress(rows=self.outcomes.total(), bytes_read=batch.bytes_read)

    def _write_row(self, row: list[str]) -> None:
        writer = self._quoting if "\r" in "".join(row) else self._plain
        writer.writerow(row)


async def map_csv(
    rows: CsvRows,
    columns: Columns,
    target: TextIO,
    *,
    client: UID2Client,
    on_progress: Callable[[MapProgress], object] | None = None,
) -> MapSummary:
    """Write every row with its raw UID behind it.

    The rows keep their order and their values. Batches of ``client.max_batch_size``
    identities are asked about, up to 20 at once; an identity that was met before, in
    whatever spelling, is not asked about again while it is remembered.

    Args:
        rows: The input, its header read.
        columns: Where the identities stand.
        target: Where the result goes; it is not closed.
        client: Who maps.
        on_progress: Told after each batch that was written.

    Returns:
        What was done.

    Raises:
        UID2Error: If a batch failed for good, or a row cannot be read.
        OSError: If reading or writing failed.
    """
    started = time.monotonic()
    reader = _Reader(rows, columns, client.max_batch_size)
    writer = _Writer(target, rows)
    failure: Exception | None = None
    try:
        await _run(reader, writer, client, on_progress or (lambda _: None))
    except ExceptionGroup as group:
        failure = group.exceptions[0]
    if failure is not None:
        raise failure
    return _summarize(writer, time.monotonic() - started)


async def _run(
    reader: _Reader,
    writer: _Writer,
    client: UID2Client,
    on_progress: Callable[[MapProgress], object],
) -> None:
    """Keep as many batches under way as may be, and write them in order."""
    # Beside those in the queue, the writer holds one batch and the reader another.
    under_way: _Queue = asyncio.Queue(CONCURRENCY - 2)
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_all(under_way, writer, on_progress))
        while (batch := await in_thread(reader.read)).rows:
            await under_way.put((batch, group.create_task(_ask(batch, client))))
        await under_way.put(None)


async def _write_all(
    under_way: _Queue, writer: _Writer, on_progress: Callable[[MapProgress], object]
) -> None:
    """Write batch after batch as they are answered, in the order of the input."""
    while (one := await under_way.get()) is not None:
        batch, answered = one
        await answered
        on_progress(await in_thread(partial(writer.write, batch)))


async def _ask(batch: _Batch, client: UID2Client) -> None:
    """Fill the slots of *batch*; its earlier siblings fill those that it shares."""
    answer = await client.map_identities(batch.identities)
    for slot, row in zip(batch.asked, answer.wire_rows, strict=True):
        slot.cells = _cells(row)


def _cells(row: MapRow) -> Cells:
    """Turn an answer into the four columns, in the words of the file contract."""
    if row.mapped:
        due = "" if row.r is None else str(row.r)
        return (row.u or "", row.p or "", due, MAPPED)
    return ("", "", "", (row.e or "unknown").upper())


def _summarize(writer: _Writer, seconds: float) -> MapSummary:
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
        duplicates=writer.duplicates,
        seconds=seconds,
        head=tuple(writer.head),
    )
