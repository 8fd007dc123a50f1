"""What is printed about a job fits the terminal and cannot steer it."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from uid2_async.bulk.options import FileProgress, JobSummary
from uid2_async.bulk.outcomes import Progress
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.cli.job_report import (
    console_for,
    print_first_rows,
    print_summary,
    progress_bar,
)

HEADER = ["INPUT_TYPE", "INPUT", "UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED", "ERROR"]
ROWS = [
    ["email", "jane.with.a.very.long.name@example.com", "u" * 44, "", "17954", "", ""],
    ["email", "東" * 60, "", "", "", "INVALID IDENTIFIER", ""],
]


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    """Make a terminal that can be read afterwards."""
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign] # it is one
    return Console(file=screen, width=width, force_terminal=True), screen


def head(folder: Path, rows: list[list[str]], width: int, column: str = "INPUT") -> str:
    """Print the first rows of a file."""
    path = folder / "out.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign] # elsewhere nobody is shown
    console = Console(file=screen, width=width, color_system=None)
    print_first_rows(console, path, column, FileFormatOptions())
    return screen.getvalue()


def progress(**changes: Any) -> FileProgress:
    """Say how far a job is."""
    facts: dict[str, Any] = {
        "rows": 10_000,
        "bytes_read": 1_000,
        "total_bytes": 1_000,
        "endings": {"mapped": 9_000, "opted_out": 500, "invalid": 400, "failed": 100},
        "job": Progress(in_flight=7, limit=12, throttled=3),
    }
    return FileProgress(**{**facts, **changes})


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_table_fits(tmp_path: Path, width: int) -> None:
    """No line of the first rows is wider than the terminal."""
    for line in head(tmp_path, ROWS, width).splitlines():
        wide = sum(1 + (char == "東") for char in line)
        assert wide <= width


def test_words_stand_in_full_at_80(tmp_path: Path) -> None:
    """What a row came to can be read on an ordinary terminal."""
    text = head(tmp_path, ROWS, 80)

    assert "INVALID IDENTIFIER" in text
    assert "REFRESH_FROM" in text
    assert "INPUT_TYPE" in text
    assert "u" * 44 not in text


def test_control_characters(tmp_path: Path) -> None:
    """A file cannot send commands to the terminal, nor markup to rich."""
    row = ["email", "\x1b[2J\x07\u202e[red]x[/red]", "", "", "", "", ""]
    text = head(tmp_path, [row], 120)

    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "[red]x[/red]" in text


@pytest.mark.parametrize(("rows", "column"), [([], "INPUT"), (ROWS, "elsewhere")])
def test_nothing_to_show(tmp_path: Path, rows: list[list[str]], column: str) -> None:
    """Without rows, or without that column, there is no table."""
    assert head(tmp_path, rows, 80, column) == ""


@pytest.mark.parametrize(
    ("encoding", "options", "end"),
    [
        ("utf-16", {"encoding": "utf-16"}, "\n"),
        ("cp932", {"encoding": "cp932"}, "\n"),
        ("utf-8", {"delimiter": ";"}, "\r\r\n"),
    ],
)
def test_the_head_is_read_as_it_was_written(
    tmp_path: Path, encoding: str, options: dict[str, Any], end: str
) -> None:
    """The options of the job say how its output is read."""
    path = tmp_path / "out.csv"
    delimiter = options.get("delimiter", ",")
    lines = [["mail", "UID"], ["東@example.com", "u" * 44]]
    text = "".join(delimiter.join(line) + end for line in lines)
    path.write_bytes(text.encode(encoding))
    console, screen = terminal()
    print_first_rows(console, path, "mail", FileFormatOptions(**options))

    assert "東@example.com" in screen.getvalue()


@pytest.mark.parametrize(
    "data", [None, b"", b"\xff\xfe\xff", b'INPUT\n"x', b"INPUT\n\0"]
)
def test_a_head_that_cannot_be_read(tmp_path: Path, data: bytes | None) -> None:
    """The job is done, so that this is no failure: nothing is shown."""
    path = tmp_path / "out.csv"
    if data is not None:
        path.write_bytes(data)
    console, screen = terminal()
    print_first_rows(console, path, "INPUT", FileFormatOptions())

    assert screen.getvalue() == ""


def test_the_head_is_for_a_terminal(tmp_path: Path) -> None:
    """The user's own data go to the user's own screen, and to no log."""
    path = tmp_path / "out.csv"
    path.write_text("INPUT\njane@example.com\n")
    screen = io.StringIO()
    print_first_rows(Console(file=screen), path, "INPUT", FileFormatOptions())

    assert screen.getvalue() == ""


def test_summary() -> None:
    """The usual counts are there; the others only where there is something."""
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    print_summary(console, JobSummary(rows=12_345, mapped=7, requests=3, seconds=1.5))
    plain = screen.getvalue()
    print_summary(console, JobSummary(other=1, changes=0, from_state=2))

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
    rest = screen.getvalue().removeprefix(plain)
    assert all(
        words in rest for words in ("other reasons", "in the delta", "by the state")
    )


@pytest.mark.parametrize("total", [1_000, None])
def test_the_bar(total: int | None) -> None:
    """On a terminal a bar tells rows, rate, requests and shares, and ends full."""
    console, screen = terminal(160)
    with progress_bar(console, to_stdout=False) as tell:
        assert tell is not None
        tell(progress(rows=5_000, bytes_read=500, total_bytes=total))
        tell(progress(total_bytes=total))
    text = screen.getvalue()

    for words in (
        "Mapping",
        "10,000 rows",
        "7/12 in flight, 3 x 429",
        "90.0% mapped 5.0% out 4.0% invalid 1.0% failed",
        "100%",
    ):
        assert words in text


def test_the_bar_leaves_stdout_alone() -> None:
    """While the bar runs, stdout is what it was."""
    console, _ = terminal()
    before = sys.stdout
    with progress_bar(console, to_stdout=True):
        assert sys.stdout is before


def test_no_bar_in_a_file() -> None:
    """Where stderr is no terminal, or silence is asked for, there is no bar."""
    screen = io.StringIO()
    console = Console(file=screen)
    with progress_bar(console, to_stdout=False) as update:
        assert update is None

    assert screen.getvalue() == ""


def test_result_on_the_same_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is not drawn into the result."""
    console, screen = terminal()
    other = io.StringIO()
    other.isatty = lambda: True  # type: ignore[method-assign] # a terminal, as far as it tells
    monkeypatch.setattr("sys.stdout", other)
    with progress_bar(console, to_stdout=True) as update:
        assert update is None

    assert screen.getvalue() == ""


def test_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NO_COLOR is heeded, and what is printed goes to stderr."""
    monkeypatch.setenv("NO_COLOR", "1")
    console = console_for()
    console.print("[red]words[/red]")

    assert console.no_color
    assert capsys.readouterr() == ("", "words\n")
