"""Parquet and Arrow files, read by record batches; all other columns pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, TypeVar

from uid2_async.bulk.files.arrow_library import load_arrow, reading, require_text
from uid2_async.bulk.files.columns import find_column
from uid2_async.bulk.files.formats import Format

__all__ = ["ArrowChunk", "ArrowReader"]

T = TypeVar("T")

_BATCH_ROWS: Final = 10_000
# So that no row group has to fit into memory.
_BUFFER_BYTES: Final = 1024 * 1024


class ArrowChunk:
    """Some rows of record batches.

    Attributes:
        rows: How many.
        end: How many rows of the file are before their end.
        batch: The rows.
    """

    __slots__ = ("_wanted", "batch", "end", "rows")

    def __init__(self, batch: Any, end: int, wanted: Mapping[str, int]) -> None:
        """Hold the rows; *wanted* are the places of the columns that are read."""
        self.rows: int = batch.num_rows
        self.end: int = end
        self.batch: Any = batch
        self._wanted = wanted

    def values(self, column: str) -> list[str]:
        """See :meth:`~uid2_async.bulk.files.chunk.Chunk.values`."""
        return [
            "" if one is None else str(one)
            for one in self.batch.column(self._wanted[column]).to_pylist()
        ]


class ArrowReader:
    """See :class:`~uid2_async.bulk.files.chunk.Reader`.

    Attributes:
        schema: The columns and their types.
        header: The names of the columns.
        bytes_read: About how much of the file has been read.
    """

    def __init__(self, stream: BinaryIO, *, name: str, file_format: Format) -> None:
        """Read the schema.

        Raises:
            InputError: If it cannot be read, or pyarrow is missing.
        """
        load_arrow()
        self._name = name
        self._format = file_format
        self._stream = stream
        self._file: Any = self._read(self._open)
        parquet = file_format is Format.PARQUET
        self.schema: Any = self._file.schema_arrow if parquet else self._file.schema
        self.header: Sequence[str] = self.schema.names
        self._size = stream.seek(0, 2)
        self._total = self._read(self._count)
        self._batches: Iterator[Any] = self._all_batches(0)
        self._loaded: Any = None
        self._at = 0
        self._rows = 0
        self._wanted: dict[str, int] = {}

    def _open(self) -> Any:
        """Open the file."""
        if self._format is Format.PARQUET:
            parquet = load_arrow("pyarrow.parquet")
            return parquet.ParquetFile(
                self._stream, buffer_size=_BUFFER_BYTES, pre_buffer=False
            )
        return load_arrow("pyarrow.ipc").open_file(self._stream)

    def _count(self) -> int:
        """Count the rows."""
        if self._format is Format.PARQUET:
            return int(self._file.metadata.num_rows)
        return int(self._file.count_rows())

    @property
    def bytes_read(self) -> int:
        """About how much of the file has been read."""
        return self._size * self._rows // self._total if self._total else 0

    def want(self, columns: Sequence[str], keys: Sequence[str] = ()) -> None:
        """See :meth:`Reader.want`.

        Raises:
            InputError: If one is missing, or one of *columns* is no text.
        """
        hint = "Write its name as the schema does."
        self._wanted = {
            name: find_column(self.header, name, hint=hint)
            for name in (*columns, *keys)
        }
        for name in columns:
            require_text(self.schema.field(self._wanted[name]), name=self._name)

    def seek(self, position: object) -> None:
        """See :meth:`Reader.seek`."""
        assert isinstance(position, int)  # noqa: S101 - ArrowChunk.end
        self._batches = self._all_batches(position)
        self._rows = position
        self._loaded = None

    def _all_batches(self, skip: int) -> Iterator[Any]:
        """Give all record batches behind the first *skip* rows."""
        for batch in self._from_row(skip):
            if batch.num_rows:
                yield batch

    def _from_row(self, skip: int) -> Iterator[Any]:
        """Give record batches; whole row groups before *skip* are not read."""
        if self._format is Format.PARQUET:
            metadata = self._file.metadata
            group = 0
            while group < metadata.num_row_groups:
                rows = metadata.row_group(group).num_rows
                if rows > skip:
                    break
                skip -= rows
                group += 1
            batches: Iterator[Any] = self._file.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=range(group, metadata.num_row_groups),
            )
        else:
            count = self._file.num_record_batches
            batches = (self._file.get_batch(at) for at in range(count))
        for batch in batches:
            yield batch.slice(skip)  # which is empty, where all of it is before
            skip = max(0, skip - batch.num_rows)

    def load(self) -> bool:
        """See :meth:`Reader.load`."""
        if self._loaded is None:
            self._loaded = self._read(lambda: next(self._batches, None))
            self._at = 0
        return self._loaded is not None

    def take(self, rows: int) -> ArrowChunk | None:
        """See :meth:`Reader.take`."""
        batch = self._loaded
        if batch is None:
            return None
        part = batch.slice(self._at, rows)
        self._at += part.num_rows
        self._rows += part.num_rows
        if self._at >= batch.num_rows:
            self._loaded = None
        return ArrowChunk(part, self._rows, self._wanted)

    def _read(self, call: Callable[[], T]) -> T:
        """Make one call that reads."""
        return reading(call, name=self._name, what=self._format)

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self._stream.close()
