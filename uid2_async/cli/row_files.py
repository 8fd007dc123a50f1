"""Files of rows that get columns appended: CSV, JSON lines and Parquet.

They are read and written a part at a time, so that their size does not matter, and what
was in them stays as it was. No message shows a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain, islice
from pathlib import PurePath
from typing import BinaryIO, Final, Protocol, TextIO, TypeAlias

import attrs
import msgspec

from uid2_async.cli import csv_files
from uid2_async.cli.csv_rows import CsvRows, CsvWriter, find_column, refuse_taken
from uid2_async.cli.values import decode_lines
from uid2_async.errors import InputError

__all__ = ["Cells", "Format", "Shape", "Table", "Work", "format_of", "open_table"]

CHUNK_ROWS: Final = 10_000
MAX_LINE_BYTES: Final = 64 * 1024 * 1024

Cells: TypeAlias = tuple[str | int | None, ...]
"""What is appended to one row."""

Work: TypeAlias = Callable[[Sequence[Sequence[str]]], Iterable[Cells]]
"""What makes them: it is given the values of each wanted column, for some rows.

What is no text in the file is an empty str there.
"""


class Format(StrEnum):
    """How rows are written down."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
}


@attrs.frozen(kw_only=True)
class Shape:
    """Which columns are read, and which are appended.

    Attributes:
        wanted: The names of the columns that are read, by the option that names them.
        added: The columns that are appended, in upper case, and of which type each is.
    """

    wanted: Mapping[str, str]
    added: Mapping[str, type[str | int]]

    def find(self, header: Sequence[str]) -> list[int]:
        """Find the wanted columns.

        Raises:
            InputError: If one is missing or there twice, or one of the added ones is
                there already.
        """
        refuse_taken(header, list(self.added))
        return [
            find_column(header, name, hint=f"Name it with {option} NAME.")
            for option, name in self.wanted.items()
        ]


class Table(Protocol):
    """A file whose beginning has been read, and found to be in order."""

    def rewrite(self, out: TextIO, work: Work) -> None:
        """Write all rows to *out*, with what *work* says behind them.

        Raises:
            InputError: If the rest of the file cannot be read; says where.
        """


def format_of(source: str, target: str, given: Format | None) -> Format:
    """Tell in which format both files are.

    Args:
        source: The input's path, or ``-``.
        target: The output's path, or ``-``.
        given: What the user says; the suffixes tell it if None.

    Raises:
        InputError: If the suffixes tell nothing, or differ; or if Parquet, whose end
            has to be read first, is to come from a pipe.
    """
    if given is None:
        suffixes = (PurePath(one).suffix.lower() for one in (source, target))
        found = {_SUFFIXES[one] for one in suffixes if one in _SUFFIXES}
        if len(found) > 1:
            raise InputError(
                "The input and the output are of different formats.",
                hint="Formats are not converted: give both the same suffix.",
            )
        if not found:
            raise InputError(
                "The names do not tell the format.",
                hint=f"Say --format {', '.join(Format)}.",
            )
        given = found.pop()
    if given is Format.PARQUET and csv_files.STANDARD in (source, target):
        raise InputError(
            "Parquet cannot be read from stdin or written to stdout.",
            hint="Name files, or use --format csv or jsonl.",
        )
    return given


@contextmanager
def open_table(source: str, file_format: Format, shape: Shape) -> Iterator[Table]:
    """Open a file and look at its columns.

    Args:
        source: The path, or ``-`` for stdin.
        file_format: Its format.
        shape: The columns.

    Raises:
        InputError: If it cannot be read, or its columns do not fit.
    """
    name = "stdin" if source == csv_files.STANDARD else source
    with csv_files.open_source(source) as stream:
        yield _TABLES[file_format](stream, name, shape)


class _CsvTable:
    """A CSV file with a header; missing values are appended as empty fields."""

    def __init__(self, stream: BinaryIO, name: str, shape: Shape) -> None:
        self._rows = CsvRows(stream, name=name)
        self._at = shape.find(self._rows.header)
        self._added = list(shape.added)

    def rewrite(self, out: TextIO, work: Work) -> None:
        """See :meth:`Table.rewrite`."""
        writer = CsvWriter(out, line_end=self._rows.line_end)
        writer.write([*self._rows.header, *self._added])
        while rows := list(islice(self._rows, CHUNK_ROWS)):
            values = [[row[at] for row in rows] for at in self._at]
            for row, cells in zip(rows, work(values), strict=True):
                row += ["" if cell is None else str(cell) for cell in cells]
                writer.write(row)


_JsonLine: TypeAlias = tuple[str, dict[str, msgspec.Raw]]


class _JsonlTable:
    """A JSON object a line; they need not all have the same fields.

    Only the end of a line is touched, so that numbers keep all of their digits.
    """

    def __init__(self, stream: BinaryIO, name: str, shape: Shape) -> None:
        self._name = name
        self._decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._added = list(shape.added)
        self._lines = self._read(stream)
        first = next(self._lines, None)
        self._keys: list[str] = []
        if first is not None:
            header = list(first[1])
            self._keys = [header[at] for at in shape.find(header)]
            self._lines = chain([first], self._lines)

    def rewrite(self, out: TextIO, work: Work) -> None:
        """See :meth:`Table.rewrite`."""
        encode = msgspec.json.Encoder().encode
        while lines := list(islice(self._lines, CHUNK_ROWS)):
            values = [[_text(row.get(key)) for _, row in lines] for key in self._keys]
            for (text, row), cells in zip(lines, work(values), strict=True):
                end = encode(dict(zip(self._added, cells, strict=True))).decode()
                comma = "," if row else ""
                out.write(f"{text.rstrip().removesuffix('}')}{comma}{end[1:]}\n")

    def _read(self, stream: BinaryIO) -> Iterator[_JsonLine]:
        """Read line after line, passing over blank ones."""
        pieces = iter(lambda: stream.readline(MAX_LINE_BYTES), b"")
        for number, text in enumerate(decode_lines(pieces, self._name), 1):
            if text.strip():
                yield text, self._decode(text, number)

    def _decode(self, text: str, number: int) -> dict[str, msgspec.Raw]:
        """Find the fields of an object, which none of the added ones may be."""
        try:
            row = self._decoder.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            row = None
        if row is None:
            raise InputError(
                f"{self._name}, line {number}: this is no JSON object.",
                hint="Each line holds one object, in UTF-8.",
            )
        if not {name.upper() for name in row}.isdisjoint(self._added):
            refuse_taken(row, self._added)
        return row


def _text(raw: msgspec.Raw | None) -> str:
    """Read a JSON string; what is none is empty."""
    if raw is None:
        return ""
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return ""


def _parquet_table(stream: BinaryIO, name: str, shape: Shape) -> Table:
    """Open a Parquet file, if there is pyarrow."""
    from uid2_async.cli.parquet_table import (  # noqa: PLC0415 - it needs pyarrow
        ParquetTable,
    )

    return ParquetTable(stream, name, shape)


_TABLES: Final[Mapping[Format, Callable[[BinaryIO, str, Shape], Table]]] = {
    Format.CSV: _CsvTable,
    Format.JSONL: _JsonlTable,
    Format.PARQUET: _parquet_table,
}
