"""The committed ratios, and whether new ones are worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs
import msgspec

from benchmarks.runner.measuring import Better, Spread, Table
from benchmarks.runner.text import with_spread

Baseline: TypeAlias = dict[str, dict[str, dict[str, Spread]]]
"""Ratios by benchmark, title of the table and line."""


@attrs.frozen
class Worse:
    """A line that is worse than it was.

    Attributes:
        where: The benchmark, table and line.
        before: The ratio that is committed.
        now: The ratio that was measured.
    """

    where: str
    before: Spread
    now: Spread

    def __str__(self) -> str:
        """Say what was and what is."""
        before, now = with_spread(self.before), with_spread(self.now)
        return f"{self.where}: {now} where {before} was"


def ratios(tables: Iterable[Table]) -> dict[str, dict[str, Spread]]:
    """List the ratios to be kept, by table and line."""
    return {
        table.title: {line: table.ratio(line) for line in table.ours}
        for table in tables
        if table.ours
    }


def find_worse(
    benchmark: str, tables: Sequence[Table], baseline: Baseline, margin: float
) -> list[Worse]:
    """List the lines whose ratio is worse than the committed one, beyond the spread.

    The better quartile of now is held against the worse quartile of then, with *margin*
    between them: 0.1 allows 10 % on top. A table or line that is not committed yet is
    not worse.
    """
    kept = baseline.get(benchmark, {})
    found = []
    for table in tables:
        for line in table.ours:
            before = kept.get(table.title, {}).get(line)
            now = table.ratio(line)
            if before and _is_worse(before, now, table.better, margin):
                found.append(Worse(f"{benchmark}, {table.title}, {line}", before, now))
    return found


def _is_worse(before: Spread, now: Spread, better: Better, margin: float) -> bool:
    """Tell whether the two spreads lie apart, in the wrong direction."""
    if better is Better.LESS:
        return now.low > before.high * (1 + margin)
    return now.high < before.low / (1 + margin)


def read(data: bytes) -> Baseline:
    """Read the committed file."""
    return msgspec.json.decode(data, type=Baseline)


def write(baseline: Mapping[str, Mapping[str, Mapping[str, Spread]]]) -> bytes:
    """Write it anew, with four digits, sorted so that changes are easy to see."""
    rounded = {
        benchmark: {
            title: {line: _rounded(spread) for line, spread in lines.items()}
            for title, lines in tables.items()
        }
        for benchmark, tables in baseline.items()
    }
    text = msgspec.json.encode(rounded, order="sorted")
    return msgspec.json.format(text, indent=2) + b"\n"


def _rounded(spread: Spread) -> Spread:
    """Keep four significant digits."""
    return Spread(*(float(f"{value:.4g}") for value in attrs.astuple(spread)))
