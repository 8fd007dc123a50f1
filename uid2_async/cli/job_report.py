"""What a file job shows on stderr: a progress bar, a summary and the first rows.

It shows the user's own data on the user's own screen, and none of it goes to a log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, cast

import attrs
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from uid2_async._private import printable
from uid2_async.bulk.files import open_reader
from uid2_async.bulk.options import FileProgress, JobSummary
from uid2_async.bulk.paths import FileFormatOptions, FilePair
from uid2_async.cli.output import ReportStream

_HEAD_ROWS: Final = 8
# Wide enough for the longest values of REFRESH_FROM and UNMAPPED.
_OUTPUT_WIDTHS: Final = {"UID": 9, "PREV_UID": 9, "REFRESH_FROM": 12, "UNMAPPED": 18}
_INPUT_WIDTHS: Final = {"INPUT_TYPE": 10}
_LEAST_INPUT_WIDTH: Final = 8
_MOST_INPUT_WIDTH: Final = 44
# Shown even if they are zero.
_ALWAYS: Final = (
    "rows",
    "mapped",
    "opted_out",
    "invalid",
    "duplicates",
    "requests",
    "changes",
)
_WORDS: Final = {
    "opted_out": "opted out",
    "empty": "empty",
    "other": "unmapped for other reasons",
    "from_state": "answered by the state",
    "throttled": "slowed down",
    "resumed_rows": "rows of the earlier run",
    "changes": "changes in the delta",
}
_SHARES: Final = {
    "mapped": "mapped",
    "opted_out": "out",
    "invalid": "invalid",
    "failed": "failed",
}


def console_for() -> Console:
    """Make the console for stderr, which respects NO_COLOR."""
    stderr = cast("IO[str]", ReportStream(sys.stderr))
    return Console(file=stderr, highlight=False, emoji=False)


@contextmanager
def progress_bar(
    console: Console, *, to_stdout: bool
) -> Iterator[Callable[[FileProgress], None] | None]:
    """Show a progress bar while the block runs, if stderr is a terminal.

    There is no bar if results go to stdout on a terminal, since they would break it up.
    Yields a function to call after each step, or None.
    """
    if not console.is_terminal or (to_stdout and sys.stdout.isatty()):
        yield None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("Mapping"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        # Data may go to stdout at the same time, and must not pass through here.
        redirect_stdout=False,
    )
    with bar:
        number = bar.add_task("0 rows, -/s", total=None)
        (task,) = bar.tasks

        def update(done: FileProgress) -> None:
            bar.update(
                number,
                total=done.total_bytes,
                completed=done.bytes_read,
                description=_facts(done, task.elapsed),
            )

        yield update
        if task.total is None:
            bar.update(number, total=1, completed=1)


def _facts(done: FileProgress, elapsed: float | None) -> str:
    """Describe the rows written, the speed, the requests and the shares."""
    speed = f"{done.rows / elapsed:,.0f}" if done.rows and elapsed else "-"
    slowed = f", {done.job.throttled} x 429" if done.job.throttled else ""
    facts = [
        f"{done.rows:,} rows, {speed}/s",
        f"{done.job.in_flight}/{done.job.limit} in flight{slowed}",
    ]
    for name, word in _SHARES.items():
        count = done.endings.get(name, 0)
        if done.rows and (count or name != "failed"):
            facts.append(f"{100 * count / done.rows:.1f}% {word}")
    return " ".join(facts)


def print_summary(console: Console, summary: JobSummary) -> None:
    """Print the summary of a job."""
    table = Table(title="Summary", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in attrs.asdict(summary).items():
        # Not a bool: the last field says whether the job is complete.
        if type(count) is int and (count or name in _ALWAYS):
            table.add_row(_WORDS.get(name, name), f"{count:,}")
    for warning, count in summary.input_warnings.items():
        table.add_row(warning, f"{count:,}")
    table.add_row("seconds", f"{summary.seconds:.2f}")
    console.print(table)


def print_first_rows(
    console: Console, output: Path, column: str, options: FileFormatOptions
) -> None:
    """Print the identifiers and the added columns of a text file's first rows.

    Raw UIDs are shortened, and identifiers are cut to the width of the terminal.
    Nothing is printed unless stderr is a terminal, because files and logs are kept.
    Rows that cannot be read are not shown.
    """
    if not console.file.isatty():
        return
    widths = {column: 0, **_INPUT_WIDTHS, **_OUTPUT_WIDTHS}
    with suppress(Exception):  # the job is done, even if it cannot be shown
        # The name decides: the output may have another format than the input.
        _, written = FilePair(output, output).formats(options)
        if written.format is not None and written.format.is_text:
            how = attrs.evolve(options, format=written.format)
            shown = _read_head(output, how, list(widths))
            if shown.get(column):
                _print_table(console, shown, {name: widths[name] for name in shown})


def _read_head(
    output: Path, options: FileFormatOptions, names: Sequence[str]
) -> dict[str, list[str]]:
    """Read some columns of the first rows; blocks."""
    reader = open_reader(output, options)
    try:
        header = {name.upper(): name for name in reader.header}
        found = {one: header[one.upper()] for one in names if one.upper() in header}
        # As keys: times are numbers in JSON lines, which identifiers must not be.
        reader.select([], list(found.values()))
        rows = reader.take(_HEAD_ROWS)
        while (rows is None or not rows.count) and (rows is not None or reader.load()):
            rows = reader.take(_HEAD_ROWS)
        if rows is None:
            return {}
        return {one: rows.values(name) for one, name in found.items()}
    finally:
        reader.close()


def _print_table(
    console: Console, columns: dict[str, list[str]], widths: dict[str, int]
) -> None:
    """Print *columns*; the first one gets the width that is left."""
    first = next(iter(columns))
    left = console.width - len(widths) - 1 - sum(widths.values())
    widths[first] = min(max(left, _LEAST_INPUT_WIDTH), _MOST_INPUT_WIDTH)
    table = Table(title="First rows", box=box.SIMPLE_HEAD, padding=0)
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, max_width=width)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
