"""Arrow: returns record batches with added columns of raw UIDs."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Sequence,
)
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    Protocol,
    TypeAlias,
    runtime_checkable,
)

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.arrow import load_arrow, require_text
from uid2_async.bulk.batches import STEP_ROWS, Chunk, IdentityColumn
from uid2_async.bulk.columns import (
    KIND_NAME,
    VALUE_NAME,
    OutcomeColumns,
    find_column,
    refuse_taken,
)
from uid2_async.bulk.mapper import BulkMapper
from uid2_async.bulk.outcomes import MAP_V3, Outcome
from uid2_async.bulk.paths import Content
from uid2_async.errors import InputError
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import KINDS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "HASH_NAME",
    "ArrowStream",
    "BatchSource",
    "ColumnNames",
    "IdentityColumns",
    "hash_identities",
    "map_batches",
]

HASH_NAME: Final = "IDENTITY_HASH"
"""The column with first-level hashes in base64, as in exports of a state."""


@runtime_checkable
class ArrowStream(Protocol):
    """An object that exports record batches through the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a capsule of the stream."""


BatchSource: TypeAlias = (
    "AsyncIterable[pa.RecordBatch] | Iterable[pa.RecordBatch] | ArrowStream"
)
"""The inputs of :func:`map_batches`."""

ColumnNames: TypeAlias = Literal["upper", "snake"]
"""The spelling of the added columns, ``PREV_UID`` or ``prev_uid``."""


async def map_batches(
    batches: BatchSource,
    *,
    mapper: BulkMapper,
    column: str | None = None,
    type: str | None = None,  # noqa: A002 - as in INPUT_TYPE
    names: ColumnNames = "upper",
) -> AsyncGenerator[pa.RecordBatch, None]:
    """Map the identities in a column of record batches.

    Each batch is returned with the same rows and columns, followed by UID, PREV_UID,
    REFRESH_FROM (a timestamp in us, UTC), UNMAPPED and ERROR. UNMAPPED is null if there
    is a UID, and otherwise ``OPTOUT``, ``INVALID IDENTIFIER`` (also for null) or
    ``INVALID INPUT TYPE``. If the operator could not be asked, ERROR names the reason,
    and UNMAPPED is null.

    The function reads ahead about as many rows as the mapper's concurrent requests can
    contain, however long the stream is.

    To stop before the end, close the generator, for example with
    ``contextlib.aclosing``.

    Args:
        batches: Record batches, as an iterable, an async iterable or a
            ``pyarrow.RecordBatchReader``. Alternatively, one object with the Arrow
            PyCapsule interface: a ``pyarrow.Table``, a DataFrame of polars or of pandas
            2.2 or later, or a relation of DuckDB. A source that is not async blocks the
            event loop while it is read.
        mapper: The mapper, which limits the number of concurrent requests.
        column: The column with the identities. Defaults to INPUT.
        type: The type of all identities: email, phone, email_hash or phone_hash.
            Defaults to the column INPUT_TYPE of each row.
        names: The spelling of the added columns.

    Yields:
        One batch for each batch of the input, in order.

    Raises:
        InputError: If pyarrow is not installed, *batches* has another type, a column is
            missing or is not text, or an added column already exists.
        AuthError: If the API key is rejected. See
            :class:`~uid2_async.bulk.mapper.Records` for other errors that end the job.

    Example:
        >>> async for batch in map_batches(file.iter_batches(), mapper=mapper):
        ...     writer.write_batch(batch)
    """
    wanted = IdentityColumns(column=column, kind=type, names=names)
    source = _BatchSource(_read_batches(batches), wanted)
    table = OutcomeBuffer(wanted.outcome_columns())
    async with mapper.map_source(source) as records:
        while (outcomes := await records.next_outcomes()) is not None:
            table.append(outcomes)
            while source.waiting and source.waiting[0].num_rows <= table.rows:
                yield table.take(source.waiting.popleft())
    # Batches without rows may follow the last row.
    for batch in source.waiting:
        yield table.take(batch)


@attrs.frozen(kw_only=True)
class IdentityColumns:
    """The columns to read and to add.

    Attributes:
        column: The name of the column with the identities, or None for INPUT.
        kind: The type of all identities, or None to read INPUT_TYPE.
        names: The spelling of the added columns.

    Raises:
        InputError: If *kind* or *names* has an unknown value.
    """

    column: str | None
    kind: str | None
    names: ColumnNames

    def __attrs_post_init__(self) -> None:
        """Validate *kind* and *names*."""
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"type must be one of {', '.join(KINDS)}.")
        if self.names not in {"upper", "snake"}:
            raise InputError("names must be 'upper' or 'snake'.")

    def outcome_columns(self) -> OutcomeColumns:
        """Return the object that creates the added columns."""
        return OutcomeColumns(snake_case=self.names == "snake")

    def find(self, header: Sequence[str]) -> tuple[int, int | None]:
        """Return the positions of the identity and of its type, if that is read.

        An added column that already exists raises an InputError.
        """
        refuse_taken(header, self.outcome_columns().contents)
        return self.locate(header)

    def locate(self, header: Sequence[str]) -> tuple[int, int | None]:
        """Do the same without adding columns."""
        hint = "Pass column=, or rename the column with the identities to INPUT."
        value = find_column(header, self.column or VALUE_NAME, hint=hint)
        if self.kind is not None:
            return value, None
        hint = "Pass type= if all rows have the same type, or add a column INPUT_TYPE."
        return value, find_column(header, KIND_NAME, hint=hint)


class _BatchSource:
    """The identities of record batches, in chunks.

    *waiting* are the batches whose rows have not all been answered, in order.
    """

    def __init__(
        self, batches: AsyncIterable[pa.RecordBatch], wanted: IdentityColumns
    ) -> None:
        self.waiting: deque[pa.RecordBatch] = deque()
        self._source = aiter(batches)
        self._wanted = wanted
        self._values: Any = None
        self._kinds: Any = None
        self._at = 0

    async def load(self) -> bool:
        async for batch in self._source:
            value, kind = self._wanted.find(batch.schema.names)
            self._values = _text(batch, value)
            self._kinds = None if kind is None else _text(batch, kind)
            self._at = 0
            self.waiting.append(batch)
            return True
        return False

    def take(self, *, partial: bool) -> Chunk | None:  # noqa: ARG002 - batches end where they end
        at = self._at
        if self._values is None or at >= len(self._values):
            return None
        kinds = self._kinds if self._kinds is None else self._kinds.slice(at, STEP_ROWS)
        column = _identity_column(
            self._wanted, self._values.slice(at, STEP_ROWS), kinds
        )
        self._at += len(column)
        return Chunk(None, len(column), [column])


def hash_identities(batch: pa.RecordBatch, wanted: IdentityColumns) -> pa.RecordBatch:
    """Return INPUT_TYPE and IDENTITY_HASH of each row, as in a state.

    Both are null if there is no valid identity.
    """
    value, kind_at = wanted.locate(batch.schema.names)
    kinds = None if kind_at is None else _text(batch, kind_at)
    column = _identity_column(wanted, _text(batch, value), kinds)
    types: list[str | None] = [None] * len(column)
    hashes: list[str | None] = [None] * len(column)
    for kind, rows, identities in column.identities_by_kind(MAP_V3):
        for row, identity in zip(rows, identities, strict=True):
            if identity is not None:
                types[row], hashes[row] = kind.key, base64.encode_text(identity)
    arrow = load_arrow()
    arrays = [arrow.array(cells, arrow.string()) for cells in (types, hashes)]
    return arrow.RecordBatch.from_arrays(arrays, names=[KIND_NAME, HASH_NAME])


def _identity_column(
    wanted: IdentityColumns, values: pa.Array, kinds: pa.Array | None
) -> IdentityColumn:
    """Return the identities of some rows. *kinds* is None if all have the same type."""
    if kinds is None:
        return IdentityColumn(wanted.kind or "", _strings(values))
    words = [(kind or "").strip().lower() for kind in _strings(kinds)]
    return IdentityColumn(words, _strings(values))


def _text(batch: pa.RecordBatch, at: int) -> pa.Array:
    """Return a column of strings. Raise if it contains numbers or bytes."""
    require_text(batch.schema.field(at))
    return batch.column(at)


def _strings(array: pa.Array) -> list[str | None]:
    """Convert a part of a column to str, checking that it is UTF-8, unlike Arrow."""
    try:
        strings: list[str | None] = array.to_pylist()
    except UnicodeDecodeError:
        pass
    else:
        return strings
    raise InputError(
        "A column of identities is not UTF-8.", hint="Convert it to UTF-8."
    )


async def _read_batches(source: BatchSource) -> AsyncIterator[pa.RecordBatch]:
    """Yield the record batches of any source."""
    kind = load_arrow().RecordBatch
    if isinstance(source, AsyncIterable):
        async for batch in source:
            if not isinstance(batch, kind):
                raise _wrong_source(batch)
            yield batch
        return
    for batch in _open_source(source):
        if not isinstance(batch, kind):
            raise _wrong_source(batch)
        yield batch


def _open_source(source: object) -> Any:
    """Return an iterable of what should be record batches.

    The Arrow interface is tried first, because a table would iterate over its columns,
    and a frame over their names.
    """
    arrow = load_arrow()
    if isinstance(source, ArrowStream):
        # Arrow rejects a stream of something other than rows, such as a single
        # column.
        with suppress(arrow.ArrowException):
            return arrow.RecordBatchReader.from_stream(source)
    elif isinstance(source, Iterable):
        return source
    raise _wrong_source(source)


def _wrong_source(value: object) -> InputError:
    """Return the error for an object that is not a record batch, without quoting it."""
    return InputError(
        f"map_batches() requires pyarrow record batches, not {type(value).__name__}.",
        hint="Pass a pyarrow.Table, a RecordBatchReader, a polars or pandas DataFrame, "
        "or an iterable of record batches, such as table.to_batches().",
    )


class OutcomeBuffer:
    """Collects outcomes until they make up a batch. *rows* have not been taken yet."""

    def __init__(self, columns: OutcomeColumns) -> None:
        """Collect the outcomes in these columns."""
        self.rows: int = 0
        self._columns = columns
        self._arrow = load_arrow()
        self._pieces: dict[str, list[pa.Array]] = {
            name: [] for name in columns.contents
        }

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Add the outcomes of more rows."""
        for name, values in self._columns.make([outcomes])[0].items():
            self._pieces[name].append(self._array(name, values))
        self.rows += len(outcomes)

    def take(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Extend *batch* with the added outcomes, one for each of its rows."""
        schema, arrays = batch.schema, batch.columns
        for name, pieces in self._pieces.items():
            # An empty piece provides the type if there are no others.
            array = self._arrow.concat_arrays(pieces or [self._array(name, [])])
            schema = schema.append(self._arrow.field(name, array.type))
            arrays.append(array.slice(0, batch.num_rows))
            pieces[:] = [array.slice(batch.num_rows)]
        self.rows -= batch.num_rows
        return self._arrow.RecordBatch.from_arrays(arrays, schema=schema)

    def _array(self, name: str, values: Sequence[Any]) -> pa.Array:
        """Create an array from the values of one column."""
        if self._columns.contents[name] is Content.TEXT:
            return self._arrow.array(values, self._arrow.string())
        seconds = self._arrow.array(values, self._arrow.timestamp("s", tz="UTC"))
        return seconds.cast(self._arrow.timestamp("us", tz="UTC"))


strip_tracebacks(globals())
