"""Files in memory, and reading and rewriting them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from uid2_async.bulk.paths import Content, FileFormatOptions, FilePair
from uid2_async.bulk.text import open_reader
from uid2_async.bulk.writers import open_output

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
    reader.want([], reader.header)
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
        reader = open_reader(source, how)
        reader.want([], added=columns)
        remembered, rows = msgspec.json.decode(saved)
        reader.skip(rows)
        output = open_output(
            reader, written, part, added=columns, saved=remembered, resumable=resumable
        )
        steps = 0
        while most is None or steps < most + lost:
            some = reader.take(step)
            if some is None:
                if reader.load():
                    continue
                output.sync()
                output.finish(target)
                reader.close()
                return
            output.write(output.format(some, make(rows, some.count)))
            steps += 1
            rows += some.count
            if resumable and (most is None or steps <= most):
                saved = msgspec.json.encode((output.sync(), rows))
        output.close()
        reader.close()
        most = None


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
