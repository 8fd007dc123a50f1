"""Files in memory, and reading and rewriting them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from uid2_async.bulk.content import Content
from uid2_async.bulk.files import Format, Layout, Reader, open_output, open_reader

ADDED = {"UID": Content.TEXT, "REFRESH_FROM": Content.INSTANT, "ERROR": Content.TEXT}


def layout(file_format: str, **options: Any) -> Layout:
    """Make a layout with three added columns."""
    return Layout(format=Format(file_format), added=ADDED, **options)


def cells(first: int, rows: int) -> dict[str, list[Any]]:
    """Make the added columns: every third row has none but an error."""
    numbers = range(first, first + rows)
    return {
        "UID": [f"uid{n}" if n % 3 else None for n in numbers],
        "REFRESH_FROM": [n if n % 3 else None for n in numbers],
        "ERROR": [None if n % 3 else "ServerError, HTTP 500" for n in numbers],
    }


@pytest.fixture
def make_reader(tmp_path: Path) -> Iterator[Callable[..., Reader]]:
    """Open *data* as the file in.SUFFIX."""
    readers: list[Reader] = []

    def make(data: bytes, suffix: str = "csv", **options: Any) -> Reader:
        path = tmp_path / f"in.{suffix}"
        path.write_bytes(data)
        reader = open_reader(path, layout(suffix.removesuffix(".gz"), **options))
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        reader.close()


def read_all(reader: Reader, rows: int = 1_000) -> list[Any]:
    """Give all chunks of a file."""
    chunks = []
    while True:
        chunk = reader.take(rows)
        if chunk is not None:
            chunks.append(chunk)
        elif not reader.load():
            return chunks


def rewrite(
    source: Path,
    target: Path,
    *,
    step: int = 1_000,
    die_after: int | None = None,
    lost: int = 0,
    **options: Any,
) -> None:
    """Add the columns to a file, as a job does.

    Args:
        source: The input.
        target: The output.
        step: How many rows are read and saved at once.
        die_after: After how many steps the process dies, and another one goes on.
        lost: How many more were written by then and not saved.
        options: Of the layout.
    """
    kind = source.name.partition(".")[2].removesuffix(".gz")
    how = layout(kind, **options)
    part = target.with_name("part")
    # What a journal gives back.
    saved: Any = msgspec.json.encode((None, None, 0))
    most = die_after
    while True:
        reader = open_reader(source, how)
        position, remembered, rows = msgspec.json.decode(saved)
        if position is not None:
            reader.seek(position)
        output = open_output(reader, how, part, remembered=remembered)
        steps = 0
        while most is None or steps < most + lost:
            chunk = reader.take(step)
            if chunk is None:
                if reader.load():
                    continue
                output.sync()
                output.finish(target)
                reader.close()
                return
            output.write(output.format(chunk, cells(rows, chunk.rows)))
            steps += 1
            rows += chunk.rows
            if most is None or steps <= most:
                saved = msgspec.json.encode((chunk.end, output.sync(), rows))
        output.close()
        reader.close()
        most = None


def rewrite_bytes(folder: Path, data: bytes, suffix: str, **options: Any) -> bytes:
    """Add the columns to what a file of *data* holds."""
    source, target = folder / f"in.{suffix}", folder / f"out.{suffix}"
    source.write_bytes(data)
    rewrite(source, target, **options)
    return target.read_bytes()
