"""Parquet and Arrow files, written in parts: one is whole only when it is closed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from uid2_async.bulk.content import Content
from uid2_async.bulk.files.arrow_library import load_arrow, writing
from uid2_async.bulk.files.formats import Format, Layout
from uid2_async.bulk.files.output import check_placed, place, write_beside
from uid2_async.bulk.private_files import DISK, Disk, open_private, sync_file

__all__ = ["ArrowOutput"]

_MICROSECONDS: Final = 1_000_000


class ArrowOutput:
    """See :class:`~uid2_async.bulk.files.output.Output`.

    Attributes:
        save_rows: How many rows a part has, and a row group in the end.
    """

    save_rows: int = 65_536

    def __init__(
        self,
        schema: Any,
        layout: Layout,
        part: Path,
        *,
        remembered: Any = None,
        disk: Disk = DISK,
    ) -> None:
        """Write behind the parts that are *remembered*.

        Args:
            schema: The input's.
            layout: How rows are written down.
            part: How the parts' names begin.
            remembered: How many parts there are.
            disk: What may fail.
        """
        self._arrow = load_arrow()
        self._format = layout.format
        self._part = part
        self._parts = int(remembered or 0)
        self._disk = disk
        self._batches: list[Any] = []
        self._instants = layout.iso is not False
        self._width = len(schema)
        for name, content in layout.added.items():
            schema = schema.append(self._arrow.field(name, self._type(content)))
        self._schema = schema
        # The first array imports pandas, if it is installed: here, in a thread, that
        # does not hold up the event loop.
        self._array([], self._arrow.string())

    def _type(self, content: Content) -> Any:
        """Choose the type of a column."""
        if content is Content.TEXT:
            return self._arrow.string()
        if content is Content.INTEGER:
            return self._arrow.int32()
        if self._instants:
            return self._arrow.timestamp("us", "UTC")
        return self._arrow.int64()

    def format(
        self,
        chunk: Any,
        columns: Mapping[str, Sequence[Any]],
        rows: Sequence[int] | None = None,
    ) -> Any:
        """See :meth:`Output.format`.

        Raises:
            InputError: If a column's type is one whose rows cannot be repeated.
        """
        batch = chunk.batch
        if rows is not None:
            places = self._arrow.array(rows, self._arrow.int64())
            batch = writing(partial(batch.take, places))
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
            table = self._arrow.Table.from_batches(self._batches, self._schema)
            writing(partial(self._write_tables, [table], path))
            self._batches.clear()
            self._parts += 1
        return self._parts

    def _name(self, number: int) -> Path:
        """Name a part."""
        return self._part.with_name(f"{self._part.name}.{number:05}")

    def finish(self, target: Path | None) -> None:
        """See :meth:`Output.finish`."""
        assert target is not None  # noqa: S101 - such files are not streamed
        if self._parts == 1:
            part = self._name(0)
            if part.exists():
                place(part, target, disk=self._disk)
            else:
                # Killed behind the rename and before that was noted.
                check_placed(target)
            return
        writing(
            partial(
                write_beside,
                target,
                lambda path: self._write_tables(self._tables(), path),
                disk=self._disk,
            )
        )

    def _tables(self) -> Iterator[Any]:
        """Read the parts."""
        for number in range(self._parts):
            part = self._name(number)
            if self._format is Format.PARQUET:
                yield load_arrow("pyarrow.parquet").read_table(part, memory_map=False)
                continue
            with load_arrow("pyarrow.ipc").open_file(str(part)) as file:
                yield file.read_all()

    def _write_tables(self, tables: Iterable[Any], path: Path) -> None:
        """Write a private file, each table as one row group."""
        with os.fdopen(open_private(path), "wb") as file:
            with self._open_writer(file) as writer:
                for table in tables:
                    if table.num_rows:
                        writer.write_table(table)
            file.flush()
            sync_file(file.fileno(), "The output", disk=self._disk)

    def _open_writer(self, file: BinaryIO) -> Any:
        """Begin to write tables."""
        if self._format is Format.PARQUET:
            return load_arrow("pyarrow.parquet").ParquetWriter(file, self._schema)
        ipc = load_arrow("pyarrow.ipc")
        # A file may extend its dictionaries from batch to batch, and then ours does.
        options = ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        return ipc.new_file(file, self._schema, options=options)

    def close(self) -> None:
        """See :meth:`Output.close`; a part that was not saved is dropped."""
        self._batches.clear()
