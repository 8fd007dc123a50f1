"""Parquet and Arrow files, written in parts: one is whole only when it is closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from uid2_async.bulk.files.arrow_library import load_arrow
from uid2_async.bulk.files.formats import Format, Layout
from uid2_async.bulk.files.output import beside, place
from uid2_async.bulk.outcome_columns import Content
from uid2_async.bulk.resume.private_files import open_private, replace, sync_file

__all__ = ["ArrowOutput"]

_MICROSECONDS: Final = 1_000_000


class ArrowOutput:
    """See :class:`~uid2_async.bulk.files.output.Output`.

    Attributes:
        save_rows: How many rows a part has, and a row group in the end.
    """

    save_rows: int = 65_536

    def __init__(
        self, schema: Any, layout: Layout, part: Path, *, remembered: Any = None
    ) -> None:
        """Write behind the parts that are *remembered*.

        Args:
            schema: The input's.
            layout: How rows are written down.
            part: How the parts' names begin.
            remembered: How many parts there are.
        """
        self._arrow = load_arrow()
        self._format = layout.format
        self._part = part
        self._parts = int(remembered or 0)
        self._batches: list[Any] = []
        self._instants = layout.iso is not False
        self._width = len(schema)
        for name, content in layout.added.items():
            schema = schema.append(self._arrow.field(name, self._type(content)))
        self._schema = schema

    def _type(self, content: Content) -> Any:
        """Choose the type of a column."""
        if content is Content.TEXT:
            return self._arrow.string()
        if self._instants:
            return self._arrow.timestamp("us", "UTC")
        return self._arrow.int64()

    def format(
        self,
        chunk: Any,
        columns: Mapping[str, Sequence[Any]],
        rows: Sequence[int] | None = None,
    ) -> Any:
        """See :meth:`Output.format`."""
        batch = chunk.batch
        if rows is not None:
            batch = batch.take(self._arrow.array(rows, self._arrow.int64()))
        added = [
            self._array(columns[field.name], field.type)
            for field in list(self._schema)[self._width :]
        ]
        return self._arrow.RecordBatch.from_arrays(
            [*batch.columns, *added], schema=self._schema
        )

    def _array(self, cells: Sequence[Any], kind: Any) -> Any:
        """Make the array of a column."""
        if self._arrow.types.is_timestamp(kind):
            cells = [None if one is None else one * _MICROSECONDS for one in cells]
        return self._arrow.array(cells, kind)

    def write(self, formatted: Any) -> None:
        """See :meth:`Output.write`."""
        self._batches.append(formatted)

    def sync(self) -> int:
        """See :meth:`Output.sync`: what has been written becomes a part."""
        if self._batches:
            path = self._name(self._parts)
            path.unlink(missing_ok=True)
            with self._writer(path) as writer:
                writer.write_table(
                    self._arrow.Table.from_batches(self._batches, self._schema)
                )
            self._batches.clear()
            self._parts += 1
        return self._parts

    def _name(self, number: int) -> Path:
        """Name a part."""
        return self._part.with_name(f"{self._part.name}.{number:05}")

    def _writer(self, path: Path) -> _Writer:
        """Open a file for writing tables."""
        return _Writer(path, self._schema, self._format)

    def finish(self, target: Path | None) -> None:
        """See :meth:`Output.finish`."""
        assert target is not None  # noqa: S101 - such files are not streamed
        parts = [self._name(number) for number in range(self._parts)]
        if len(parts) == 1:
            if parts[0].exists():
                place(parts[0], target)
            # Else it was killed behind the rename: the output is there.
            return
        unfinished = beside(target)
        with self._writer(unfinished) as writer:
            for part in parts:
                for table in self._tables(part):
                    writer.write_table(table)
        replace(unfinished, target)

    def _tables(self, part: Path) -> list[Any]:
        """Read a part."""
        if self._format is Format.PARQUET:
            return [load_arrow("pyarrow.parquet").read_table(part)]
        with load_arrow("pyarrow.ipc").open_file(str(part)) as file:
            return [file.read_all()]

    def close(self) -> None:
        """See :meth:`Output.close`; a part that was not saved is dropped."""
        self._batches.clear()


class _Writer:
    """A private file of tables, which is on the disk when the block ends."""

    def __init__(self, path: Path, schema: Any, file_format: Format) -> None:
        self._file = os.fdopen(open_private(path), "wb")
        if file_format is Format.PARQUET:
            module = load_arrow("pyarrow.parquet")
            self._writer: Any = module.ParquetWriter(self._file, schema)
        else:
            self._writer = load_arrow("pyarrow.ipc").new_file(self._file, schema)

    def write_table(self, table: Any) -> None:
        """Write a table, as one row group."""
        if table.num_rows:
            self._writer.write_table(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._writer.close()
                self._file.flush()
                sync_file(self._file.fileno(), "The output")
        finally:
            self._file.close()
