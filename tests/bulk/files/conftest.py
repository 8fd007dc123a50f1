"""Files in memory, and reading and rewriting them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from uid2_async.bulk.columns import find_column
from uid2_async.bulk.files import open_output, open_reader
from uid2_async.bulk.paths import Content, FileFormatOptions, FilePair

ADDED = {"UID": Content.TEXT, "REFRESH_FROM": Content.INSTANT, "ERROR": Content.TEXT}


def cells(first: int, rows: int) -> dict[str, list[Any]]:
    """Make the added columns: every third row has none but an error."""
    numbers = range(first, first + rows)
    return {
        "UID": [f"uid{n}" if n % 3 else None for n in numbers],
        "REFRESH_FROM": [n if n % 3 else None for n in numbers],
        "ERROR": [None if n % 3 else "ServerError, HTTP 500" for n in numbers],
    }


@pytest.fixture
def make_reader(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open *data* as the file in.SUFFIX."""
    readers: list[Any] = []

    def make(
        data: bytes, suffix: str = "csv", *, on_bad_row: Any = None, **options: Any
    ) -> Any:
        path = tmp_path / f"in.{suffix}"
        path.write_bytes(data)
        how = FileFormatOptions(**options)
        reader = open_reader(path, how, on_bad_row=on_bad_row)
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        reader.close()


def select(reader: Any, *columns: str) -> list[int]:
    """Select the columns with these names as identifiers; return their indexes."""
    indexes = [find_column(reader.header, one, name=reader.name) for one in columns]
    reader.select(indexes)
    return indexes


def read_all(reader: Any, rows: int = 1_000) -> list[Any]:
    """Return all rows of a file, as they are taken."""
    found = []
    while True:
        some = reader.take(rows)
        if some is not None:
            found.append(some)
        elif not reader.load():
            return found


def fields(reader: Any) -> list[list[str]]:
    """Read the fields of all rows, without any meaning of identifiers."""
    reader.select([], reader.header)
    return [
        [some.values(name)[row] for name in reader.header]
        for some in read_all(reader)
        for row in range(some.count)
    ]


def rewrite(
    source: Path,
    target: Path,
    *,
    step: int = 1_000,
    die_after: int | None = None,
    lost: int = 0,
    added: dict[str, Content] | None = None,
    make: Callable[[int, int], dict[str, list[Any]]] = cells,
    resumable: bool = True,
    **options: Any,
) -> None:
    """Append columns to a file, as a job does.

    Args:
        source: The input.
        target: The output.
        step: How many rows are read and saved at once.
        die_after: After how many steps the process dies, and another one goes on.
        lost: How many more were written by then and not saved.
        added: The columns.
        make: Makes the cells of some rows, from the first and how many there are.
        resumable: Whether it is saved.
        options: Of the format.
    """
    how, written = FilePair(source, target).formats(FileFormatOptions(**options))
    part = target.with_name("part")
    columns = ADDED if added is None else added
    # What a log gives back.
    saved: Any = msgspec.json.encode((None, 0))
    most = die_after
    while True:
        with (
            closing(open_reader(source, how)) as reader,
            closing(Run(reader, written, part, columns, saved, resumable)) as run,
        ):
            saved = run.write(make, step, most, lost)
            if saved is None:
                run.output.finish(target)
                return
        most = None


class Run:
    """One life of a job that rewrites a file."""

    def __init__(
        self, reader: Any, how: Any, part: Path, added: Any, saved: Any, resumable: bool
    ) -> None:
        """Open the output."""
        remembered, self.rows = msgspec.json.decode(saved)
        self.saved, self.reader, self.resumable = saved, reader, resumable
        reader.select([], added=added)
        reader.skip(self.rows)
        self.output: Any = open_output(
            reader, how, part, added=added, saved=remembered, resumable=resumable
        )
        self.close = self.output.close

    def write(self, make: Any, step: int, most: int | None, lost: int) -> Any:
        """Write until the end, or until it dies; return what was saved by then."""
        steps = 0
        while most is None or steps < most + lost:
            some = self.reader.take(step)
            if some is None:
                if self.reader.load():
                    continue
                self.output.sync()
                return None
            self.output.write(self.output.format(some, make(self.rows, some.count)))
            steps += 1
            self.rows += some.count
            if self.resumable and (most is None or steps <= most):
                self.saved = msgspec.json.encode((self.output.sync(), self.rows))
        return self.saved


def rewrite_bytes(folder: Path, data: bytes, suffix: str, **options: Any) -> bytes:
    """Append the columns to what a file of *data* has."""
    source, target = folder / f"in.{suffix}", folder / f"out.{suffix}"
    source.write_bytes(data)
    rewrite(source, target, **options)
    return target.read_bytes()


def convert(source: Path, target: Path, **options: Any) -> None:
    """Write a file in another format, with no column added."""
    rewrite(source, target, added={}, make=lambda *_: {}, **options)


def options_of(**options: Any) -> FileFormatOptions:
    """Make options."""
    return attrs.evolve(FileFormatOptions(), **options)
