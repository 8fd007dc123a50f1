"""Rows of text with columns behind them: the text stays as it was read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from uid2_async.bulk.content import Content
from uid2_async.bulk.files.chunk import TextChunk
from uid2_async.bulk.files.formats import Format, Layout

__all__ = ["TextRows"]

# What begins a formula, by the recommendation of OWASP.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
_encode_json: Final = msgspec.json.Encoder().encode


def _iso(seconds: int) -> str:
    """Write an instant as ISO 8601 in UTC."""
    instant = datetime.fromtimestamp(seconds, UTC)
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


def _defused(field: str) -> str:
    """Put a quote before what a spreadsheet would take for a formula."""
    return f"'{field}" if field.startswith(_FORMULAS) else field


class TextRows:
    """Makes text of rows and of the columns that are added to them.

    This is done for each row of a file, so it is done column by column, and quotes are
    looked for in a whole column at once.
    """

    def __init__(self, layout: Layout, *, first: str, encoding: str) -> None:
        """Write rows as *layout* says.

        Args:
            layout: How.
            first: The header as it stands in the file.
            encoding: What the input's encoding turned out to be.
        """
        self._added = layout.added
        self._iso = bool(layout.iso)
        self._delimiter = layout.delimiter
        self._encoding = encoding
        self._first = first
        # A last row without an end gets the one that the header has.
        self._end = "\r\n" if first.endswith("\r\n") else "\n"
        self._join: Callable[[list[str], list[list[str]]], list[str]]
        self._is_safe = layout.spreadsheet_safe
        self._has_names = layout.format is Format.CSV
        if self._has_names:
            self._cells, self._join = self._csv_cells, self._join_csv
        else:
            self._cells, self._join = self._json_cells, self._join_json

    def header(self) -> bytes:
        """Make what is before the first row."""
        first = [self._defuse(self._first) if self._is_safe else self._first]
        if self._has_names:
            names = [self._csv_cells([name], Content.TEXT) for name in self._added]
            first = self._join_csv(first, names)
        return "".join(first).encode(self._encoding)

    def format(
        self,
        chunk: TextChunk,
        columns: Mapping[str, Sequence[Any]],
        rows: Sequence[int] | None = None,
    ) -> bytes:
        """Make the text of some rows.

        Args:
            chunk: The rows.
            columns: The columns that are added.
            rows: Which row each of their cells belongs to; None where it is each once.
        """
        records = chunk.records
        if rows is not None:
            records = [records[at] for at in rows]
        if self._is_safe:
            records = list(map(self._defuse, records))
        cells = [
            self._cells(columns[name], content) for name, content in self._added.items()
        ]
        return "".join(self._join(records, cells)).encode(self._encoding)

    # --- CSV --------------------------------------------------------------------------

    def _defuse(self, record: str) -> str:
        """Take the sting out of the fields of a row, if one of them has any."""
        body, line_end = self._split_end(record)
        text = io.StringIO(body, newline="")
        fields = next(csv.reader(text, delimiter=self._delimiter), [])
        safe = list(map(_defused, fields))
        if safe == fields:
            return record
        written = io.StringIO(newline="")
        writer = csv.writer(written, delimiter=self._delimiter, lineterminator="")
        writer.writerow(safe)
        return written.getvalue() + line_end

    def _csv_cells(self, column: Sequence[Any], content: Content) -> list[str]:
        """Write the fields of a column."""
        write = _iso if content is Content.INSTANT and self._iso else str
        cells = ["" if one is None else write(one) for one in column]
        if self._is_safe:
            cells = list(map(_defused, cells))
        if self._needs_quotes("".join(cells)):
            return [
                '"{}"'.format(cell.replace('"', '""'))
                if self._needs_quotes(cell)
                else cell
                for cell in cells
            ]
        return cells

    def _needs_quotes(self, text: str) -> bool:
        """Tell whether a field with that text would be read as something else."""
        return any(mark in text for mark in (self._delimiter, '"', "\n", "\r"))

    def _join_csv(self, records: list[str], cells: list[list[str]]) -> list[str]:
        """Put fields behind rows."""
        delimiter = self._delimiter
        ends = map(delimiter.join, zip(*cells, strict=True))
        if all(record[-1:] == "\n" and record[-2:] != "\r\n" for record in records):
            return [
                f"{record[:-1]}{delimiter}{end}\n"
                for record, end in zip(records, ends, strict=True)
            ]
        return [
            f"{body}{delimiter}{end}{line_end}"
            for (body, line_end), end in zip(
                map(self._split_end, records), ends, strict=True
            )
        ]

    def _split_end(self, record: str) -> tuple[str, str]:
        """Take the line end off a row; CRs before it are part of it, as in csv."""
        body = record.rstrip("\r\n")
        line_end = record[len(body) :]
        return body, line_end if line_end.endswith("\n") else self._end

    # --- JSON lines -------------------------------------------------------------------

    def _json_cells(self, column: Sequence[Any], content: Content) -> list[str]:
        """Write the values of a column."""
        if content is Content.INSTANT and self._iso:
            column = [None if one is None else _iso(one) for one in column]
        # All at once, which is faster, where no value has a comma in it.
        cells = _encode_json(column).decode()[1:-1].split(",")
        if len(cells) == len(column):
            return cells
        return [_encode_json(one).decode() for one in column]

    def _join_json(self, records: list[str], cells: list[list[str]]) -> list[str]:
        """Put fields before the ends of objects."""
        names = [msgspec.json.encode(name).decode() for name in self._added]
        shape = ",".join(f"{name}:%s" for name in (n.replace("%", "%%") for n in names))
        rows = []
        for record, values in zip(records, zip(*cells, strict=True), strict=True):
            text = record.rstrip()
            _, line_end = self._split_end(record)
            body = text[:-1].rstrip()
            comma = "" if body.endswith("{") else ","
            rows.append(f"{body}{comma}{shape % values}}}{line_end}")
        return rows
