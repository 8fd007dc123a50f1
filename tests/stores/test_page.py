"""What the page about stores shows runs as it stands, against real servers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pages
from uid2_async.operator import LocalOperator

DATABASE = "postgresql://loader@db.example/crm"
BLOCKS = list(pages.blocks(pages.STORES, "python"))
LINES = [
    line
    for block in pages.blocks(pages.STORES, "sh")
    for line in block.code.splitlines()
    if line.startswith("uid2 ")
]


@pytest.fixture
def named(
    bucket: Any, server: Any, people: bytes, tmp_path: Path
) -> Callable[[str], str]:
    """Make what the page speaks of, and replace its names by those of the servers."""
    bucket.put("people.csv", people)
    arrow = pytest.importorskip("pyarrow")
    rows = arrow.table({"id": [1], "mail": ["person1@example.com"]})
    sink = arrow.BufferOutputStream()
    pytest.importorskip("pyarrow.parquet").write_table(rows, sink)
    bucket.put("day=1/part-0.parquet", sink.getvalue().to_pybytes())
    pytest.importorskip("deltalake").write_deltalake(str(tmp_path / "table"), rows)

    def named(text: str) -> str:
        found = text.replace("s3://bucket/", f"s3://{bucket.name}/")
        return found.replace(DATABASE, server.uri())

    return named


def test_every_line_runs(named: Callable[[str], str], command: Any) -> None:
    """One after the other, as on the page."""
    assert len(LINES) == 5
    for line in LINES:
        process = command(*shlex.split(named(line))[1:])
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("block", BLOCKS, ids=[block.where for block in BLOCKS])
def test_every_block_runs(
    named: Callable[[str], str],
    operator: LocalOperator,
    tmp_path: Path,
    block: pages.Block,
) -> None:
    """Each is a program."""
    ready = pages.Block(
        block.where, block.language, named(block.code), marked=block.marked
    )
    done = pages.run(ready, tmp_path, (), os.environ)
    assert done.returncode == 0, done.stderr
    assert "rows are mapped" in done.stdout
