"""What CSV and JSON lines share: decoding, in chunks, and the text of each row.

Malformed input is an error with its line number, never skipped or repaired. Messages
never show values: the lines of such files are personal data.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import stat
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from io import BufferedIOBase, StringIO
from itertools import takewhile
from os import fstat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, cast

import attrs

from uid2_async._private import printable
from uid2_async.bulk.columns import find_wanted, is_encodable, refuse_unencodable
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    is_moved,
    move_file,
)
from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    reopen_private,
    sync_file,
    write_all,
)
from uid2_async.errors import InputError, JobError

if TYPE_CHECKING:
    from uid2_async.bulk.files import Columns, Reader, Rows

MAX_LINE_CHARS: Final = 64 * 1024 * 1024
MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
MAX_ROW_LINES: Final = 1_000_000

# Splitting a chunk into lines takes 1-2 ms, during which no other thread runs.
_PIECE_BYTES: Final = 512 * 1024
# Those of UTF-32 come first: one of them starts like one of UTF-16.
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    codecs.BOM_UTF8: "utf-8",
}
WIDE: Final = ("utf-16", "utf-32")
"""Encodings that need a byte order mark."""

MARK: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
# In these, bytes that cannot be decoded leave the line ends where they are.
_ESCAPED: Final = ("utf-8", "ascii")
DAMAGE: Final = re.compile("[\udc80-\udcff]")
"""Such bytes in the text of a line."""

# Text has only one representation in these. Others have several, or lose characters.
_EXACT: Final = frozenset({"ascii", "iso8859-1", *_MARKS.values()})
_NOT_TEXT: Final = {
    b"PK\3\4": ("a ZIP archive or an Excel workbook", "Save it as CSV."),
    b"\x1f\x8b": ("compressed by gzip", "Rename it so that the name ends in .gz."),
    # More than their names, which could begin the header of a text file.
    b"PAR1\x15": (
        "Parquet",
        'Use `format="parquet"`, or a name that ends in .parquet.',
    ),
    b"ARROW1\0\0": (
        "an Arrow file",
        'Use `format="arrow"`, or a name that ends in .arrow.',
    ),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Decompress it first: zstd -d."),
    b"\xfd7zXZ": ("compressed by xz", "Decompress it first: xz -d."),
} | dict.fromkeys(
    (b"BZh%d1AY&SY" % level for level in range(1, 10)),
    ("compressed by bzip2", "Decompress it first: bzip2 -d."),
)


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
    _columns: Mapping[int | str, list[str]]
    _reader: TextReader
    ends_plainly: bool = False

    @property
    def count(self) -> int:
        """The number of rows; zero if there were only blank lines."""
        return len(self.records)

    def values(self, column: int | str) -> list[str]:
        """List the values of an identifier column. A missing value is empty."""
        return self._columns[column]

    def key_texts(self, key: str) -> list[str | None]:
        """List the values of a key; see :meth:`texts`."""
        return [one or None for one in self._columns[key]]

    def texts(self) -> list[list[str | None]]:
        """List the values of all columns, for another format.

        An empty value is missing, and so is the text of the option *null*.
        """
        missing = {"", self._reader.options.null}
        return [
            [None if one in missing else one for one in column]
            for column in self.fields()
        ]

    def fields(self) -> list[list[str]]:
        """List the values of all columns, for another dialect."""
        return self._reader.parse(self.records)


class TextReader(ABC):
    """Reads the rows of a text file; *load* reads, everything else works in memory.

    Attributes:
        name: The name of the file in messages.
        options: How the rows are encoded.
        encoding: The detected encoding of the file.
        header: The names of the columns.
        prefix: The text before them in the file: a byte order mark, a sep= line.
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
        self._on_bad_row = on_bad_row
        self._collects = on_bad_row is not None
        # Up to which line there may be bytes that cannot be decoded.
        self._damaged_until = 0
        self._wanted: dict[int | str, int] = {}
        self._stream = stream
        # From a pipe, read what is available: its writer may be slow.
        self._read_some = stream.read1
        if gzipped:
            self._read_some = gzip.GzipFile(fileobj=stream, mode="rb").read
        self._decoder: codecs.IncrementalDecoder | None = None
        self._is_reading = False
        self._bytes = 0
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
        self._choose_encoding(mark, is_empty=not data)
        return data.removeprefix(mark)

    def _choose_encoding(self, mark: bytes, *, is_empty: bool) -> None:
        """Choose the encoding by the option and the byte order mark."""
        found = _MARKS.get(mark, self.encoding)
        family = found.removesuffix("-le").removesuffix("-be")
        if not self.encoding.startswith(family):
            raise self._error(
                f"this is {family.upper()}",
                f'Convert the file to UTF-8, or use `encoding="{family}"`.',
            )
        if found in WIDE and not is_empty:
            raise self._error(
                "there is no byte order mark",
                f'Use `encoding="{found}-le"` or `encoding="{found}-be"`.',
            )
        self.encoding = found
        self.prefix = mark.decode(found)
        self._decoder = codecs.getincrementaldecoder(found)("strict")

    def _decode(self, data: bytes) -> str:
        """Decode bytes without keeping them in errors."""
        assert self._decoder is not None  # noqa: S101 - by _choose_encoding
        before, _ = self._decoder.getstate()
        text, lines = "", None
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            whole = error.object[: error.start].decode(self.encoding, "replace")
            lines = len(self._lines) + whole.count("\n")
        except UnicodeError:  # from codecs without a position
            lines = len(self._lines)
        if lines is not None:
            if not self._collects or self.encoding not in _ESCAPED:
                raise self._error(*self._encoding_fault, lines)
            # The rows of such bytes are rejected when taken.
            self._decoder.errors = "surrogateescape"
            text = self._decoder.decode(data, final=not data)
            self._decoder.errors = "strict"
            end = len(self._lines) + text.count("\n") + 1
            self._damaged_until = self._line + end
        rest, _ = self._decoder.getstate()
        self._check_text(text, before + data, rest)
        return text

    @property
    def _encoding_fault(self) -> tuple[str, str]:
        """The cause and hint for bytes that cannot be decoded."""
        return (
            f"this is not {self.encoding.upper()}",
            "Convert the file to UTF-8, or name its encoding with `encoding`.",
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
        where = f"{self.name}, line {self._line + before + 1}"
        return InputError(f"{where}: {what}.", hint=hint)

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

    def select(
        self,
        columns: Sequence[int],
        keys: Sequence[str] = (),
        added: Collection[str] = (),
    ) -> None:
        """Set the columns to read, before any rows are taken.

        The *columns* of identifiers are given by index. The values of *keys* are taken
        unchanged. No column may have the name of one of *added*, which will be
        appended.
        """
        if not self.header:  # a file without rows
            keys = ()
        self._wanted = find_wanted(self.header, columns, keys, added, name=self.name)

    def convert_to(self, encoding: str) -> None:
        """Read only what can be written in another format, in *encoding*."""
        refuse_unencodable(self.header, encoding, name=self.name)

    @abstractmethod
    def take(self, rows: int) -> TextRows | None:
        """Return at most *rows* loaded rows; None if there are none left.

        Errors name the row that cannot be read, and show no values.
        """

    @abstractmethod
    def parse(self, records: list[str]) -> list[list[str]]:
        """List the values of all columns; see :meth:`TextRows.fields`."""

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

    def _skip_while(self, is_blank: Callable[[str], bool]) -> None:
        """Drop loaded lines up to the first that is not blank, all at once."""
        self._drop(len(list(takewhile(is_blank, self._lines))))

    def _drop(self, count: int) -> None:
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
        # As text: bytes that cannot be decoded become replacement characters.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        bad = BadRow(name=self.name, line=line, cause=cause, hint=hint, text=text)
        if self._on_bad_row is None:
            raise bad.error()
        self._on_bad_row(bad)


# --- Writing --------------------------------------------------------------------------


def iso_texts(column: Sequence[int | None]) -> list[str | None]:
    """Format the times of a column as ISO 8601 in UTC."""
    return [
        one
        if one is None
        else datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds")[:-6] + "Z"
        for one in column
    ]


def split_line_end(record: str, default: str) -> tuple[str, str]:
    """Split off the line end of a row; CRs before it belong to it, as in csv."""
    body = record.rstrip("\r\n")
    line_end = record[len(body) :]
    return body, line_end if line_end.endswith("\n") else default


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


class TextOutput(ABC):
    """Text in a growing part that is truncated to what was saved, or on stdout.

    Attributes:
        added: The columns to append, and what each contains.
        keeps_text: Whether rows keep their text, because no format is converted.
        save_rows: The number of rows to save at once. It is about the size of a batch,
            so that no more rows are lost with the process.
    """

    save_rows: int = 5_000

    def __init__(
        self,
        reader: Reader | None,
        options: FileFormatOptions,
        part: Path | None,
        *,
        added: Mapping[str, Content],
        saved: Any = None,
        resumable: bool = True,  # noqa: ARG002 - text can always be resumed
        disk: Disk = DISK,
    ) -> None:
        """Open the part, or stdout; append to the *saved* bytes."""
        self.added: Mapping[str, Content] = added
        self._iso = bool(options.iso)
        self._encoding = options.encoding
        if isinstance(reader, TextReader):
            self._encoding = reader.encoding
        self.keeps_text: bool = self._set_format(reader, options)
        prefix = self._choose_prefix(reader)
        self._names = self._converted_names(reader)
        self._part = part
        self._disk = disk
        self._size = int(saved or 0)
        self._resumed = saved is not None
        self._stream: Any = None
        self._descriptor: int | None = None
        if part is not None and (saved is None or part.exists()):
            # Otherwise, it already has its name.
            self._descriptor = reopen_private(part, self._size)
        elif part is None and saved is None:
            self._stream = open_stdio(sys.stdout, "wb")
        if saved is None and (header := prefix + self.header(reader)):
            try:
                self.write(self._encode(header))
            except BaseException:
                self.close()
                raise

    def _choose_prefix(self, reader: Reader | None) -> str:
        """Return what comes before the header, and complete the encoding."""
        prefix = reader.prefix if isinstance(reader, TextReader) else ""
        if not self.keeps_text:
            # Of a converted input, a byte order mark remains if its encoding needs one.
            is_marked = prefix.startswith(MARK) and self._encoding != "utf-8"
            prefix = MARK if is_marked else ""
        if self._encoding in WIDE:
            # The byte order mark shows which one.
            self._encoding, prefix = f"{self._encoding}-le", MARK
        return prefix

    def _converted_names(self, reader: Reader | None) -> Sequence[str]:
        """Return the names of converted columns; reject those that are lost."""
        if reader is None or self.keeps_text:
            return []
        if isinstance(reader, TextReader):
            reader.convert_to(self._encoding)
        else:
            refuse_unencodable(reader.header, self._encoding, name=reader.name)
        return reader.header

    def _encode(self, text: str, cells: Sequence[Sequence[str]] = ()) -> bytes:
        """Encode the text of *cells* without keeping it in errors."""
        try:
            return text.encode(self._encoding)
        except UnicodeError:
            pass
        # Values of Arrow: those of text are checked when they are read.
        lost = [
            name
            for name, column in zip(self._names, cells, strict=False)
            if not is_encodable("".join(column), self._encoding)
        ]
        where = f" of the column '{printable(lost[0])}'" if lost else ""
        raise InputError(
            f"A value{where} cannot be written in {self._encoding}.",
            hint='Use `encoding="utf-8"`.',
        )

    def format(
        self,
        rows: Rows | None,
        columns: Columns,
        repeat: Sequence[int] | None = None,
    ) -> bytes:
        """Make the text of some rows. CPU work."""
        added = [self.cells(columns[name], kind) for name, kind in self.added.items()]
        if self.keeps_text and isinstance(rows, TextRows):
            records = rows.records
            if repeat is not None:
                records = [records[at] for at in repeat]
            return self._encode(self.join(records, added, plain=rows.ends_plainly))
        cells = [] if rows is None else self.input_cells(rows)
        if repeat is not None:
            cells = [[column[at] for at in repeat] for column in cells]
        cells += added
        return self._encode(self.lines(cells), cells)

    @abstractmethod
    def _set_format(self, reader: Reader | None, options: FileFormatOptions) -> bool:
        """Set how rows are written; return whether those read keep their text."""

    def header(self, reader: Reader | None) -> str:  # noqa: ARG002 - for those that have one
        """Return the line with the names of all columns, if there is one."""
        return ""

    def input_cells(self, rows: Rows) -> list[list[str]]:
        """Format the fields of the input, by column."""
        return [self.cells(one) for one in rows.texts()]

    @abstractmethod
    def cells(
        self, column: Sequence[Any], content: Content = Content.TEXT
    ) -> list[str]:
        """Format the fields of a column."""

    @abstractmethod
    def lines(self, cells: list[list[str]]) -> str:
        """Format rows of our own, given by column."""

    @abstractmethod
    def join(self, records: list[str], cells: list[list[str]], *, plain: bool) -> str:
        """Append fields to rows; *plain* rows are known to end only in LF."""

    def write(self, *formatted: bytes) -> None:
        """Write results of :meth:`format`. Blocks."""
        data = b"".join(formatted)
        if self._stream is not None:
            self._stream.write(data)
            self._stream.flush()
        elif self._descriptor is None:
            raise JobError(
                "The output already exists, but rows are missing.",
                hint="Discard the job and start over (`restart=True`).",
            )
        else:
            write_all(self._descriptor, data, "The output", disk=self._disk)
        self._size += len(data)

    def sync(self) -> int:
        """Sync everything; return the number of bytes, to resume from. Blocks."""
        if self._descriptor is not None:
            sync_file(self._descriptor, "The output", disk=self._disk)
        return self._size

    def finish(self, target: Path | None) -> None:
        """Rename the complete output to its final name. Blocks."""
        self.close()
        if self._part is None or target is None:
            return
        if not (self._resumed and is_moved([self._part], target)):
            move_file(self._part, target, disk=self._disk)

    def close(self) -> None:
        """Close open files, and leave their content unchanged."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
