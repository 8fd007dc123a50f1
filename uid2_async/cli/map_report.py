"""What `uid2 map` shows on stderr: a bar, a summary, the first rows.

It shows the user's own data on the user's own screen; nothing of it goes to a log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from uid2_async.cli.csv_rows import Columns
from uid2_async.cli.map_csv import OUTPUT_COLUMNS, MapProgress, MapSummary

__all__ = ["console_for", "print_head", "print_summary", "progress_bar"]

# The longest words of REFRESH_FROM and UNMAPPED stand there in full.
_OUTPUT_WIDTHS: Final = (9, 9, 12, 18)
_LEAST_INPUT_WIDTH: Final = 8
_MOST_INPUT_WIDTH: Final = 44


class _RowsPerSecond(ProgressColumn):
    """How many rows are written each second."""

    def render(self, task: Task) -> Text:
        rows, elapsed = task.fields["rows"], task.elapsed
        speed = f"{rows / elapsed:,.0f}" if rows and elapsed else "-"
        return Text(f"{rows:,} rows, {speed} rows/s")


def console_for(*, quiet: bool) -> Console:
    """Make the console of stderr; it heeds NO_COLOR."""
    return Console(stderr=True, quiet=quiet, highlight=False, emoji=False)


@contextmanager
def progress_bar(
    console: Console, *, total_bytes: int | None, to_stdout: bool
) -> Iterator[Callable[[MapProgress], None]]:
    """Show a progress bar while the block runs, if stderr is a terminal.

    Args:
        console: Where to.
        total_bytes: The size of the input, None where it is not known.
        to_stdout: Whether the result goes to stdout: on a terminal it would tear the
            bar apart.

    Yields:
        What is to be told after each batch.
    """
    hidden = console.quiet or not console.is_terminal
    if hidden or (to_stdout and sys.stdout.isatty()):
        yield lambda _: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("Mapping"),
        BarColumn(),
        TaskProgressColumn(),
        _RowsPerSecond(),
        TimeElapsedColumn(),
        console=console,
        # Data may go to stdout meanwhile, and must not pass through here.
        redirect_stdout=False,
    )
    with bar:
        task = bar.add_task("", total=total_bytes, rows=0)

        def tell(progress: MapProgress) -> None:
            bar.update(task, completed=progress.bytes_read, rows=progress.rows)

        yield tell
        if total_bytes is None:
            bar.update(task, total=1, completed=1)


def print_summary(console: Console, summary: MapSummary, *, requests: int) -> None:
    """Print what a job did."""
    table = Table(title="Summary", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    lines = {
        "rows": summary.rows,
        "mapped": summary.mapped,
        "opted out": summary.opted_out,
        "invalid": summary.invalid,
        "unmapped for other reasons": summary.other,
        "duplicates": summary.duplicates,
        "requests": requests,
    }
    for name, count in lines.items():
        if count or name != "unmapped for other reasons":
            table.add_row(name, f"{count:,}")
    table.add_row("seconds", f"{summary.seconds:.2f}")
    console.print(table)


def print_head(
    console: Console, head: Sequence[Sequence[str]], columns: Columns
) -> None:
    """Print the identities of the first rows and what was appended to them.

    Raw UIDs are cut, and identities to what the width of the terminal leaves.
    """
    if not head:
        return
    widths = {"INPUT": 0} if columns.kind is None else {"INPUT": 0, "INPUT_TYPE": 10}
    widths |= dict(zip(OUTPUT_COLUMNS, _OUTPUT_WIDTHS, strict=True))
    gaps = len(widths) + 1
    left = console.width - gaps - sum(widths.values())
    widths["INPUT"] = min(max(left, _LEAST_INPUT_WIDTH), _MOST_INPUT_WIDTH)
    table = Table(title="First rows", box=box.SIMPLE_HEAD, padding=0)
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, max_width=width)
    for row in head:
        kind = [] if columns.kind is None else [row[columns.kind]]
        cells = [row[columns.value], *kind, *row[-len(OUTPUT_COLUMNS) :]]
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    console.print(table)


def _printable(cell: str) -> str:
    """Take the sting out of control characters: a file must not steer a terminal."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cell
    )
