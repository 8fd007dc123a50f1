"""Writing rows: those of an input with columns appended, and tables of our own.

Text is written so that no reader splits it differently: Python before 3.13 does not
quote a lone CR, and reads it as the end of a row.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from uid2_async.bulk.columns import refuse_repeated
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    Format,
    Location,
    Remote,
    is_gzipped,
    known_suffix,
    place,
    temp_sibling,
    write_beside,
)
from uid2_async.bulk.private_files import (
    DISK,
    Disk,
    attempt,
    open_private,
    reopen_private,
    sync_file,
    write_all,
)
from uid2_async.bulk.text import (
    FORMULAS,
    CsvReader,
    JsonReader,
    Reader,
    Rows,
    TextRows,
    open_stdio,
    parse_csv,
)
from uid2_async.errors import InputError, JobError

if TYPE_CHECKING:
    from uid2_async.bulk.arrow import ArrowOutput


Output: TypeAlias = "TextOutput | ArrowOutput"

Columns: TypeAlias = Mapping[str, Sequence[Any]]

# About the size of a batch: no more rows are lost with the process.
_SAVE_ROWS: Final = 5_000
_MARK: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
_encode_json: Final = msgspec.json.Encoder().encode


def _iso(seconds: int) -> str:
    """Format a time as ISO 8601 in UTC."""
    instant = datetime.fromtimestamp(seconds, UTC)
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


def _instants(column: Sequence[Any]) -> list[str | None]:
    """Format the times of a column."""
    return [None if one is None else _iso(one) for one in column]


def _defused(field: str) -> str:
    """Put a ' before text that a spreadsheet would run as a formula."""
    return f"'{field}" if field.startswith(FORMULAS) else field


def _wide_mark(reader: Reader | None) -> str:
    """Return the byte order mark for a converted input, if text needs one."""
    if isinstance(reader, CsvReader | JsonReader) and reader.encoding != "utf-8":
        return _MARK if reader.prefix.startswith(_MARK) else ""
    return ""


def _split_end(record: str, default: str) -> tuple[str, str]:
    """Split off the line end of a row; CRs before it belong to it, as in csv."""
    body = record.rstrip("\r\n")
    line_end = record[len(body) :]
    return body, line_end if line_end.endswith("\n") else default


class CsvFormat:
    """Makes CSV from rows and their appended columns.

    This runs for every row of a file, so it works by column, and searches a whole
    column for quotes at once.
    """

    def __init__(
        self,
        options: FileFormatOptions,
        reader: Reader | None,
        added: Mapping[str, Content],
    ) -> None:
        """Write CSV according to *options*."""
        self.added: Mapping[str, Content] = added
        self._reader = reader
        self._iso = bool(options.iso)
        self._is_safe = options.spreadsheet_safe
        self._options = options
        self._delimiter = options.delimiter or ","
        self.keeps_text: bool = False
        if isinstance(reader, CsvReader):
            self._options = reader.options
            own = reader.options.delimiter or ","
            self._delimiter = options.delimiter or own
            self.keeps_text = self._delimiter == own
        first = reader.first if isinstance(reader, CsvReader) else ""
        # A last row without a line end gets that of the header.
        self._end = "\r\n" if first.endswith("\r\n") else "\n"
        self._width = len(added) + (0 if reader is None else len(reader.header))
        comment = self._options.comment
        self._marks = (
            self._delimiter,
            '"',
            "\n",
            "\r",
            *((" ",) if self._options.skip_initial_space else ()),
            *((comment,) if comment else ()),
        )

    def header(self) -> str:
        """Return what comes before the first row."""
        names = [self.cells([name]) for name in self.added]
        reader = self._reader
        if self.keeps_text and isinstance(reader, CsvReader):
            return reader.prefix + self.join([reader.first], names, plain=False)
        header = [] if reader is None else reader.header
        cells = [self.cells([name]) for name in header]
        return _wide_mark(reader) + self.lines([*cells, *names])

    def input_cells(self, rows: Rows) -> list[list[str]]:
        """Format the fields of the input."""
        return [self.cells(one) for one in rows.texts()]

    def lines(self, cells: list[list[str]]) -> str:
        """Format rows of our own, given by column."""
        if self._width == 1:  # an empty row would be a blank line
            cells = [[cell or '""' for cell in column] for column in cells]
        rows = map(self._delimiter.join, zip(*cells, strict=True))
        return "".join([f"{row}\n" for row in rows])

    def _defuse(self, records: list[str]) -> list[str]:
        """Defuse formulas in the fields of rows; leave others unchanged."""
        if not self._is_safe:
            return records
        found = parse_csv([_split_end(one, "")[0] for one in records], self._options)
        return [
            record
            if not any(map(str.startswith, fields, [FORMULAS] * len(fields)))
            else self._delimiter.join(self.cells(fields))
            + _split_end(record, self._end)[1]
            for record, fields in zip(records, found, strict=True)
        ]

    def cells(
        self, column: Sequence[Any], content: Content = Content.TEXT
    ) -> list[str]:
        """Format the fields of a column."""
        if content is Content.INSTANT and self._iso:
            column = _instants(column)
        elif content is not Content.TEXT:
            return ["" if one is None else str(one) for one in column]
        if not any(column):  # the usual case of PREV_UID, UNMAPPED and ERROR
            return [""] * len(column)
        cells = [one or "" for one in column]
        if self._is_safe:
            cells = list(map(_defused, cells))
        if self._needs_quotes("".join(cells)):
            return [
                self._quote(cell) if self._needs_quotes(cell) else cell
                for cell in cells
            ]
        return cells

    def _needs_quotes(self, text: str) -> bool:
        """Return whether a field with this text would be misread without quotes."""
        return any(mark in text for mark in self._marks)

    def _quote(self, cell: str) -> str:
        """Quote a field."""
        escape = self._options.escape
        if escape is None:
            return '"{}"'.format(cell.replace('"', '""'))
        marks = f'({re.escape(escape)}*)("|\\Z)'

        def write(found: re.Match[str]) -> str:
            return found[1] * 2 + (f'{escape}"' if found[2] else "")

        return f'"{re.sub(marks, write, cell)}"'

    def join(self, records: list[str], cells: list[list[str]], *, plain: bool) -> str:
        """Append fields to rows; *plain* rows are known to end only in LF."""
        records = self._defuse(records)
        ends = []
        if plain:
            bodies = [record[:-1] for record in records]
        else:
            split = [_split_end(record, self._end) for record in records]
            bodies, ends = [body for body, _ in split], [end for _, end in split]
        rows = map(self._delimiter.join, zip(bodies, *cells, strict=True))
        if plain:
            return "\n".join([*rows, ""])
        return "".join([row + end for row, end in zip(rows, ends, strict=True)])


class JsonFormat:
    """Makes JSON lines from rows and their appended columns.

    Only the end of an object is changed, so that numbers keep all digits.
    """

    def __init__(
        self,
        options: FileFormatOptions,
        reader: Reader | None,
        added: Mapping[str, Content],
    ) -> None:
        """Write JSON lines; see :class:`CsvFormat`."""
        self.added: Mapping[str, Content] = added
        self._iso = bool(options.iso)
        self._reader = reader
        self.keeps_text: bool = isinstance(reader, JsonReader)
        header = [] if reader is None or self.keeps_text else list(reader.header)
        if reader is not None:
            refuse_repeated(header, name=reader.name)
        names = (_encode_json(name).decode() for name in (*header, *added))
        escaped = [name.replace("%", "%%") for name in names]
        self._shape = ",".join(f"{name}:%s" for name in escaped)

    def header(self) -> str:
        """Return what comes before the first row."""
        reader = self._reader
        if isinstance(reader, JsonReader):
            return reader.prefix
        return _wide_mark(reader)

    def input_cells(self, rows: Rows) -> list[list[str]]:
        """Format the values of the input; Arrow numbers stay numbers."""
        if isinstance(rows, TextRows):
            return [self.cells(one) for one in rows.texts()]
        return rows.json_cells()

    def lines(self, cells: list[list[str]]) -> str:
        """Format rows of our own, given by column."""
        shape = f"{{{self._shape}}}\n"
        return "".join([shape % one for one in zip(*cells, strict=True)])

    def cells(
        self, column: Sequence[Any], content: Content = Content.TEXT
    ) -> list[str]:
        """Format the values of a column."""
        if content is Content.INSTANT and self._iso:
            column = _instants(column)
        # All at once, which is faster, if no value contains a comma.
        cells = _encode_json(column).decode()[1:-1].split(",")
        if len(cells) == len(column):
            return cells
        return [_encode_json(one).decode() for one in column]

    def join(self, records: list[str], cells: list[list[str]], *, plain: bool) -> str:  # noqa: ARG002 - each end is looked at
        """Insert fields before the ends of objects."""
        rows = []
        shape = self._shape
        for record, values in zip(records, zip(*cells, strict=True), strict=True):
            if record[-2:] == "}\n" and record[-3:-2] not in " \t\r{":
                rows.append(f"{record[:-2]},{shape % values}}}\n")
                continue
            body = record.rstrip()[:-1].rstrip()
            comma = "" if body.endswith("{") else ","
            _, line_end = _split_end(record, "\n")
            rows.append(f"{body}{comma}{shape % values}}}{line_end}")
        return "".join(rows)


class TextOutput:
    """Text in a growing part that is truncated to what was saved, or on stdout."""

    save_rows: int = _SAVE_ROWS

    def __init__(
        self,
        part: Path | None,
        text: CsvFormat | JsonFormat,
        *,
        encoding: str,
        saved: Any = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the part, or stdout."""
        self._part = part
        self._text = text
        self._encoding = encoding
        self._disk = disk
        self._size = int(saved or 0)
        self._stream: Any = None
        self._descriptor: int | None = None
        if part is None:
            self._stream = open_stdio(sys.stdout, "wb")
        elif saved is None or part.exists():  # otherwise it already has its name
            self._descriptor = reopen_private(part, self._size)
        if saved is None:
            try:
                self._write_header()
            except BaseException:
                self.close()
                raise

    def _write_header(self) -> None:
        """Write what comes before the first row."""
        header = self._text.header()
        mark = ""
        if self._encoding in ("utf-16", "utf-32"):
            # The byte order mark shows which one.
            self._encoding, mark = f"{self._encoding}-le", _MARK
        if header or mark:
            self.write(self._encode(mark + header))

    def _encode(self, text: str) -> bytes:
        """Encode text without keeping it in errors."""
        try:
            return text.encode(self._encoding)
        except UnicodeError:
            pass
        raise InputError(
            f"A value cannot be written in {self._encoding}.",
            hint='Convert the input to UTF-8, or use `encoding="utf-8"`.',
        )

    def format(
        self,
        rows: Rows | None,
        columns: Columns,
        repeat: Sequence[int] | None = None,
    ) -> bytes:
        """Make the text of some rows. CPU work."""
        text = self._text
        added = [text.cells(columns[name], kind) for name, kind in text.added.items()]
        if text.keeps_text and isinstance(rows, TextRows):
            records = rows.records
            if repeat is not None:
                records = [records[at] for at in repeat]
            return self._encode(text.join(records, added, plain=rows.ends_plainly))
        cells = [] if rows is None else text.input_cells(rows)
        if repeat is not None:
            cells = [[column[at] for at in repeat] for column in cells]
        return self._encode(text.lines([*cells, *added]))

    def write(self, formatted: bytes) -> None:
        """Write the result of :meth:`format`. Blocks."""
        if self._stream is not None:
            self._stream.write(formatted)
            self._stream.flush()
        elif self._descriptor is None:
            raise JobError(
                "The output already exists, but rows are missing.",
                hint="Discard the job and start over (`restart=True`).",
            )
        else:
            write_all(self._descriptor, formatted, "The output", disk=self._disk)
        self._size += len(formatted)

    def sync(self) -> int:
        """Sync everything to the disk. Blocks.

        Returns:
            The number of bytes, from which a run resumes.
        """
        if self._descriptor is not None:
            sync_file(self._descriptor, "The output", disk=self._disk)
        return self._size

    def finish(self, target: Path | None) -> None:
        """Rename the complete output to its final name. Blocks."""
        self.close()
        part = self._part
        if part is None or target is None:
            return
        if is_gzipped(target) and part.exists():
            write_beside(target, lambda path: _compress(part, path), disk=self._disk)
            part.unlink()
        else:
            place(part, target, disk=self._disk)

    def close(self) -> None:
        """Close open files, and leave their content unchanged."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _compress(part: Path, path: Path) -> None:
    """Write a compressed copy; deterministic."""
    with (
        part.open("rb") as source,
        os.fdopen(open_private(path), "wb") as file,
        # The level is gzip's own default. Python's differs between versions.
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed)


def open_output(
    reader: Reader | None,
    options: FileFormatOptions,
    part: Path | None,
    *,
    added: Mapping[str, Content],
    saved: Any = None,
    resumable: bool = True,
    disk: Disk = DISK,
) -> Output:
    """Open the output of a file. Blocks.

    Rows written in the format in which they were read keep their text or types. In
    conversions, CSV cells are strings, and an empty cell is missing; JSON values that
    are not strings become their text in the file; Parquet and Arrow values are as
    :meth:`~uid2_async.bulk.arrow.ArrowRows.texts` says.
    """
    if options.format in (Format.PARQUET, Format.ARROW):
        from uid2_async.bulk import arrow  # noqa: PLC0415 - it needs pyarrow

        assert part is not None  # noqa: S101 - such files are not streamed
        return arrow.ArrowOutput(
            reader,
            options,
            part,
            added=added,
            saved=saved,
            resumable=resumable,
            disk=disk,
        )
    kind = JsonFormat if options.format is Format.JSONL else CsvFormat
    encoding = options.encoding
    if isinstance(reader, CsvReader | JsonReader):
        encoding = reader.encoding
    return TextOutput(
        part,
        kind(options, reader, added),
        encoding=encoding,
        saved=saved,
        disk=disk,
    )


def _whole_copy(remote: Remote, folder: Path) -> Path:
    """Return the path of the file to upload; remove one left by a killed run."""
    digest = sha256(remote.name.encode()).hexdigest()[:16]
    path = folder / f".uid2-upload-{digest}{known_suffix(remote.path)}"
    attempt("", path.unlink, missing_ok=True)
    return path


class TableWriter:
    """Writes a table of our own, such as a delta or export, in the format of its name.

    The file appears when it is complete; otherwise, nothing is left of it.
    """

    def __init__(
        self,
        path: Location | None,
        columns: Mapping[str, Content],
        *,
        folder: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the unfinished file; what is uploaded is in *folder* until then."""
        self._remote = path if isinstance(path, Remote) else None
        if isinstance(path, Remote):
            path = _whole_copy(path, folder or Path())
        options = FileFormatOptions().for_file(path)
        self._path = path
        self._part = None if path is None else attempt("", temp_sibling, path)
        self.rows: int = 0
        self._output = open_output(
            None, options, self._part, added=columns, resumable=False, disk=disk
        )

    def write(self, columns: Columns) -> None:
        """Write some rows, given as columns of equal length. Blocks."""
        self._output.write(self._output.format(None, columns))
        self.rows += len(next(iter(columns.values()), ()))

    def finish(self) -> None:
        """Rename the complete file to its final name. Blocks."""
        try:
            self._output.finish(self._path)
            if self._remote is not None and self._path is not None:
                self._remote.deliver(self._path)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; remove it if it is not finished."""
        self._output.close()
        whole = None if self._remote is None else self._path
        for left in (self._part, whole):
            if left is not None:
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
