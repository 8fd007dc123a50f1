"""The kinds of DataFrames: how a job reads their columns and appends new ones."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from types import FunctionType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import attrs

from uid2_async._private import printable
from uid2_async.bulk.arrow import (
    ArrowOutput,
    ArrowReader,
    load_arrow,
    require_text,
    take_rows,
    writing,
)
from uid2_async.bulk.columns import find_wanted
from uid2_async.bulk.paths import Content, FileFormatOptions, Format, load_extra
from uid2_async.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# Converting this many values holds the GIL for less than 5 ms.
_PIECE_ROWS: Final = 10_000

NAME: Final = "The frame"
"""The name of a frame in error messages."""


class Frame:
    """A frame that :func:`~uid2_async.bulk.jobs.map_table` can read and extend.

    Its columns are converted one at a time.

    Attributes:
        labels: The labels of the columns. Those of pandas may have any type.
        rows: The number of rows, or None if it is unknown.
        explode: Whether rows may be repeated.
    """

    labels: Sequence[Hashable]
    rows: int | None
    explode: bool = False
    _output: Any = None

    @property
    def header(self) -> list[str]:
        """The labels as text."""
        return list(map(str, self.labels))

    def open_reader(self) -> ArrowReader:
        """Return a reader of the frame's rows."""
        return _FrameReader(self)

    def open_output(
        self, reader: Any, options: FileFormatOptions, added: Mapping[str, Content]
    ) -> ArrowOutput:
        """Return an output that collects the columns *added*."""
        del reader
        self._output = output = _AddedColumns(options, added)
        return output

    def result(self) -> Any:
        """Return the frame with its new columns. Blocks."""
        output = self._output
        return _returning(lambda: self.extend(output.table(), output.repeat))

    def rehearse(self, reader: ArrowReader, added: Mapping[str, Content]) -> None:
        """Return no rows, so that what fails does so before any answer is paid for."""
        sample, rows = _returning(self.no_rows), reader.no_rows()
        output = sample.open_output(reader, reader.options, added)
        if rows is not None:
            columns = dict.fromkeys(added, ())
            output.write(output.format(rows, columns, [] if self.explode else None))
        output.finish(None)
        sample.result()

    def read(self, positions: Sequence[int]) -> tuple[Any, Sequence[int]]:
        """Read the columns at *positions*. Blocks.

        Return a RecordBatchReader and the positions of the columns in it.
        """
        arrow = load_arrow()
        columns = []
        for at in positions:
            column = _converting(partial(self.column, at), self.labels[at])
            # A column without any value has an arbitrary type, such as double.
            empty = column.null_count == len(column)
            columns.append(arrow.nulls(len(column)) if empty else column)
        names = [str(self.labels[at]) for at in positions]
        table = arrow.Table.from_arrays(columns, names)
        return table.to_reader(max_chunksize=_PIECE_ROWS), range(len(positions))

    def column(self, at: int) -> Any:
        """Convert a column to Arrow."""
        raise NotImplementedError

    def no_rows(self) -> Frame:
        """Return the frame without its rows."""
        raise NotImplementedError

    def extend(self, added: Any, repeat: Sequence[int] | None) -> Any:
        """Return the frame with the columns of the table *added*. Blocks.

        *repeat* has the row of the frame for each row of the result, or is None if they
        correspond.
        """
        raise NotImplementedError


class _ArrowTable(Frame):
    """A pyarrow Table, or an object that was converted to one."""

    def __init__(self, table: pa.Table, back: Callable[[pa.Table], Any]) -> None:
        """Store the table. *back* converts the result to the caller's type."""
        self.labels = table.column_names
        self.rows: int | None = table.num_rows
        self._table = table
        self._back = back

    def column(self, at: int) -> Any:
        return self._table.column(at)

    def no_rows(self) -> Frame:
        return _ArrowTable(self._table.slice(0, 0), self._back)

    def extend(self, added: Any, repeat: Sequence[int] | None) -> Any:
        table = self._table
        if repeat is not None:
            rows = load_arrow().array(repeat, "int64")
            columns = [take_rows(column, rows) for column in table.columns]
            table = load_arrow().Table.from_arrays(columns, schema=table.schema)
        for field in added.schema:
            table = table.append_column(field, added.column(field.name))
        return self._back(table)


class _Pandas(Frame):
    """A frame of pandas or modin.

    Does not use narwhals, which rejects repeated names and drops ``attrs``.
    """

    def __init__(self, frame: Any) -> None:
        self.labels = frame.columns.tolist()
        self.rows: int | None = len(frame)
        self._frame = frame

    def column(self, at: int) -> Any:
        arrow, series = load_arrow(), self._frame.iloc[:, at]
        if hasattr(series, "cat"):
            codes = series.cat.codes.to_numpy()
            categories = _by_pieces(series.cat.categories.to_series(), self.labels[at])
            return arrow.DictionaryArray.from_arrays(
                arrow.array(codes, mask=codes < 0), categories.combine_chunks()
            )
        return _by_pieces(series, self.labels[at])

    def no_rows(self) -> Frame:
        # Rows of an empty frame can be repeated whatever their types are.
        return _Pandas(self._frame.iloc[[] if self.explode else slice(0)])

    def extend(self, added: Any, repeat: Sequence[int] | None) -> Any:
        frame = self._frame
        # Without arguments it makes a copy, which costs nothing since pandas 3.
        frame = frame.assign() if repeat is None else frame.iloc[repeat].copy()
        levels = frame.columns.nlevels
        for name, column in zip(added.column_names, added, strict=True):
            label = name if levels == 1 else (name, *[""] * (levels - 1))
            frame[label] = _to_pandas_array(column)
        return frame


class _Narwhals(Frame):
    """A frame of another library, in memory."""

    def __init__(self, frame: Any, back: Callable[[Any], Any]) -> None:
        """Store the frame. *back* converts the result to the caller's type."""
        self.labels = frame.columns
        self.rows: int | None = len(frame)
        self._frame = frame
        self._back = back

    def column(self, at: int) -> Any:
        return self._frame.get_column(self.labels[at]).to_arrow()

    def no_rows(self) -> Frame:
        return _Narwhals(self._frame.head(0), self._back)

    def extend(self, added: Any, repeat: Sequence[int] | None) -> Any:
        nw, frame = load_frames()[1], self._frame
        if repeat is not None:
            frame = frame[repeat]
        columns = nw.from_arrow(added, backend=frame.implementation)
        joined = nw.concat([frame, columns], how="horizontal")
        return self._back(joined)


class _Stream(Frame):
    """A RecordBatchReader, all of whose columns are read."""

    rows = None

    def __init__(self, reader: Any, *, rereadable: bool) -> None:
        """Store the reader. If it must be read twice, copy it to a private file."""
        self.labels: Sequence[Hashable] = reader.schema.names
        self._reader = reader
        self._copy: BinaryIO | None = None
        if rereadable:
            self._copy = temporary_file()
            ipc = load_arrow("pyarrow.ipc")
            with ipc.new_stream(self._copy, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)

    def read(self, positions: Sequence[int]) -> tuple[Any, Sequence[int]]:
        """Return a reader of all columns."""
        if self._copy is not None:
            self._copy.seek(0)
            self._reader = load_arrow("pyarrow.ipc").open_stream(self._copy)
        return self._reader, positions

    def open_output(
        self, reader: Any, options: FileFormatOptions, added: Mapping[str, Content]
    ) -> ArrowOutput:
        """Return an output that collects all columns."""
        self._output = output = _Spool(reader, options, added)
        return output

    def no_rows(self) -> Frame:
        """Return the stream, none of which is read."""
        return self

    def result(self) -> Any:
        """Return a reader of all columns."""
        return self._output.reader()


def load_frames() -> list[Any]:
    """Import pyarrow, and the stable version of narwhals' API."""
    what = "DataFrames require the extra 'frames'"
    names = ("narwhals", "pyarrow", "narwhals.stable.v2")
    return load_extra("frames", what, *names)[1:]


def open_frame(frame: Any, *, rereadable: bool) -> Frame:
    """Detect the type of *frame*. Blocks, because a lazy frame is collected."""
    arrow, nw = load_frames()
    if isinstance(frame, arrow.Table):
        return _ArrowTable(frame, lambda table: table)
    if isinstance(frame, arrow.RecordBatch):
        return _ArrowTable(arrow.table(frame), partial(_to_batch, arrow))
    if isinstance(frame, arrow.RecordBatchReader):
        return _Stream(frame, rereadable=rereadable)
    return _converting(partial(_open_known, frame, nw))


def _open_known(frame: Any, nw: Any) -> Frame:
    """Detect which other library *frame* belongs to."""
    is_pandas = nw.dependencies.is_pandas_dataframe
    if is_pandas(frame) or nw.dependencies.is_modin_dataframe(frame):
        return _Pandas(frame)
    known = nw.from_native(frame, pass_through=True)
    if isinstance(known, nw.DataFrame):
        return _Narwhals(known, lambda result: result.to_native())
    if isinstance(known, nw.LazyFrame):
        return _collect(known)
    return _read_stream(frame)


def _to_batch(arrow: Any, table: Any) -> Any:
    """Return a table as one record batch."""
    columns = [column.combine_chunks() for column in table.columns]
    return arrow.RecordBatch.from_arrays(columns, schema=table.schema)


def _collect(lazy: Any) -> Frame:
    """Collect a lazy frame."""
    kind = lazy.implementation
    if kind.is_spark_like():
        raise InputError(
            "map_frame would collect a DataFrame of Spark on the driver.",
            hint="Use uid2_async.integrations.spark.map_dataframe() instead.",
        )
    if kind.is_duckdb():
        return _read_relation(lazy.to_native())
    return _Narwhals(
        lazy.collect(),
        lambda result: result.lazy(None if kind.is_polars() else kind).to_native(),
    )


def _read_relation(relation: Any) -> Frame:
    """Run the query of a relation of DuckDB."""
    for name, kind in zip(relation.columns, relation.types, strict=True):
        inexact = _INEXACT.intersection(_type_names(kind))
        if inexact:
            raise InputError(
                f"The column '{printable(name)}' has the type {min(inexact).upper()}, "
                "whose values Arrow would change.",
                hint="Cast it to VARCHAR in the query.",
            )
    return _ArrowTable(relation.to_arrow_table(), partial(_to_relation, relation))


_INEXACT: Final = frozenset({"bit", "time with time zone", "uhugeint"})
"""The types that DuckDB converts to types of Arrow with fewer values."""


def _type_names(kind: Any) -> Iterator[str]:
    """Yield the names of a type of DuckDB and of the types in it."""
    yield kind.id
    children: Any = ()
    with suppress(Exception):  # a type that is not nested has none
        children = kind.children
    for _, child in children:
        if isinstance(child, type(kind)):
            yield from _type_names(child)


def _to_relation(before: Any, table: Any) -> Any:
    """Return a table as a relation of the connection of *before*.

    Only a query reaches that connection. It finds the table as a variable of the
    function that runs it, unless the database has one of that name. So its name is
    random.

    Arrow has fewer types than DuckDB, and names may be repeated. So each column is
    found by its position, and cast to its original type.
    """
    found, view = f"uid2_{token_hex()}", f"uid2_{token_hex()}"
    names = [*before.columns, *table.column_names[len(before.columns) :]]
    columns = [f"c{at}" for at in range(len(names))]
    table = table.rename_columns(columns)
    for at, kind in enumerate(before.types):
        columns[at] = f"CAST(c{at} AS {kind})"
    listed = ", ".join(
        f"{one} AS {_quoted(name)}" for one, name in zip(columns, names, strict=True)
    )
    query = f"SELECT {listed} FROM {found}"  # noqa: S608 - quoted
    run = FunctionType(_query.__code__, {**globals(), found: table})
    mapped = _attempt(
        lambda: run(before, view, query),
        "The rows cannot be returned as a relation of the same connection",
        hint="Pass relation.to_arrow_table() instead, or allow the connection to query "
        "variables of Python: python_enable_replacements, enable_external_access.",
    )
    # Before DuckDB 2, each query leaves a view of the relation that it was called on.
    with suppress(Exception):
        before.query(view, f"DROP VIEW IF EXISTS {view}")
    return mapped


def _query(relation: Any, view: str, query: str) -> Any:
    """Run a query whose table is among the global variables of this function."""
    return relation.query(view, query)


def _quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _read_stream(frame: Any) -> Frame:
    """Read an object that exports an Arrow stream."""
    if hasattr(frame, "__arrow_c_stream__"):
        # A single column is a stream of something other than rows.
        with suppress(Exception):
            reader = load_arrow().RecordBatchReader.from_stream(frame)
            back = getattr(type(frame), "from_arrow", lambda table: table)
            return _ArrowTable(reader.read_all(), back)
    raise InputError(
        f"map_frame() requires a DataFrame, not {type(frame).__name__}.",
        hint="Pass a DataFrame of pandas or polars, a relation of DuckDB, or a pyarrow "
        "Table or RecordBatchReader.",
    )


# --- Reading and collecting -----------------------------------------------------------


class _FrameReader(ArrowReader):
    """Reads the requested columns of a frame."""

    def __init__(self, frame: Frame) -> None:
        self.name = NAME
        self.header = frame.header
        self.options = FileFormatOptions(format=Format.ARROW)
        self._frame = frame
        self._size = self._total = frame.rows or 0
        self._loaded: Any = None
        self._at = self._rows = 0

    def select(
        self, columns: Sequence[int], keys: Sequence[str] = (), added: Any = ()
    ) -> None:
        wanted = find_wanted(self.header, columns, keys, added, name=NAME)
        indexes = list(dict.fromkeys(wanted.values()))
        self._source, read = self._frame.read(indexes)
        positions = dict(zip(indexes, read, strict=True))
        self._wanted = {one: positions[index] for one, index in wanted.items()}
        self.schema = self._source.schema
        for one in columns:
            require_text(self.schema.field(self._wanted[one]))
        self._batches = self._all_batches(0)
        self._frame.rehearse(self, added)

    def _from_row(self, skip: int) -> Any:
        del skip
        return self._source

    def close(self) -> None:
        """Close nothing, because the caller owns the frame."""


class _AddedColumns(ArrowOutput):
    """Collects the columns to append, in memory.

    *repeat* has the row of the frame for each row, or is None if they correspond.
    """

    def __init__(
        self, options: FileFormatOptions, added: Mapping[str, Content]
    ) -> None:
        written = attrs.evolve(options, format=Format.ARROW)
        super().__init__(None, written, Path(), added=added)
        self.repeat: list[int] | None = None
        self._seen = 0

    def format(
        self,
        rows: Any,
        columns: Mapping[str, Sequence[Any]],
        repeat: Sequence[int] | None = None,
    ) -> Any:
        """Return the batch, and the positions of repeated rows."""
        positions = None
        if repeat is not None:
            positions = [self._seen + row for row in repeat]
            self._seen += rows.count
        return super().format(None, columns), positions

    def write(self, *formatted: Any) -> None:
        """Store results of :meth:`format`."""
        for batch, positions in formatted:
            self._batches.append(batch)
            if positions is not None:
                self.repeat = self.repeat or []
                self.repeat += positions

    def sync(self) -> int:
        """Do nothing, because nothing is on disk."""
        return 0

    def finish(self, target: Path | None) -> None:
        """Do nothing."""

    def table(self) -> Any:
        """Return all columns."""
        table = load_arrow().Table.from_batches(self._batches, self._schema)
        return table.combine_chunks()


class _Spool(ArrowOutput):
    """Collects all columns of a stream in a private file without a name."""

    def __init__(
        self, reader: Any, options: FileFormatOptions, added: Mapping[str, Content]
    ) -> None:
        written = attrs.evolve(options, format=Format.ARROW)
        super().__init__(reader, written, Path(), added=added, resumable=False)
        self._file = temporary_file()
        self._writer = load_arrow("pyarrow.ipc").new_stream(self._file, self._schema)

    def _flush(self) -> None:
        """Write the collected rows in few batches."""
        table = load_arrow().Table.from_batches(self._batches, self._schema)
        # It cannot combine all kinds of dictionaries.
        with suppress(load_arrow().ArrowException):
            table = table.combine_chunks()
        if table.num_rows:
            writing(partial(self._writer.write_table, table))
        self._batches.clear()

    def finish(self, target: Path | None) -> None:
        """Write the remaining rows."""
        del target
        self._flush()
        writing(self._writer.close)

    def reader(self) -> Any:
        """Return a reader of all rows, which owns the file."""
        file = self._file
        assert file is not None  # noqa: S101 - it has not been closed
        file.seek(0)
        rows = load_arrow("pyarrow.ipc").open_stream(file)
        return load_arrow().RecordBatchReader.from_batches(rows.schema, rows)


# --- Conversions ----------------------------------------------------------------------


def _converting(call: Callable[[], T], label: Hashable = None) -> T:
    """Run one call of a DataFrame library that reads a frame, or one column of it."""
    what, hint = f"The column '{printable(str(label))}'", "Cast it to strings."
    if label is None:
        what = "The frame"
        hint = (
            "Run its query separately to see what fails. With DuckDB, fetch all other "
            "results of the connection first."
        )
    return _attempt(call, f"{what} cannot be converted to Arrow", hint=hint)


def _returning(call: Callable[[], T]) -> T:
    """Run one call of a DataFrame library that makes the result."""
    return _attempt(
        call,
        "The rows cannot be returned as the same kind of frame",
        hint="Cast the columns that are neither text nor numbers, or pass another kind "
        "of frame.",
    )


def _attempt(call: Callable[[], T], what: str, *, hint: str) -> T:
    """Make a call whose own error message may contain data."""
    try:
        return call()
    except InputError:
        raise
    # Each library has its own exceptions, and a panic of polars is not an Exception.
    except BaseException as error:  # noqa: BLE001 - as above
        kind = type(error).__name__
    raise InputError(f"{what} ({kind}).", hint=hint)


def _by_pieces(series: Any, label: Hashable) -> Any:
    """Convert a pandas series to Arrow."""
    arrow = load_arrow()
    starts = range(0, len(series), _PIECE_ROWS)
    pieces = [_piece(series.iloc[at : at + _PIECE_ROWS], at, label) for at in starts]
    chunks = [
        chunk
        for piece in pieces
        for chunk in (getattr(piece, "chunks", None) or [piece])
    ]
    types = {chunk.type for chunk in chunks if chunk.null_count < len(chunk)}
    if len(types) > 1:
        raise InputError(
            f"The column '{printable(str(label))}' has values of several types: "
            f"{', '.join(sorted(map(str, types)))}.",
            hint="Convert it to strings.",
        )
    kind = types.pop() if types else arrow.null()
    nulls = [
        arrow.nulls(len(chunk), kind) if chunk.type != kind else chunk
        for chunk in chunks
    ]
    return arrow.chunked_array(nulls, kind)


def _piece(series: Any, start: int, label: Hashable) -> Any:
    """Convert some values."""
    with suppress(Exception):
        return load_arrow().array(series, from_pandas=True)
    for at, (value, missing) in enumerate(zip(series, series.isna(), strict=True)):
        what = hint = ""
        if not (missing or isinstance(value, str)):
            what = f"not text, but {type(value).__name__}"
            hint = "Convert the column to strings, and missing values to None."
        elif not missing and any("\ud800" <= mark <= "\udfff" for mark in value):
            what = "not valid Unicode"
            hint = "Replace the lone surrogates in it."
        if what:
            raise InputError(
                f"Row {start + at} of the column '{printable(str(label))}' is {what}.",
                hint=hint,
            )
    raise InputError(f"The column '{printable(str(label))}' is not text.")


def _to_pandas_array(column: Any) -> Any:
    """Convert a column to a pandas array."""
    pandas = import_module("pandas")
    chunks = [
        chunk.slice(at, _PIECE_ROWS)
        for chunk in column.chunks
        for at in range(0, len(chunk), _PIECE_ROWS)
    ]
    if not chunks:
        return column.to_pandas().array
    return pandas.concat([one.to_pandas() for one in chunks], ignore_index=True).array


# --- Temporary files ------------------------------------------------------------------


def temporary_file() -> BinaryIO:
    """Open a private file without a name. It is closed with its last reference.

    A RecordBatchReader therefore need not be closed.
    """
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    kept = open(descriptor, "w+b", closefd=False)  # noqa: SIM115 - no path
    weakref.finalize(kept, os.close, descriptor)
    return kept
