"""Files of rows that get columns appended: CSV, JSON lines, Parquet and Arrow.

They are read and written a part at a time, so that their size does not matter, and what
was in them stays as it was. No message shows a value.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from uid2_async.bulk.columns import find_column
from uid2_async.bulk.paths import (
    STDIO,
    Content,
    FileFormatOptions,
    FilePair,
    check_targets,
    check_unchanged,
    identify,
    temp_sibling,
)
from uid2_async.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from uid2_async.bulk.text import Reader
    from uid2_async.bulk.writers import Output

__all__ = ["Cells", "RowFile", "Shape", "Work"]

CHUNK_ROWS: Final = 10_000

Cells: TypeAlias = tuple[str | int | None, ...]
"""What is appended to one row."""

Work: TypeAlias = Callable[[Sequence[Sequence[str]]], Iterable[Cells]]
"""What makes them: it is given the values of each wanted column, for some rows.

What is missing in the file is an empty str there.
"""


@attrs.frozen(kw_only=True)
class Shape:
    """Which columns are read, and which are appended.

    Attributes:
        wanted: The names of the columns that are read, by the option that names them.
        added: The columns that are appended, and what stands in each.
    """

    wanted: Mapping[str, str]
    added: Mapping[str, Content]


@attrs.frozen(kw_only=True)
class RowFile:
    """A file to read and the one to write.

    Attributes:
        source: The input's path, or ``-``.
        target: The output's path, or ``-``.
        options: How they are written.
        force: Whether the output may be replaced.
        shape: The columns.
    """

    source: str
    target: str
    options: FileFormatOptions
    force: bool
    shape: Shape

    def rewrite(self, prepare: Callable[[], Work]) -> None:
        """Write all rows, with the added columns.

        Args:
            prepare: Returns what makes them. Called once everything else is checked.

        Raises:
            InputError: If a file cannot be read or written, or a row cannot be read.
            JobError: If the output cannot be written.
        """
        # --help need not wait.
        from uid2_async.bulk.text import open_reader  # noqa: PLC0415 - above
        from uid2_async.bulk.writers import open_output  # noqa: PLC0415 - above

        source, target = _path(self.source), _path(self.target)
        is_file = source is not None and source.is_file()
        pair = FilePair(source, target)
        reading, writing = pair.formats(self.options)
        with closing(open_reader(source, reading)) as reader:
            names = list(self.shape.wanted.values())
            self._find_columns(reader)
            reader.want(names, added=self.shape.added)
            check_targets(
                [pair if is_file else FilePair(None, target)],
                force=self.force,
                begun=False,
            )
            identity = identify(source) if is_file and source else None
            work = prepare()
            part = None if target is None else temp_sibling(target)
            with (
                _exit_on_sigterm(),
                _removing(part),
                closing(
                    open_output(
                        reader, writing, part, added=self.shape.added, resumable=False
                    )
                ) as output,
            ):
                self._write(reader, output, work)
                if identity is not None and source is not None:
                    check_unchanged(source, identity)
                output.finish(target)

    def _find_columns(self, reader: Reader) -> None:
        """Find the wanted columns, if there is a row that could have them."""
        for option, name in self.shape.wanted.items():
            if reader.header:
                hint = f"Name it with {option} NAME."
                find_column(reader.header, name, name=reader.name, hint=hint)

    def _write(self, reader: Reader, output: Output, work: Work) -> None:
        """Write row after row."""
        names = self.shape.wanted.values()
        while True:
            rows = reader.take(CHUNK_ROWS)
            if rows is None:
                if not reader.load():
                    break
                continue
            if not rows.count:
                continue
            cells = work([rows.values(name) for name in names])
            columns = map(list, zip(*cells, strict=True))
            added = dict(zip(self.shape.added, columns, strict=True))
            output.write(output.format(rows, added))
        output.sync()


def _path(name: str) -> Path | None:
    """Return the path of a file; None for stdin or stdout."""
    return None if name == STDIO else Path(name)


@contextmanager
def _removing(part: Path | None) -> Iterator[None]:
    """Remove an unfinished file after the block."""
    try:
        yield
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM clean up behind the block."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(ExitCode.TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
