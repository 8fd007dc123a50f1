"""Opening files to read and to write, in any format, and tables of our own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from uid2_async._private import printable
from uid2_async.bulk.csv_files import CsvOutput, CsvReader
from uid2_async.bulk.json_lines import JsonOutput, JsonReader
from uid2_async.bulk.paths import (
    Content,
    FileFormatOptions,
    Format,
    InputIdentity,
    Location,
    Remote,
    attempt_read,
    identify,
    is_gzipped,
    known_suffix,
    temp_sibling,
)
from uid2_async.bulk.private_files import DISK, Disk, replace
from uid2_async.bulk.text import OnBadRow, TextOutput, TextReader, TextRows, open_stdio

if TYPE_CHECKING:
    from uid2_async.bulk.arrow import ArrowOutput, ArrowReader, ArrowRows

Reader: TypeAlias = "CsvReader | JsonReader | ArrowReader"
Rows: TypeAlias = "TextRows | ArrowRows"
Output: TypeAlias = "TextOutput | ArrowOutput"
Columns: TypeAlias = Mapping[str, Sequence[Any]]


def open_reader(
    path: Path | None,
    options: FileFormatOptions,
    *,
    name: str | None = None,
    on_bad_row: OnBadRow = None,
) -> Reader:
    """Open a file and read its header; blocks."""
    options = options.for_file(path)
    if path is None:
        stream = cast("BufferedReader", open_stdio(sys.stdin, "rb"))
        name = name or "stdin"
    else:
        stream = attempt_read(path, lambda: path.open("rb"))
        name = name or printable(str(path))
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


def open_output(
    reader: Reader | None,
    options: FileFormatOptions,
    part: Path | None,
    **how: Any,
) -> Output:
    """Open the output of a file, as :class:`TextOutput` says. Blocks.

    Rows written in the format in which they were read keep their text or types. In
    conversions, CSV cells are strings, and an empty cell is missing; JSON values that
    are not strings become their text in the file; Parquet and Arrow values are as
    :meth:`~uid2_async.bulk.arrow.ArrowRows.texts` says.
    """
    if options.format in (Format.PARQUET, Format.ARROW):
        from uid2_async.bulk import arrow  # noqa: PLC0415 - it needs pyarrow

        assert part is not None  # noqa: S101 - such files are not streamed
        return arrow.ArrowOutput(reader, options, part, **how)
    kind = JsonOutput if options.format is Format.JSONL else CsvOutput
    return kind(reader, options, part, **how)


def check_output(
    reader: Reader | None,
    options: FileFormatOptions,
    added: Mapping[str, Content],
    *,
    explode: bool = False,
) -> Any:
    """Reject an output that could not be written, before anything is sent. Blocks.

    From then on, the *reader* rejects the rows that could not be converted.

    Returns:
        The Arrow schema of the output; None if it is text.
    """
    # As if it already had its final name, so that nothing is opened.
    part = None if options.format is None or options.format.is_text else Path()
    output = open_output(reader, options, part, added=added, saved=0)
    rows = None if isinstance(reader, TextReader | None) else reader.no_rows()
    if rows is not None:
        output.format(rows, dict.fromkeys(added, ()), [] if explode else None)
    return getattr(output, "schema", None)


class TableWriter:
    """Writes a table of our own, such as a delta or export, in the format of its name.

    The file appears when it is complete; otherwise, nothing is left of it.

    Attributes:
        rows: The number of rows written.
        is_finished: Whether nothing more is written.
    """

    def __init__(
        self,
        path: Location | None,
        columns: Mapping[str, Content],
        *,
        spreadsheet_safe: bool = False,
        folder: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the unfinished file; what is uploaded is in *folder* until then."""
        self._remote = path if isinstance(path, Remote) else None
        if isinstance(path, Remote):
            digest = sha256(path.name.encode()).hexdigest()[:16]
            name = f".uid2-upload-{digest}{known_suffix(path.path)}"
            path = (folder or Path()) / name
        self._path = path
        self._disk = disk
        self._whole: Path | None = None
        self._is_complete = False
        self.is_finished: bool = False
        self.rows: int = 0
        options = FileFormatOptions(spreadsheet_safe=spreadsheet_safe).for_file(path)
        part = None
        with ExitStack() as resources:
            if path is not None:
                part = resources.enter_context(temp_sibling(path, disk=disk))
                suffix = ".gz" if is_gzipped(path) else ".new"
                self._whole = part.with_name(f"{part.name}{suffix}")
                resources.callback(self._whole.unlink, missing_ok=True)
            self._output = open_output(
                None, options, part, added=columns, resumable=False, disk=disk
            )
            resources.callback(self._output.close)
            self._resources: ExitStack = resources.pop_all()

    def write(self, columns: Columns) -> None:
        """Write some rows, given as columns of equal length. Blocks."""
        self._output.write(self._output.format(None, columns))
        self.rows += len(next(iter(columns.values()), ()))

    def complete(self) -> InputIdentity | None:
        """Complete the file, and identify it before it has its name. Blocks."""
        if not self._is_complete:
            self._output.finish(self._whole)
            self._is_complete = True
        return None if self._whole is None else identify(self._whole)

    def finish(self) -> None:
        """Rename the complete file to its final name. Idempotent. Blocks."""
        if self.is_finished:
            return
        self.is_finished = True
        try:
            self.complete()
            if self._whole is not None and self._remote is not None:
                self._remote.deliver(self._whole)
            elif self._whole is not None and self._path is not None:
                replace(self._whole, self._path, disk=self._disk)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; remove it if it is not finished, or was uploaded."""
        self._resources.close()
