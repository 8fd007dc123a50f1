"""Files of rows that get columns appended: CSV, JSON lines, Parquet and Arrow.

They are read and written a part at a time, so that their size does not matter, and what
was in them stays as it was. No message shows a value.
"""

from __future__ import annotations

import secrets
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, TypeAlias

import attrs

from uid2_async.bulk.content import Content
from uid2_async.bulk.files import (
    STANDARD,
    FilePair,
    Layout,
    Output,
    Reader,
    check_targets,
    format_of,
    open_output,
    open_reader,
)
from uid2_async.bulk.files.columns import find_column
from uid2_async.cli.failure import ExitCode

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
        format: The format of both; None if their names tell it.
        force: Whether the output may be replaced.
        shape: The columns.
    """

    source: str
    target: str
    format: str | None
    force: bool
    shape: Shape

    def rewrite(self, prepare: Callable[[], Work]) -> None:
        """Write all rows, with the columns that are appended.

        Args:
            prepare: Gives what makes them; called once all else is found to be in
                order.

        Raises:
            InputError: If a file is not as it must be, or a row cannot be read.
            JobError: If the output cannot be written.
        """
        source, target = _path(self.source), _path(self.target)
        layout = Layout(
            format=format_of(self.source, self.target, self.format),
            added=self.shape.added,
        )
        with closing(open_reader(source, layout)) as reader:
            self._find_columns(reader)
            is_file = source is not None and source.is_file()
            pair = FilePair(source if is_file else None, target)
            check_targets([pair], force=self.force, begun=False)
            work = prepare()
            with (
                _exit_on_sigterm(),
                _part_of(target) as part,
                closing(open_output(reader, layout, part)) as output,
            ):
                self._write(reader, output, work)
                output.finish(target)

    def _find_columns(self, reader: Reader) -> None:
        """Find the wanted columns, where there is a row that could have them."""
        for option, name in self.shape.wanted.items():
            if reader.header:
                find_column(reader.header, name, hint=f"Name it with {option} NAME.")
        reader.want(list(self.shape.wanted.values()))

    def _write(self, reader: Reader, output: Output, work: Work) -> None:
        """Write row after row, and let go of what has been written."""
        names = self.shape.wanted.values()
        held = 0
        while True:
            chunk = reader.take(CHUNK_ROWS)
            if chunk is not None:
                cells = work([chunk.values(name) for name in names])
                columns = zip(*cells, strict=True)
                added = dict(zip(self.shape.added, columns, strict=True))
                output.write(output.format(chunk, added))
                held += chunk.rows
            elif not reader.load():
                output.sync()
                return
            if held >= output.save_rows:
                output.sync()
                held = 0


def _path(name: str) -> Path | None:
    """Give the path of a file; None for stdin or stdout."""
    return None if name == STANDARD else Path(name)


@contextmanager
def _part_of(target: Path | None) -> Iterator[Path | None]:
    """Make a private folder beside the output, in which that grows, and remove it."""
    if target is None:
        yield None
        return
    # Named before it is made, so that a signal in between leaves nothing behind either.
    folder = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.partial")
    try:
        folder.mkdir(mode=0o700)
        yield folder / "part"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
