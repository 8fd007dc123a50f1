"""Tables as text: for the terminal, and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runner.measuring import Spread, Table
from benchmarks.runner.reach import Reach, reaches_of


def figure(value: float) -> str:
    """Write a figure with as many digits as anybody wants to read."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_spread(spread: Spread) -> str:
    """Write a figure and, in brackets, the quartiles around it."""
    if spread.low == spread.high:
        return figure(spread.middle)
    low, high = figure(spread.low), figure(spread.high)
    return f"{figure(spread.middle)} ({low} to {high})"


def cells(table: Table) -> list[list[str]]:
    """Write each cell of *table*, its head first."""
    columns = table.columns()
    rows = [["", table.unit, f"x {table.baseline}", *columns]]
    for name, samples in table.lines.items():
        row = [name, with_spread(table.spread(name)), with_spread(table.ratio(name))]
        for column in columns:
            seen = column in samples[0].also
            row.append(figure(table.spread(name, column).middle) if seen else "")
        rows.append(row)
    return rows


def verdicts(reaches: Sequence[Reach], table: Table) -> list[list[str]]:
    """Say for each reach what was measured, and whether that is enough."""
    return [
        [
            reach.sentence(table),
            with_spread(reach.measured(table)),
            "met" if reach.is_met(table) else "not met",
        ]
        for reach in reaches
    ]


def for_terminal(benchmark: str, table: Table) -> str:
    """Write *table* for people who watch the run."""
    rows = cells(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"\n{table.title}"]
    for name, *rest in rows:
        padded = (
            cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)
        )
        lines.append("  ".join(["", name.ljust(widths[0]), *padded]))
    for what, found, verdict in verdicts(reaches_of(benchmark, table), table):
        lines.append(f"  reach: {what}: {found}, {verdict}")
    return "\n".join(lines)


def for_page(benchmark: str, tables: Sequence[Table]) -> str:
    """Write *tables* in Markdown, and what they reach below them."""
    parts = []
    for table in tables:
        head, *rows = cells(table)
        rule = ["---", *("--:" for _ in head[1:])]
        parts.append(f"**{table.title}**\n\n" + markdown([head, rule, *rows]))
    reached = []
    for table in tables:
        for row in verdicts(reaches_of(benchmark, table), table):
            where = f"{table.title}: " if len(tables) > 1 else ""
            reached.append([where + row[0], *row[1:]])
    if reached:
        head = ["reach", "measured", ""]
        parts.append(markdown([head, ["---", "--:", "---"], *reached]))
    return "\n\n".join(parts)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write the rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
