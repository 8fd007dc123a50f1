"""Parquet files that get columns appended; it needs the extra ``arrow`` (pyarrow)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO, Final, TextIO, TypeVar

from uid2_async.cli.row_files import Shape, Work
from uid2_async.errors import InputError

__all__ = ["ParquetTable"]

T = TypeVar("T")

CHUNK_ROWS: Final = 65_536
_BUFFER_BYTES: Final = 1024 * 1024


class ParquetTable:
    """A Parquet file, read a record batch at a time.

    Columns keep their types, and the file its metadata. Each batch becomes a row group.
    """

    def __init__(self, stream: BinaryIO, name: str, shape: Shape) -> None:
        """Read the schema.

        Args:
            stream: The file; it is not closed.
            name: What messages call it.
            shape: The columns.

        Raises:
            InputError: If pyarrow is missing, the file is none of Parquet, or its
                columns do not fit.
        """
        # pyarrow comes without types: as Any, it is typed alike with and without it.
        self._arrow: Any = _load("pyarrow")
        self._parquet: Any = _load("pyarrow.parquet")
        self._name = name
        self._file: Any = self._read(lambda: self._open(stream))
        self._schema: Any = self._file.schema_arrow
        self._at = shape.find(self._schema.names)
        for at in self._at:
            self._require_text(self._schema.field(at))
        self._width = len(self._schema)
        types = {str: self._arrow.string(), int: self._arrow.int32()}
        for column, kind in shape.added.items():
            field = self._arrow.field(column, types[kind])
            self._schema = self._schema.append(field)

    def _open(self, stream: BinaryIO) -> Any:
        """Open the file so that no row group has to fit into memory."""
        return self._parquet.ParquetFile(
            stream, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )

    def rewrite(self, out: TextIO, work: Work) -> None:
        """Write all rows to *out*, as bytes, with what *work* says behind them.

        Raises:
            InputError: If the file cannot be read to its end.
        """
        batches = self._file.iter_batches(batch_size=CHUNK_ROWS)
        with self._parquet.ParquetWriter(out.buffer, self._schema) as writer:
            while (batch := self._read(lambda: next(batches, None))) is not None:
                if batch.num_rows:
                    writer.write_batch(self._extend(batch, work))

    def _extend(self, batch: Any, work: Work) -> Any:
        """Append the new columns to a batch."""
        values = [
            [one or "" for one in batch.column(at).to_pylist()] for at in self._at
        ]
        added = [
            self._arrow.array(cells, type=self._schema.field(self._width + at).type)
            for at, cells in enumerate(zip(*work(values), strict=True))
        ]
        return self._arrow.RecordBatch.from_arrays(
            [*batch.columns, *added], schema=self._schema
        )

    def _require_text(self, field: Any) -> None:
        """Refuse a column of numbers or bytes, in which there is no token."""
        types = self._arrow.types
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if not (
            types.is_string(kind)
            or types.is_large_string(kind)
            or types.is_string_view(kind)
        ):
            raise InputError(
                f"{self._name}: the column '{field.name}' is no text, but {kind}.",
                hint="Name a column of strings.",
            )

    def _read(self, call: Callable[[], T]) -> T:
        """Make one call that reads; what Arrow says of it might show data."""
        try:
            return call()
        except (self._arrow.ArrowException, OSError):
            pass
        raise InputError(
            f"{self._name} cannot be read as Parquet.",
            hint="Is it whole, and is it Parquet?",
        )


def _load(module: str) -> Any:
    """Import a module of pyarrow."""
    try:
        return import_module(module)
    except ImportError:
        pass
    raise InputError(
        "Parquet needs pyarrow, which is not installed.",
        hint="pip install 'uid2-async[arrow]'",
    )
