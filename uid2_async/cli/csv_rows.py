"""The rows of a CSV stream, read strictly: what cannot be read whole is an error.

They are written so that every reader finds them again.

No message shows a value: a line of such a file is personal data.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Final, TextIO

import attrs

from uid2_async.errors import InputError

__all__ = [
    "Columns",
    "CsvRows",
    "CsvWriter",
    "find_column",
    "find_columns",
    "refuse_taken",
]

MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024 * 1024

VALUE_NAME: Final = "INPUT"
KIND_NAME: Final = "INPUT_TYPE"

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_QUOTE_HINT: Final = (
    'A field with a comma, a quote or a line end stands in quotes: "a, ""b"" c".'
)
# An e-mail address, a number of seven digits or more, or a hash, raw UID or token.
_DII: Final = re.compile(r"@|(\d[^\w]{0,2}){7}|[A-Za-z0-9+/_-]{43}")
# The csv module's words, which speak to programmers, and ours.
_READER_WORDS: Final = {
    "unexpected end of data": "a quote is opened and never closed",
    "expected after": "text follows a closing quote",
    "new-line character": "lines end with CR alone; LF or CR LF is needed",
    "field larger": f"a field is longer than {MAX_FIELD_CHARS} characters",
}


class CsvRows:
    """An iterator over the rows below the header, each with as many fields as it.

    Blank lines are passed over. UTF-8, with or without a byte order mark.

    Attributes:
        name: What messages call the stream.
        header: The names of the columns.
        line_end: What ended the header's line, LF or CR LF.
        bytes_read: How much of the stream has been consumed.
    """

    def __init__(self, stream: BinaryIO, *, name: str) -> None:
        """Read the header.

        Args:
            stream: Where the rows come from; it is not closed.
            name: What messages call it.

        Raises:
            InputError: If the stream is empty or its first row cannot be read.
        """
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        self.name = name
        self.line_end: str = "\n"
        self.bytes_read: int = 0
        self._line = 0
        self._stream = stream
        # Strict, since the lenient reader drops quotes and swallows the rest of a file.
        self._reader = csv.reader(self._lines(), strict=True)
        header = self._next_row()
        if header is None:
            raise InputError(f"{name} is empty.", hint="A header is needed.")
        self.header = header

    def __iter__(self) -> Iterator[list[str]]:
        """Iterate over the rows that are left."""
        return self

    def __next__(self) -> list[str]:
        """Read one row.

        Raises:
            InputError: If it cannot be read or has too many or too few fields; names
                the line.
        """
        first_line = self._line + 1
        row = self._next_row()
        if row is None:
            raise StopIteration
        if len(row) != len(self.header):
            lines = str(first_line)
            if self._line != first_line:
                lines = f"{first_line} to {self._line}"
            raise InputError(
                f"{self.name}, line {lines}: {len(row)} fields, where the header has "
                f"{len(self.header)}.",
                hint=_QUOTE_HINT,
            )
        return row

    def _next_row(self) -> list[str] | None:
        """Read one row that is not blank; None at the end."""
        try:
            for row in self._reader:
                if row:
                    return row
        except csv.Error as error:
            cause = str(error)
        else:
            return None
        told = next((ours for word, ours in _READER_WORDS.items() if word in cause), "")
        raise self._failed(told or "this is no CSV", hint=_QUOTE_HINT)

    def _lines(self) -> Iterator[str]:
        """Decode line by line, so that an error can name the line."""
        while data := self._stream.readline(MAX_LINE_BYTES):
            self._line += 1
            self.bytes_read += len(data)
            if self._line == 1:
                data = self._start(data)
            if b"\0" in data:
                raise self._failed("there is a NUL byte", hint="Is this a text file?")
            if len(data) == MAX_LINE_BYTES:
                raise self._failed("the line is too long", hint="Is this a CSV file?")
            yield self._decode(data)

    def _start(self, data: bytes) -> bytes:
        """Look at the first line's ends."""
        if data.startswith(_UTF16):
            raise self._failed("this is UTF-16", hint="Convert the file to UTF-8.")
        if data.endswith(b"\r\n"):
            self.line_end = "\r\n"
        return data.removeprefix(codecs.BOM_UTF8)

    def _decode(self, data: bytes) -> str:
        """Decode a line without keeping it in an error."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
        raise self._failed("this is not UTF-8", hint="Convert the file to UTF-8.")

    def _failed(self, what: str, *, hint: str) -> InputError:
        """Say *what* is wrong with the line that was read last."""
        return InputError(f"{self.name}, line {self._line}: {what}.", hint=hint)


class CsvWriter:
    """Writes rows as they were read; a field is quoted where it has to be."""

    def __init__(self, target: TextIO, *, line_end: str) -> None:
        """Write to *target*, each row ended by *line_end*."""
        self._plain = csv.writer(target, lineterminator=line_end)
        # Before Python 3.13 the plain writer leaves a lone CR unquoted, which then
        # reads as the end of the row.
        self._quoting = csv.writer(
            target, lineterminator=line_end, quoting=csv.QUOTE_ALL
        )

    def write(self, row: Sequence[str]) -> None:
        """Write one row."""
        writer = self._quoting if "\r" in "".join(row) else self._plain
        writer.writerow(row)


@attrs.frozen(kw_only=True)
class Columns:
    """Where in a row the identity stands.

    Attributes:
        value: The index of the identity's column.
        kind: The index of the column that says of which kind it is, None where all
            are of *constant_kind*.
        constant_kind: The kind of all rows, one of the four.
    """

    value: int
    kind: int | None = None
    constant_kind: str = ""


def find_columns(
    header: Sequence[str],
    *,
    column: str | None,
    kind: str | None,
    added: Sequence[str] = (),
) -> Columns:
    """Find the columns of the identities in *header*.

    Args:
        header: The names of the columns.
        column: The name of the identity's column; ``INPUT`` if None.
        kind: What all rows are; the column ``INPUT_TYPE`` tells it if None.
        added: What will be appended, in upper case; *header* must not have it yet.

    Raises:
        InputError: If a column is missing or stands there twice; lists the columns.
    """
    refuse_taken(header, added)
    hint = f"Name the column with identities: --column NAME, or {VALUE_NAME}."
    value = find_column(header, column or VALUE_NAME, hint=hint)
    if kind is not None:
        return Columns(value=value, constant_kind=kind)
    hint = f"Say what all rows are with --type, or add a column {KIND_NAME}."
    return Columns(value=value, kind=find_column(header, KIND_NAME, hint=hint))


def refuse_taken(header: Iterable[str], added: Sequence[str]) -> None:
    """Refuse a *header* that has one of the columns that will be appended.

    Args:
        header: The names of the columns.
        added: Those that will be appended, in upper case.

    Raises:
        InputError: If one of them is there, in any letter case.
    """
    taken = [name for name in header if name.upper() in added]
    if taken:
        raise InputError(
            f"The input already has a column {_quoted(taken)}.",
            hint=f"Rename or drop it: {', '.join(added)} are appended.",
        )


def find_column(header: Sequence[str], name: str, *, hint: str) -> int:
    """Find a column by its name, in any letter case where no other one is so called.

    Raises:
        InputError: If there is none or more than one; lists the columns, and gives
            *hint*.
    """
    exact = [at for at, one in enumerate(header) if one == name]
    found = exact or [
        at for at, one in enumerate(header) if one.casefold() == name.casefold()
    ]
    if len(found) == 1:
        return found[0]
    if any(_DII.search(one) for one in header):
        # To list the columns would show somebody's identity.
        raise InputError(
            f"There is no column {_quoted([name])}: the first row looks like data.",
            hint="Put a row with the names of the columns first.",
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        hint = "Columns must be separated by commas."
    what = "more than one column" if found else "no column"
    raise InputError(
        f"There is {what} {_quoted([name])}. The columns are: {_quoted(header)}.",
        hint=hint,
    )


def _quoted(names: Sequence[str]) -> str:
    """List names of columns."""
    return ", ".join(f"'{name}'" for name in names)
