"""Files in memory, and reading them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.content import Content
from uid2_async.bulk.files import Format, Layout, Reader, open_reader

ADDED = {"UID": Content.TEXT, "REFRESH_FROM": Content.INSTANT, "ERROR": Content.TEXT}


def layout(file_format: str, **options: Any) -> Layout:
    """Make a layout with three added columns."""
    return Layout(format=Format(file_format), added=ADDED, **options)


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
