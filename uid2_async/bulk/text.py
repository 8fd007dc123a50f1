"""Reading CSV and JSON lines: strictly, in chunks, and preserving the text of each row.

Malformed input is an error with its line number, never skipped or repaired. Messages
never show values: the lines of such files are personal data.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import stat
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from io import BufferedIOBase, BufferedReader, StringIO
from itertools import repeat
from operator import itemgetter
from os import fstat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, cast

import attrs
import msgspec

from uid2_async._private import printable
from uid2_async.bulk.columns import find_wanted, refuse_taken
from uid2_async.bulk.paths import (
    FileFormatOptions,
    Format,
    attempt_read,
    is_gzipped,
)
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.bulk.arrow import ArrowReader, ArrowRows


Reader: TypeAlias = "CsvReader | JsonReader | ArrowReader"
Rows: TypeAlias = "TextRows | ArrowRows"

MAX_LINE_CHARS: Final = 64 * 1024 * 1024
MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
MAX_ROW_LINES: Final = 1_000_000

# Splitting a chunk into lines takes 1-2 ms, during which no other thread runs.
_PIECE_BYTES: Final = 256 * 1024
# Those of UTF-32 come first: one of them starts like one of UTF-16.
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
_WIDE: Final = ("utf-16", "utf-32")
# Text has only one representation in these. Others have several, or lose characters.
_EXACT: Final = frozenset({"ascii", "iso8859-1", *_MARKS.values()})
_NOT_TEXT: Final = {
    b"PK\3\4": ("a ZIP archive or an Excel workbook", "Save it as CSV."),
    b"\x1f\x8b": ("compressed by gzip", "Rename it so that the name ends in .gz."),
    b"PAR1": ("Parquet", 'Use `format="parquet"`, or a name that ends in .parquet.'),
    b"ARROW1": (
        "an Arrow file",
        'Use `format="arrow"`, or a name that ends in .arrow.',
    ),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Decompress it first: zstd -d."),
    b"\xfd7zXZ": ("compressed by xz", "Decompress it first: xz -d."),
    b"BZh": ("compressed by bzip2", "Decompress it first: bzip2 -d."),
}


@attrs.frozen(kw_only=True)
class BadRow:
    """A row that cannot be read."""

    name: str
    line: int
    cause: str
    hint: str
    text: str = attrs.field(repr=False)

    def error(self) -> InputError:
        """Return the error for this row."""
        return InputError(
            f"{self.name}, line {self.line}: {self.cause}.", hint=self.hint
        )


OnBadRow: TypeAlias = Callable[[BadRow], object] | None


@attrs.frozen(repr=False, eq=False)
class TextRows:
    """Some rows of a text file.

    Attributes:
        records: The rows as they are in the file, including line ends.
        ends_plainly: Whether each is known to end in LF and to have no CR.
    """

    records: list[str]
    _columns: Mapping[str, list[str]]
    _reader: CsvReader | JsonReader
    ends_plainly: bool = False

    @property
    def count(self) -> int:
        """The number of rows; zero if there were only blank lines."""
        return len(self.records)

    def values(self, column: str) -> list[str]:
        """List the values of a wanted column; a missing value is empty."""
        return self._columns[column]

    def texts(self) -> list[list[str | None]]:
        """List the values of all columns, for another format.

        An empty value is missing.
        """
        return self._reader.parse(self.records)


class _TextReader(ABC):
    """Reads the rows of a text file; *load* reads, everything else works in memory.

    Attributes:
        name: The name of the file in messages.
        options: How the rows are encoded.
        encoding: The detected encoding of the file.
        header: The names of the columns.
        prefix: The text before them in the file: a byte order mark, a sep= line.
        first: The header as it is in the file; empty for JSON lines.
    """

    def __init__(
        self,
        stream: BufferedIOBase,
        options: FileFormatOptions,
        *,
        name: str,
        gzipped: bool = False,
        on_bad_row: OnBadRow = None,
    ) -> None:
        """Read from *stream*, which :meth:`close` closes."""
        self.name: str = name
        self.options: FileFormatOptions = options
        self.encoding: str = options.encoding
        self.header: Sequence[str] = ()
        self.prefix: str = ""
        self.first: str = ""
        self._on_bad_row = on_bad_row
        self._wanted: dict[str, int] = {}
        self._identifiers: frozenset[str] = frozenset()
        self._stream = stream
        # From a pipe, read what is available: its writer may be slow.
        self._read_some = stream.read1
        if gzipped:
            self._read_some = gzip.GzipFile(fileobj=stream, mode="rb").read
        self._decoder: codecs.IncrementalDecoder | None = None
        self._is_reading = False
        self._bytes = 0
        self._chars = 0
        # The lines that are loaded but not taken, and the number of lines taken.
        self._lines: list[str] = []
        self._line = 0
        self._rest: list[str] = []
        self._rest_chars = 0
        self._at_end = False

    @property
    def bytes_read(self) -> int:
        """The number of bytes read from the file on disk."""
        try:
            return self._stream.tell()
        except OSError:
            return self._bytes

    def load(self) -> bool:
        """Read more into memory; return False at the end of the file. Blocks."""
        if self._at_end:
            return False
        data = self._read() if self._decoder else self._read_first()
        text = self._decode(data)
        self._chars += len(text)
        self._at_end = not data
        head, line_end, rest = text.rpartition("\n")
        if line_end or self._at_end:
            self._rest.append(head + line_end + rest * self._at_end)
            # Only at LF: other line break characters are data.
            self._lines += StringIO("".join(self._rest), newline="\n")
            self._rest, self._rest_chars = [], 0
        if not self._at_end:
            self._rest.append(rest)
            self._rest_chars += len(rest)
        if self._rest_chars > MAX_LINE_CHARS:
            hint = "Check that this is a text file."
            raise self._error("the line is too long", hint, len(self._lines))
        return bool(data or self._lines)

    def _read(self) -> bytes:
        """Read bytes."""
        hint = (
            "Check that it is complete. A file whose name ends in .gz must be "
            "compressed by gzip."
        )
        self._is_reading = True
        try:
            data = self._read_some(_PIECE_BYTES)
        except EOFError:
            cause = "the compressed data ends too early"
        except (gzip.BadGzipFile, zlib.error):
            cause = "this is not gzip, or it is damaged"
        except OSError as error:
            cause = error.strerror or type(error).__name__
            hint = "Check the file and its disk."
        else:
            self._bytes += len(data)
            return data
        finally:
            self._is_reading = False
        raise InputError(f"{self.name} cannot be read: {cause}.", hint=hint)

    def _read_first(self) -> bytes:
        """Read the first chunk, reject what is not text, and remove the BOM."""
        data = self._read()
        # From a pipe, wait only for as much as the check needs.
        while data and any(
            len(data) < len(start) and start.startswith(data)
            for start in (*_NOT_TEXT, *_MARKS)
        ):
            more = self._read()
            if not more:
                break
            data += more
        for magic, (what, hint) in _NOT_TEXT.items():
            if data.startswith(magic):
                raise InputError(f"{self.name} is {what}, not text.", hint=hint)
        mark = next(filter(data.startswith, _MARKS), b"")
        self._begin_decoding(mark, is_empty=not data)
        return data.removeprefix(mark)

    def _begin_decoding(self, mark: bytes, *, is_empty: bool) -> None:
        """Choose the encoding by the option and the byte order mark."""
        found = _MARKS.get(mark, self.encoding)
        family = found.removesuffix("-le").removesuffix("-be")
        if not self.encoding.startswith(family):
            raise self._error(
                f"this is {family.upper()}",
                f'Convert the file to UTF-8, or use `encoding="{family}"`.',
            )
        if found in _WIDE and not is_empty:
            raise self._error(
                "there is no byte order mark",
                f'Use `encoding="{found}-le"` or `encoding="{found}-be"`.',
            )
        self.encoding = found
        self.prefix = mark.decode(found)
        self._decoder = codecs.getincrementaldecoder(found)("strict")

    def _decode(self, data: bytes) -> str:
        """Decode bytes without keeping them in errors."""
        assert self._decoder is not None  # noqa: S101 - by _begin_decoding
        before, _ = self._decoder.getstate()
        bad = 0
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            whole = error.object[: error.start].decode(self.encoding, "replace")
            bad = whole.count("\n")
        except UnicodeError:  # from codecs without a position
            pass
        else:
            rest, _ = self._decoder.getstate()
            self._check_text(text, before + data, rest)
            return text
        raise self._error(
            f"this is not {self.encoding.upper()}",
            "Convert the file to UTF-8, or name its encoding with `encoding`.",
            len(self._lines) + bad,
        )

    def _check_text(self, text: str, data: bytes, rest: bytes) -> None:
        """Reject text that would not encode to *data*, without its *rest*."""
        if "\0" in text:
            raise self._error(
                "there is a NUL byte",
                'Check that this is a text file. UTF-16 needs `encoding="utf-16-le"`.',
                len(self._lines) + text.count("\n", 0, text.index("\0")),
            )
        exact = not text or self.encoding in _EXACT
        # What cannot be encoded is replaced, and differs from the data.
        if not exact and text.encode(self.encoding, "replace") + rest != data:
            raise InputError(
                f"{self.name}: some text cannot be reproduced in {self.encoding}.",
                hint="Convert the file to UTF-8.",
            )

    def _error(self, what: str, hint: str, before: int = 0) -> InputError:
        """Return the error for *what* in the line after *before* loaded ones."""
        place = f"{self.name}, line {self._line + before + 1}"
        return InputError(f"{place}: {what}.", hint=hint)

    def close(self) -> None:
        """Close the file.

        A pipe that a thread is reading stays open until the program ends: closing it
        would wait for that read, which may never end.
        """
        try:
            mode = fstat(self._stream.fileno()).st_mode
        except (OSError, ValueError):
            return  # in memory, or already closed
        if stat.S_ISREG(mode) or not self._is_reading:
            self._stream.close()

    def want(
        self,
        columns: Sequence[str],
        keys: Sequence[str] = (),
        added: Collection[str] = (),
    ) -> None:
        """Set the columns to read, before any rows are taken.

        The values of *keys* are taken unchanged. No column may have the name of one of
        *added*, which will be appended.
        """
        self._wanted = find_wanted(self.header, (*columns, *keys), added, self.name)
        self._identifiers = frozenset(columns) - frozenset(keys)

    @abstractmethod
    def take(self, rows: int) -> TextRows | None:
        """Return at most *rows* loaded rows; None if there are none left.

        Errors name the row that cannot be read, and show no values.
        """

    @abstractmethod
    def parse(self, records: list[str]) -> list[list[str | None]]:
        """List the values of all columns; see :meth:`TextRows.texts`."""

    def skip(self, rows: int) -> None:
        """Skip the rows that an earlier run has written. Blocks.

        Parsing them takes less than a second per million rows, and no line or byte
        position has to be stored.
        """
        rest = rows
        while rest:
            found = self.take(min(rest, 10_000))
            if found is not None:
                rest -= found.count
            elif not self.load():
                raise InputError(
                    f"{self.name} has fewer rows than the job has written.",
                    hint="Discard the job and start over (`restart=True`).",
                )

    def _drop(self, count: int) -> None:
        """Drop *count* loaded lines."""
        del self._lines[:count]
        self._line += count

    def _without_null(self, values: list[str]) -> list[str]:
        """Replace values that mean a missing value with empty ones."""
        null = self.options.null
        if null is None or null not in values:
            return values
        return ["" if one == null else one for one in values]

    def _reject(self, cause: str, hint: str, text: str, before: int = 0) -> None:
        """Report a row that cannot be read."""
        line = self._line + before + 1
        bad = BadRow(name=self.name, line=line, cause=cause, hint=hint, text=text)
        if self._on_bad_row is None:
            raise bad.error()
        self._on_bad_row(bad)


# --- CSV ------------------------------------------------------------------------------

_UNFINISHED: Final = "unexpected end of data"
_QUOTE_HINT: Final = (
    'Quote a field that has a delimiter, a quote or a line end: "a, ""b"" c".'
)
_ESCAPE_HINT: Final = (
    'If a backslash escapes quotes, as Spark writes them, use `escape="\\\\"`.'
)
# Characters after a ' that spreadsheet_safe has added (from OWASP's list).
FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
_DEFUSED: Final = tuple(f"'{mark}" for mark in FORMULAS)
# The number of steps parsed row by row after one that needed it.
_CAREFUL_STEPS: Final = 16
# The error texts of the csv module, and ours.
_CSV_ERRORS: Final = {
    _UNFINISHED: "a quote is opened here and never closed",
    "expected after": "text follows a closing quote",
    "new-line character": "there is a CR that does not end the line",
    "field larger": f"a field is longer than {MAX_FIELD_CHARS} characters",
}


def parse_csv(records: Iterable[str], options: FileFormatOptions) -> Any:
    """Return a csv reader of lines, or of rows that span several lines."""
    if options.escape is not None:
        translate = _translator(options.escape)
        records = map(translate, records)
    return csv.reader(
        records,
        delimiter=options.delimiter or ",",
        strict=True,
        skipinitialspace=options.skip_initial_space,
    )


def _translator(escape: str) -> Callable[[str], str]:
    """Make a function that turns escaped quotes into doubled quotes.

    Before a quote, two escapes mean one, as in Spark; elsewhere they are text. (With
    ``escapechar``, the csv module would drop them everywhere, and join lines.)
    """
    marks = re.compile(f'({re.escape(escape)}+)"')

    def double(found: re.Match[str]) -> str:
        half, odd = divmod(len(found[1]), 2)
        return escape * half + ('""' if odd else '"')

    return lambda line: marks.sub(double, line)


class CsvReader(_TextReader):
    """Reads CSV with a header; skips blank lines and comments."""

    def __init__(
        self, stream: BufferedIOBase, options: FileFormatOptions, **more: Any
    ) -> None:
        """Read the header."""
        super().__init__(stream, options, **more)
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        self._width = 0
        # The number of loaded lines of a row whose end is not loaded, and the number of
        # characters loaded when it was met.
        self._unfinished = 0
        self._unfinished_at = 0
        self._careful = 0
        if options.sep_line:
            self._read_sep_line()
        self._read_header()

    def _read_sep_line(self) -> None:
        """Read the line that names the delimiter."""
        while not self._lines and self.load():
            pass
        line = "".join(self._lines[:1])
        if len(line.rstrip("\r\n")) != len("sep=;") or not line.startswith("sep="):
            raise InputError(
                f"{self.name}: the first line is not sep= and a delimiter.",
                hint="Leave out `sep_line`.",
            )
        self._drop(1)
        delimiter = line[len("sep=")]
        self.options: FileFormatOptions = attrs.evolve(
            self.options, delimiter=delimiter
        )
        self.prefix: str = self.prefix + line

    def _read_header(self) -> None:
        """Read the first row that is not blank."""
        self._on_bad_row, on_bad_row = None, self._on_bad_row
        rows = self.take(1)
        while rows is None or not rows.count:
            if rows is None and not self.load():
                raise InputError(
                    f"{self.name} is empty.", hint="It needs a row of column names."
                )
            rows = self.take(1)
        self._on_bad_row = on_bad_row
        (first,) = rows.records
        self.first: str = first
        names = next(parse_csv([first], self.options))
        if self.options.strip_header:
            names = [name.strip() for name in names]
        self.header: Sequence[str] = names
        self._width = len(names)

    def take(self, rows: int) -> TextRows | None:
        """See :meth:`_TextReader.take`."""
        before = self._line
        some = self._next_lines(rows)
        if not some:
            return self._rows([], []) if self._line > before else None
        if self._careful or not self._width:
            self._careful = max(0, self._careful - 1)
        elif (found := self._parse_lines(some)) is not None:
            self._drop(len(some))
            return self._rows(some, found)
        else:
            self._careful = _CAREFUL_STEPS
        return self._take_each(some)

    def _next_lines(self, rows: int) -> list[str]:
        """Return the next lines, up to a possible comment; drop comments."""
        some = self._lines[:rows]
        comment = self.options.comment
        if comment is None:
            return some
        marked = [at for at, one in enumerate(some) if one.startswith(comment)]
        skipped = 0
        while marked and marked[0] == skipped:
            skipped += 1
            del marked[0]
        self._drop(skipped)
        return some[skipped : marked[0]] if marked else some[skipped:]

    def _parse_lines(self, some: list[str]) -> list[list[str]] | None:
        """Parse lines that are one row each; return None if one is not.

        Lines without quotes are split in half the time of csv, and only as far as the
        wanted columns.
        """
        text = "".join(some)
        # A blank line is not a row, but has as many fields as a row of one column.
        is_plain = not ('"' in text or "\r" in text or len(text) > MAX_FIELD_CHARS)
        if not is_plain or self._width == 1 or self.options.skip_initial_space:
            try:
                found = list(parse_csv(some, self.options))
            except csv.Error:
                return None
        else:
            delimiter = self.options.delimiter or ","
            last = 1 + max(self._wanted.values(), default=-1)
            if last < self._width // 2:  # most fields are not needed
                counts = set(map(str.count, some, repeat(delimiter)))
                if counts != {self._width - 1}:
                    return None
                return [one.split(delimiter, last) if last else [] for one in some]
            lines = text.removesuffix("\n").split("\n")
            found = [one.split(delimiter) for one in lines]
        # As many rows as lines, so no line is blank and no row spans several lines.
        if len(found) != len(some) or {self._width} != set(map(len, found)):
            return None
        return found

    def _rows(
        self,
        records: list[str],
        found: list[list[str]],
    ) -> TextRows:
        """Make rows with the wanted values."""
        text = "".join(records)
        plain = "\r" not in text and text[-1:] == "\n"
        columns = {}
        for name, at in self._wanted.items():
            values = self._without_null(list(map(itemgetter(at), found)))
            if name in self._identifiers and "'" in text:
                values = [
                    one[1:] if one.startswith(_DEFUSED) else one for one in values
                ]
            columns[name] = values
        return TextRows(records, columns, self, ends_plainly=plain)

    def _take_each(self, some: list[str]) -> TextRows | None:
        """Parse row by row to find the end of each.

        A row whose end is not loaded is parsed again from its start, once twice as much
        is loaded.
        """
        single = False
        while len(self._lines) >= 2 * self._unfinished or self._at_end:
            records, found, used = self._parse_each(some, single=single)
            self._drop(used)
            if used:
                self._unfinished = 0
                return self._rows(records, found)
            if len(some) < len(self._lines):
                # A row is longer than the window.
                some = self._lines[: 4 * len(some) + 1]
                single = True
                continue
            if self._at_end:
                self._reject(_CSV_ERRORS[_UNFINISHED], _QUOTE_HINT, "".join(some))
                self._drop(len(some))
                return None
            self._unfinished_at = (
                self._unfinished_at if self._unfinished else self._chars
            )
            self._unfinished = len(some)
        chars = self._chars - self._unfinished_at
        if len(self._lines) > MAX_ROW_LINES or chars > MAX_LINE_CHARS:
            raise self._error("the row is too long", _QUOTE_HINT)
        return None

    def _parse_each(
        self, some: list[str], *, single: bool
    ) -> tuple[list[str], list[list[str]], int]:
        """Parse lines; leave out an unfinished row.

        Returns:
            The unchanged rows, the fields of each, and the number of lines used.
        """
        records: list[str] = []
        found: list[list[str]] = []
        reader = parse_csv(some, self.options)
        used = 0
        while True:
            try:
                for row in reader:
                    after = reader.line_num
                    if row and len(row) == (self._width or len(row)):
                        records.append("".join(some[used:after]))
                        found.append(row)
                    elif row:
                        self._reject_width(row, "".join(some[used:after]), used)
                    used = after
                    if found and (single or not self._width):
                        break
            except csv.Error as error:
                cause = str(error)
            else:
                return records, found, used
            if _UNFINISHED in cause:
                return records, found, used
            after = reader.line_num
            self._reject_csv(cause, "".join(some[used:after]), used)
            used = after

    def _reject_width(self, row: list[str], record: str, before: int) -> None:
        """Report a row with too many or too few fields."""
        cause = f"{len(row)} fields, but the header has {self._width}"
        hint = _QUOTE_HINT
        if len(row) == 1 and row[0].isspace():
            cause, hint = "the line has only white space", "Remove the line."
        self._reject(cause, hint, record, before)

    def _reject_csv(self, error: str, record: str, before: int) -> None:
        """Report a row that the csv module cannot read."""
        ours = (ours for words, ours in _CSV_ERRORS.items() if words in error)
        hint = _QUOTE_HINT
        if '\\"' in record and self.options.escape is None:
            hint = _ESCAPE_HINT
        elif f'{self.options.delimiter} "' in record:
            hint = "If spaces follow the delimiters, use `skip_initial_space=True`."
        self._reject(next(ours, "this is not CSV"), hint, record, before)

    def parse(self, records: list[str]) -> list[list[str | None]]:
        """List the values of all columns; see :meth:`TextRows.texts`."""
        missing = {"", self.options.null}
        columns = zip(*parse_csv(records, self.options), strict=True)
        return [
            [None if one in missing else one for one in column] for column in columns
        ] or [[] for _ in self.header]


# --- JSON lines -----------------------------------------------------------------------

# The number of objects that determine the keys, since the first may lack optional keys.
_HEADER_ROWS: Final = 1_000

_Object: TypeAlias = dict[str, Any]

_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_str: Final = msgspec.json.Decoder(str | None).decode
# RecursionError: nested too deeply. UnicodeError: half of a surrogate pair.
_DEFECTS: Final = (msgspec.MsgspecError, RecursionError, UnicodeError)
_JSON_HINT: Final = "Each line must have one JSON object."


class _JsonNumber(str):
    """A number or NaN as written."""

    __slots__ = ()


def _decode_odd(line: str) -> _Object | None:
    """Decode an object with NaN or a lone surrogate; None if it is not an object.

    Other programs write these. They are passed on unchanged.
    """
    number = _JsonNumber
    try:
        found = json.loads(
            line, parse_float=number, parse_int=number, parse_constant=number
        )
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class JsonReader(_TextReader):
    """Reads JSON lines: one object per line, possibly with different keys.

    Skips blank lines. A file without lines has no rows. The header is the keys of the
    first thousand objects.
    """

    def __init__(
        self, stream: BufferedIOBase, options: FileFormatOptions, **more: Any
    ) -> None:
        """Look at the first objects."""
        super().__init__(stream, options, **more)
        self._added: Collection[str] = ()
        self._taken: frozenset[str] = frozenset()
        self._checked: list[str] = []
        self.header: Sequence[str] = self._read_header()

    def _read_header(self) -> list[str]:
        """List the keys of the first objects."""
        on_bad_row = self._on_bad_row
        if on_bad_row is not None:  # such a row is reported when taken
            self._on_bad_row = lambda _: None
        found: list[_Object] = []
        while not found and self.load():
            while (line := "".join(self._lines[:1])).isspace():
                self._drop(1)
            _, found = self._parse(self._lines[:_HEADER_ROWS])
            if line and not found and len(self._lines) >= _HEADER_ROWS:
                raise InputError(
                    f"{self.name}: none of the first lines is a JSON object.",
                    hint=_JSON_HINT,
                )
        self._on_bad_row = on_bad_row
        self._has_rows = bool(found)
        return list(dict.fromkeys(key for row in found for key in row))

    def want(
        self,
        columns: Sequence[str],
        keys: Sequence[str] = (),
        added: Collection[str] = (),
    ) -> None:
        """See :meth:`_TextReader.want`; no object may have an *added* key."""
        self._added = added
        self._taken = frozenset(map(str.casefold, added))
        if columns and self._has_rows and not self.header:
            raise InputError(
                f"{self.name}: the first objects have no keys.",
                hint="Write the identifiers of each row as a key of its object.",
            )
        # A file without rows has no header.
        read = (columns, keys) if self.header else ((), ())
        super().want(*read, added)

    def take(self, rows: int) -> TextRows | None:
        """See :meth:`_TextReader.take`."""
        some = self._lines[:rows]
        if not some:
            return None
        records, found = self._parse(some)
        columns = {name: self._values(name, found) for name in self._wanted}
        bad = {at for _, wrong in columns.values() for at in wrong}
        for at in sorted(bad):
            before = some.index(records[at])
            cause = "an identifier is not a string"
            self._reject(cause, "Write each as a JSON string.", records[at], before)
        kept = {name: values for name, (values, _) in columns.items()}
        if bad:
            good = [at for at in range(len(records)) if at not in bad]
            records = [records[at] for at in good]
            kept = {name: [one[at] for at in good] for name, one in kept.items()}
        self._drop(len(some))
        return TextRows(records, kept, self)

    def _values(self, name: str, found: list[_Object]) -> tuple[list[str], list[int]]:
        """List the values of a column, and those that cannot be identifiers."""
        key = self.header[self._wanted[name]]
        values = self._without_null([_text(one.get(key)) for one in found])
        if name not in self._identifiers or not any(
            one.startswith(("[", "{")) for one in values
        ):
            return values, []
        wrong = [at for at, one in enumerate(found) if _is_nested(one.get(key))]
        return values, wrong

    def _parse(self, some: list[str]) -> tuple[list[str], list[_Object]]:
        """Return the non-blank lines, and the fields of their objects."""
        records: list[str] = []
        found: list[_Object] = []
        for at, line in enumerate(some):
            row = None
            try:
                row = _decode_object(line)
            except _DEFECTS:
                if line.isspace():
                    continue
                row = _decode_odd(line)
            if row is None:
                hint = _JSON_HINT
                if line.lstrip()[:1] == "[":
                    hint += " To convert an array: jq -c '.[]'."
                self._reject("this is not a JSON object", hint, line, at)
                continue
            keys = list(row)
            if keys != self._checked:
                self._check_keys(keys)
            records.append(line)
            found.append(row)
        return records, found

    def _check_keys(self, keys: list[str]) -> None:
        """Reject keys that will be added; most rows repeat the keys of the last."""
        if not self._taken.isdisjoint(map(str.casefold, keys)):
            refuse_taken(keys, self._added, name=self.name)
        self._checked = keys

    def parse(self, records: list[str]) -> list[list[str | None]]:
        """List the values of all columns; see :meth:`TextRows.texts`."""
        _, found = self._parse(records)
        known = set(self.header)
        if any(row.keys() - known for row in found):
            raise InputError(
                f"{self.name}: a row has a key that is missing in the first "
                f"{_HEADER_ROWS:,} rows.",
                hint="Write JSON lines, or make sure that one of the first lines has "
                "all keys.",
            )
        return [
            [value or None for value in self._without_null(values)]
            for values in (
                [_text(row.get(key)) for row in found] for key in self.header
            )
        ]


def _text(value: Any) -> str:
    """Return a string; numbers as written; null or missing values as empty."""
    if value is None:
        return ""
    if isinstance(value, msgspec.Raw):
        try:
            return _decode_str(value) or ""
        except msgspec.ValidationError:
            return bytes(value).decode()
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _is_nested(value: Any) -> bool:
    """Return whether a value is an array or an object."""
    if isinstance(value, msgspec.Raw):
        return bytes(value)[:1] in (b"[", b"{")
    return isinstance(value, list | dict)


# --- Opening --------------------------------------------------------------------------


def open_stdio(stream: TextIO, mode: str) -> BufferedIOBase:
    """Reopen stdin or stdout with a separate buffer.

    A thread may still be blocked in it when the program ends. With Python's own buffer,
    that is a fatal error of the interpreter.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        return cast("BufferedIOBase", stream.buffer)  # replaced, for example by a test
    return cast("BufferedIOBase", open(descriptor, mode, closefd=False))


def _open_source(path: Path | None) -> BufferedReader:
    """Open a file, or stdin, for reading bytes."""
    if path is None:
        return cast("BufferedReader", open_stdio(sys.stdin, "rb"))
    return attempt_read(path, lambda: path.open("rb"))


def open_reader(
    path: Path | None,
    options: FileFormatOptions,
    *,
    name: str | None = None,
    on_bad_row: OnBadRow = None,
) -> Reader:
    """Open a file and read its header; blocks."""
    options = options.for_file(path)
    stream = _open_source(path)
    name = name or ("stdin" if path is None else printable(str(path)))
    try:
        if options.format in (Format.PARQUET, Format.ARROW):
            from uid2_async.bulk import arrow  # noqa: PLC0415 - it needs pyarrow

            return arrow.ArrowReader(stream, name=name, options=options)
        kind = CsvReader if options.format is Format.CSV else JsonReader
        return kind(
            stream, options, name=name, gzipped=is_gzipped(path), on_bad_row=on_bad_row
        )
    except BaseException:
        if path is not None:
            stream.close()
        raise
