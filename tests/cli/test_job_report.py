"""What is printed about a job fits the terminal and cannot steer it."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from uid2_async.cli.map_csv import MapProgress, MapSummary
from uid2_async.cli.map_report import (
    console_for,
    print_head,
    print_summary,
    progress_bar,
)

from uid2_async.cli.csv_rows import Columns

WITH_KIND = Columns(value=1, kind=0)
HEAD = [
    ("email", "jane.with.a.very.long.name@example.com", "u" * 44, "", "17954", ""),
    ("email", "東" * 60, "", "", "", "INVALID IDENTIFIER"),
]


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    """Make a terminal that can be read afterwards."""
    screen = io.StringIO()
    return Console(file=screen, width=width, force_terminal=True), screen


def summary(**changes: int) -> MapSummary:
    """Make a summary."""
    counts = dict.fromkeys(
        ("rows", "mapped", "opted_out", "invalid", "other", "duplicates"), 0
    )
    return MapSummary(**{**counts, **changes}, seconds=1.5, head=())


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("columns", [WITH_KIND, Columns(value=1, constant_kind="x")])
def test_the_table_fits(width: int, columns: Columns) -> None:
    """No line of the first rows is wider than the terminal."""
    screen = io.StringIO()
    console = Console(file=screen, width=width)
    print_head(console, HEAD, columns)

    for line in screen.getvalue().splitlines():
        wide = sum(1 + (char == "東") for char in line)
        assert wide <= width


def test_words_stand_in_full_at_80() -> None:
    """What a row came to can be read on an ordinary terminal."""
    screen = io.StringIO()
    print_head(Console(file=screen, width=80), HEAD, WITH_KIND)
    text = screen.getvalue()

    assert "INVALID IDENTIFIER" in text
    assert "REFRESH_FROM" in text
    assert "INPUT_TYPE" in text
    assert "u" * 44 not in text


def test_control_characters() -> None:
    """A file cannot send commands to the terminal, nor markup to rich."""
    screen = io.StringIO()
    row = ("email", "\x1b[2J\x07\u202e[red]x[/red]", "", "", "", "")
    print_head(Console(file=screen, width=120), [row], WITH_KIND)

    assert not {"\x1b", "\x07", "\u202e"} & set(screen.getvalue())
    assert "[red]x[/red]" in screen.getvalue()


def test_no_rows_no_table() -> None:
    """Without rows there is no table of them."""
    screen = io.StringIO()
    print_head(Console(file=screen), [], WITH_KIND)

    assert screen.getvalue() == ""


def test_summary() -> None:
    """All counts are there; that of odd answers only where there are any."""
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    print_summary(console, summary(rows=12_345, mapped=7), requests=3)
    plain = screen.getvalue()
    print_summary(console, summary(other=1), requests=3)

    lines = [line.split() for line in plain.splitlines() if line.strip()][1:]
    assert lines == [
        ["rows", "12,345"],
        ["mapped", "7"],
        ["opted", "out", "0"],
        ["invalid", "0"],
        ["duplicates", "0"],
        ["requests", "3"],
        ["seconds", "1.50"],
    ]
    assert "other reasons" in screen.getvalue().removeprefix(plain)


@pytest.mark.parametrize("total", [1000, None])
def test_the_bar(total: int | None) -> None:
    """On a terminal a bar tells rows and their rate, and ends full."""
    console, screen = terminal(120)
    with progress_bar(console, total_bytes=total, to_stdout=False) as tell:
        tell(MapProgress(rows=5000, bytes_read=500))
        tell(MapProgress(rows=10_000, bytes_read=1000))
    text = screen.getvalue()

    assert "Mapping" in text
    assert "10,000 rows" in text
    assert "rows/s" in text
    assert "100%" in text


def test_the_bar_leaves_stdout_alone() -> None:
    """While the bar runs, stdout is what it was."""
    console, _ = terminal()
    before = sys.stdout
    with progress_bar(console, total_bytes=10, to_stdout=True):
        assert sys.stdout is before


@pytest.mark.parametrize("quiet", [True, False])
def test_no_bar_in_a_file(quiet: bool) -> None:
    """Where stderr is no terminal, or silence is asked for, there is no bar."""
    screen = io.StringIO()
    console = Console(file=screen, quiet=quiet, force_terminal=quiet)
    with progress_bar(console, total_bytes=10, to_stdout=False) as tell:
        tell(MapProgress(rows=1, bytes_read=10))

    assert screen.getvalue() == ""


def test_result_on_the_same_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is not drawn into the result."""
    console, screen = terminal()
    other = io.StringIO()
    other.isatty = lambda: True  # type: ignore[method-assign] # a terminal, as far as it tells
    monkeypatch.setattr("sys.stdout", other)
    with progress_bar(console, total_bytes=10, to_stdout=True) as tell:
        tell(MapProgress(rows=1, bytes_read=10))

    assert screen.getvalue() == ""


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is heeded, and what is printed goes to stderr."""
    monkeypatch.setenv("NO_COLOR", "1")
    console = console_for(quiet=False)

    assert console.no_color
    assert console.stderr
