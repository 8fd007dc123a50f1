"""Opening the files of a job, each by its format."""

from __future__ import annotations

import sys
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from uid2_async.bulk.files.chunk import Reader
from uid2_async.bulk.files.columns import refuse_taken
from uid2_async.bulk.files.csv_reader import CsvReader
from uid2_async.bulk.files.formats import Format, Layout, is_gzipped
from uid2_async.bulk.files.jsonl_reader import JsonlReader
from uid2_async.bulk.files.output import Output, PartOutput, StreamOutput
from uid2_async.bulk.files.pieces import Lines
from uid2_async.bulk.files.text_rows import TextRows
from uid2_async.bulk.private_files import DISK, Disk
from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.bulk.files.arrow_reader import ArrowReader

__all__ = ["open_output", "open_reader", "open_source"]


def open_source(path: Path | None) -> BufferedReader:
    """Open a file, or stdin, for reading bytes.

    Raises:
        InputError: If it cannot be opened.
    """
    if path is None:
        return cast("BufferedReader", _standard(sys.stdin, "rb"))
    try:
        return path.open("rb")
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise InputError(f"{path} cannot be read: {cause}.", hint="Check the path.")


def _standard(stream: TextIO, mode: str) -> object:
    """Open stdin or stdout anew, with a buffer of its own.

    A thread may still be blocked in it when the program ends; with Python's own buffer
    that is a fatal error of the interpreter.
    """
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream.buffer  # replaced, by a test for one
    return open(descriptor, mode, closefd=False)


def open_reader(path: Path | None, layout: Layout) -> Reader:
    """Open a file and read its header.

    Args:
        path: Where; None is stdin.
        layout: How its rows are written down, and what will be added to them.

    Raises:
        InputError: If it cannot be read, or has one of the columns that will be added.
    """
    stream = open_source(path)
    try:
        reader = _reader(stream, path, layout)
        refuse_taken(reader.header, layout.added)
    except BaseException:
        if path is not None:
            stream.close()
        raise
    return reader


def _reader(stream: BufferedReader, path: Path | None, layout: Layout) -> Reader:
    """Make the reader of a format."""
    name = "stdin" if path is None else str(path)
    if not layout.format.is_text:
        from uid2_async.bulk.files import arrow_reader  # noqa: PLC0415 - it needs pyarrow

        return arrow_reader.ArrowReader(stream, name=name, file_format=layout.format)
    csv = layout.format is Format.CSV
    lines = Lines(
        stream,
        name=name,
        encoding=layout.encoding if csv else "utf-8",
        gzipped=path is not None and is_gzipped(path.name),
    )
    if csv:
        return CsvReader(lines, delimiter=layout.delimiter)
    return JsonlReader(lines, added=list(layout.added))


def open_output(
    reader: Reader,
    layout: Layout,
    part: Path | None,
    *,
    remembered: Any = None,
    disk: Disk = DISK,
) -> Output:
    """Open the output of a file.

    Args:
        reader: Of the file; its header has been read.
        layout: How rows are written down.
        part: Where the output grows; None is stdout.
        remembered: What :meth:`Output.sync` said in an earlier life.
        disk: What may fail.

    Raises:
        JobError: If it cannot be opened.
    """
    if not layout.format.is_text:
        from uid2_async.bulk.files.arrow_output import (  # noqa: PLC0415 - it needs pyarrow
            ArrowOutput,
        )

        assert part is not None  # noqa: S101 - such files are not streamed
        schema = cast("ArrowReader", reader).schema
        return ArrowOutput(schema, layout, part, remembered=remembered, disk=disk)
    assert isinstance(reader, CsvReader | JsonlReader)  # noqa: S101 - by the format
    rows = TextRows(layout, first=reader.first, encoding=reader.encoding)
    if part is None:
        return StreamOutput(cast("BufferedWriter", _standard(sys.stdout, "wb")), rows)
    return PartOutput(part, rows, remembered=remembered, disk=disk)
