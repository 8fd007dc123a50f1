"""The rows of a CSV file, read strictly: what cannot be read whole is an error.

The rows stay the text that they are in the file; only the wanted fields are taken out
of it. No message shows a value: a line of such a file is personal data.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Final, NoReturn

import msgspec

from uid2_async.bulk.files.chunk import TextChunk
from uid2_async.bulk.files.columns import find_column
from uid2_async.bulk.files.pieces import MAX_LINE_CHARS, Lines, Position
from uid2_async.errors import InputError

__all__ = ["CsvReader"]

MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
MAX_ROW_LINES: Final = 1_000_000

_UNFINISHED: Final = "unexpected end of data"
_QUOTE_HINT: Final = (
    'A field with a comma, a quote or a line end stands in quotes: "a, ""b"" c".'
)
# The csv module's words, which speak to programmers, and ours.
_READER_WORDS: Final = {
    _UNFINISHED: "a quote is opened and never closed",
    "expected after": "text follows a closing quote",
    "new-line character": "lines end with CR alone; LF or CR LF is needed",
    "field larger": f"a field is longer than {MAX_FIELD_CHARS} characters",
}


class CsvReader:
    """See :class:`~uid2_async.bulk.files.chunk.Reader`.

    Blank lines are passed over.

    Attributes:
        header: The names of the columns.
        first: The header as it stands in the file, behind its byte order mark.
    """

    def __init__(self, lines: Lines, *, delimiter: str) -> None:
        """Read the header.

        Raises:
            InputError: If the file is empty or its first row cannot be read.
        """
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        self._lines = lines
        self._delimiter = delimiter
        self._rows = 0
        self._wanted: dict[str, int] = {}
        self._width = 0
        self._unfinished = 0
        self.header: Sequence[str] = ()
        self.first: str = ""
        self._read_header()

    def _read_header(self) -> None:
        """Read the first row that is not blank."""
        while (found := self.take(1)) is None:
            if not self._lines.load():
                raise InputError(
                    f"{self._lines.name} is empty.", hint="A header is needed."
                )
        (record,) = found.records
        self.first = self._lines.mark + record
        self.header = next(
            csv.reader(StringIO(record, newline=""), delimiter=self._delimiter)
        )
        self._width = len(self.header)
        self._rows = 0

    @property
    def encoding(self) -> str:
        """What is found to be the file's encoding."""
        return self._lines.encoding

    @property
    def bytes_read(self) -> int:
        """How much of the file on disk has been read."""
        return self._lines.bytes_read

    def want(self, columns: Sequence[str], keys: Sequence[str] = ()) -> None:
        """See :meth:`Reader.want`; there must be one column of each name."""
        self._wanted = {
            name: find_column(
                self.header, name, hint="Write its name as the header does."
            )
            for name in (*columns, *keys)
        }

    def seek(self, position: object) -> None:
        """See :meth:`Reader.seek`."""
        place = msgspec.convert(position, Position)
        self._lines.seek(place)
        self._rows = place.rows
        self._unfinished = 0

    def load(self) -> bool:
        """See :meth:`Reader.load`."""
        return self._lines.load()

    def take(self, rows: int) -> TextChunk | None:
        """See :meth:`Reader.take`."""
        records: list[str] = []
        found: list[list[str]] = []
        while not records:
            before = len(self._lines.pending)
            if before >= 2 * self._unfinished or self._lines.at_end:
                records, found = self._parse(rows)
            if before == len(self._lines.pending):
                self._check_unfinished(before)
                return None
        self._rows += len(records)
        self._unfinished = 0
        columns = {
            name: [row[at] for row in found] for name, at in self._wanted.items()
        }
        end = Position(self._lines.offset, self._lines.line, self._rows)
        return TextChunk(records, columns, end)

    def _parse(self, rows: int) -> tuple[list[str], list[list[str]]]:
        """Parse some of the pending lines and drop them.

        A row that is not finished stays pending.

        Returns:
            The rows as they stand, and the fields of each.
        """
        pending, window = self._lines.pending, rows
        while True:
            some = pending[:window]
            records, found, used = self._parse_lines(some, rows)
            if used or len(some) == len(pending):
                self._lines.drop(used)
                return records, found
            # One row is longer than the window.
            window *= 4

    def _parse_lines(
        self, some: list[str], rows: int
    ) -> tuple[list[str], list[list[str]], int]:
        """Parse *some* lines; the last number is how many of them it took."""
        if self._width and '"' not in "".join(some):
            # Each line is a row, which needs no bookkeeping.
            found = self._read_all(some)
            if {self._width} == set(map(len, found)):
                return some, found, len(some)
        return self._read_each(some, rows)

    def _read_all(self, some: list[str]) -> list[list[str]]:
        """Parse lines that hold no quote; nothing where one of them is no row."""
        try:
            return list(csv.reader(some, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return []

    def _read_each(
        self, some: list[str], rows: int
    ) -> tuple[list[str], list[list[str]], int]:
        """Parse up to so many rows one by one, to see where each ends."""
        reader = csv.reader(some, delimiter=self._delimiter, strict=True)
        records: list[str] = []
        found: list[list[str]] = []
        used = 0
        cause = ""
        try:
            for row in reader:
                if row:
                    self._check_width(row, used, reader.line_num)
                    records.append("".join(some[used : reader.line_num]))
                    found.append(row)
                used = reader.line_num
                if len(found) == rows:
                    break
        except csv.Error as error:
            cause = str(error)
        if cause and _UNFINISHED not in cause:
            self._refuse(cause, reader.line_num - 1)
        return records, found, used

    def _check_width(self, row: list[str], before: int, last: int) -> None:
        """Refuse a row with too many or too few fields."""
        if len(row) == self._width or not self._width:
            return
        first = self._lines.line + before + 1
        last += self._lines.line
        lines = str(first) if first == last else f"{first} to {last}"
        raise InputError(
            f"{self._lines.name}, line {lines}: {len(row)} fields, where the header "
            f"has {self._width}.",
            hint=_QUOTE_HINT,
        )

    def _check_unfinished(self, lines: int) -> None:
        """Refuse a row that the end of the file cuts off, or that has none.

        Else it is parsed again, from its start, when twice as much of it is there.
        """
        if lines and self._lines.at_end:
            self._refuse(_UNFINISHED, lines - 1)
        chars = sum(map(len, self._lines.pending))
        if lines > MAX_ROW_LINES or chars > MAX_LINE_CHARS:
            raise self._lines.failed("the row is too long", hint=_QUOTE_HINT)
        if lines >= 2 * self._unfinished:
            self._unfinished = lines

    def _refuse(self, cause: str, before: int) -> NoReturn:
        """Refuse what the csv module calls *cause*."""
        told = next((ours for word, ours in _READER_WORDS.items() if word in cause), "")
        what = told or "this is no CSV"
        raise self._lines.failed(what, hint=_QUOTE_HINT, before=before)

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self._lines.close()
