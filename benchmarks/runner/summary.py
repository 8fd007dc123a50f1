"""The few figures of the landing page: ours, the official SDK, and the floor."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import attrs
import msgspec

from benchmarks.runner.measuring import Better, Sample, Table
from benchmarks.runner.text import figure, markdown

UNIT = "times as fast as the official SDK"


@attrs.frozen
class Row:
    """A row of the summary.

    Attributes:
        what: What is done.
        unit: What the figures are.
        benchmark: Where they are measured.
        title: The table there, or a part of its title.
        ours: Its line of ours.
        sdk: Its line of the official SDK.
        floor: Its line of what is written by hand; None if there is none.
    """

    what: str
    unit: str
    benchmark: str
    title: str
    ours: str
    sdk: str = "official SDK"
    floor: str | None = "floor"


ROWS = (
    Row("Map an email address", "us of CPU", "map_cpu", "emails", "uid2_async"),
    Row("Map a hash", "us of CPU", "map_cpu", "hashes", "uid2_async"),
    Row(
        *("Map 20 batches at once, 50 ms", "identities/s", "map_throughput", " 50 ms"),
        ours="map_identities, 20 in flight",
        sdk="official SDK, 20 threads",
        floor="by hand, 20 in flight",
    ),
    Row("Decrypt a token", "us of CPU", "token_codec", "Decrypt a v4", "decrypt"),
    Row("Encrypt a token", "us of CPU", "token_codec", "Encrypt", "encrypt"),
    Row(
        *("Generate tokens, over TLS", "us of CPU"),
        *("call_overhead", "token/generate, over TLS", "uid2_async"),
        floor="by hand",
    ),
)
# Measured only where Java is installed.
JAVA_ROWS = tuple(
    Row(
        *(what, unit, "java_sdk", title, "uid2_async"),
        sdk="Java SDK, 20 threads",
        floor=None,
    )
    for what, unit, title in (
        ("Generate 20 tokens at once; Java SDK", "calls/s", "token/generate"),
        ("Map 20 batches at once; Java SDK", "identities/s", "Maps"),
    )
)


def read_results(folder: Path) -> dict[str, list[Table]] | None:
    """Read what the latest runs have found; None if a row would be empty."""
    found = {}
    for name in {row.benchmark for row in (*ROWS, *JAVA_ROWS)}:
        path = folder / f"{name}.json"
        if not path.exists():
            if name in {row.benchmark for row in ROWS}:
                return None
            continue
        found[name] = msgspec.json.decode(path.read_bytes(), type=list[Table])
    return found


def rows_of(results: Mapping[str, Sequence[Table]]) -> list[Row]:
    """List the rows that were measured."""
    return [row for row in (*ROWS, *JAVA_ROWS) if row.benchmark in results]


def table_of(row: Row, results: Mapping[str, Sequence[Table]]) -> Table:
    """Find the table that *row* is about."""
    return next(one for one in results[row.benchmark] if row.title in one.title)


def summary_text(results: Mapping[str, Sequence[Table]]) -> str:
    """Write the summary in Markdown."""
    rows = [
        ["", "times as fast", "unit", "uid2_async", "official SDK", "written by hand"],
        ["---", "--:", "---", "--:", "--:", "--:"],
    ]
    for row in rows_of(results):
        table = table_of(row, results)
        lines = (row.ours, row.sdk, row.floor)
        figures = ["" if line is None else _middle(table, line) for line in lines]
        times = speeds(results).spread(row.what).middle
        rows.append([row.what, figure(times), row.unit, *figures])
    return markdown(rows)


def _middle(table: Table, line: str) -> str:
    """Write the median of a line."""
    return figure(table.spread(line).middle)


def speeds(results: Mapping[str, Sequence[Table]]) -> Table:
    """Say how many times as fast as the official SDK each is, ours and by hand."""
    lines = {}
    for row in rows_of(results):
        table = table_of(row, results)
        lines[row.what] = _times(table, row.ours, row.sdk)
        if row.floor is not None:
            lines[f"{row.what}, by hand"] = _times(table, row.floor, row.sdk)
    return Table(
        title="uid2_async, and what is written by hand",
        unit=UNIT,
        better=Better.MORE,
        baseline=ROWS[0].what,
        ours=tuple(row.what for row in rows_of(results)),
        lines=lines,
    )


def _times(table: Table, line: str, sdk: str) -> list[Sample]:
    """Say how many times as fast as *sdk* a line is, round by round."""
    one, other = table.values(line), table.values(sdk)
    if table.better is Better.LESS:
        one, other = other, one
    return [Sample(many / few) for many, few in zip(one, other, strict=True)]


def machine() -> str:
    """Say what the figures were measured on."""
    python = f"Python {platform.python_version()}"
    names = ("uid2-client", "aiohttp", "cryptography", "msgspec", "pyarrow")
    versions = [f"{name} {metadata.version(name)}" for name in names]
    return f"{os.cpu_count()} cores, {_processor()}; {', '.join([python, *versions])}."


def _processor() -> str:
    """Name the processor."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.machine()
