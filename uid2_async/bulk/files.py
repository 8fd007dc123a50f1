"""Opening files to read and to write, in any format, and tables of our own."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, cast

from uid2_async._private import printable
from uid2_async.bulk.csv_files import CsvFormat, CsvReader
from uid2_async.bulk.json_lines import JsonFormat, JsonReader
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    Format,
    Location,
    Remote,
    attempt_read,
    is_gzipped,
    known_suffix,
    move_file,
    temp_sibling,
    write_atomically,
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
from uid2_async.bulk.text import MARK, WIDE, OnBadRow, TextReader, TextRows
from uid2_async.errors import InputError, JobError

if TYPE_CHECKING:
    from uid2_async.bulk.arrow import ArrowOutput, ArrowReader, ArrowRows


Reader: TypeAlias = "CsvReader | JsonReader | ArrowReader"
Rows: TypeAlias = "TextRows | ArrowRows"
Output: TypeAlias = "TextOutput | ArrowOutput"
Columns: TypeAlias = Mapping[str, Sequence[Any]]

# About the size of a batch: no more rows are lost with the process.
_SAVE_ROWS: Final = 5_000


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
        if self._encoding in WIDE:
            # The byte order mark shows which one.
            self._encoding, mark = f"{self._encoding}-le", MARK
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
            write_atomically(
                target, lambda path: _compress(part, path), disk=self._disk
            )
            part.unlink()
        else:
            move_file(part, target, disk=self._disk)

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
    if isinstance(reader, TextReader):
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
