"""What is said about a job never changes its exit code; what it writes does."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

# How a stream fails is decided by the operating system.
pytestmark = pytest.mark.once


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small file."""
    path = tmp_path / "in.csv"
    path.write_text("mail\nuser@example.com\nx\n")
    return path


def run(source: Path, target: str, redirected: str, *options: str) -> int:
    """Map a file by a shell that redirects the command's output."""
    command = [sys.executable, "-m", "uid2_async", "map", "--sandbox"]
    command += ["--column", "mail", "--type", "email", *options, source.name, target]
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        ["/bin/sh", "-c", f'"$@" {redirected}', "sh", *command],
        cwd=source.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **closed_pipes(),
        timeout=60,
        check=False,
    )
    return done.returncode


def closed_pipes() -> dict[str, Any]:
    """Make pipes that nobody reads; they are used where nothing is redirected."""
    pipes = []
    for _ in range(2):
        reading, writing = os.pipe()
        os.close(reading)
        pipes.append(writing)
    return {"stdout": pipes[0], "stderr": pipes[1]}


@pytest.mark.parametrize("redirected", ["", ">&- 2>&-", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("option", [(), ("--json",), ("--state", "people.db")])
def test_a_lost_report(source: Path, redirected: str, option: tuple[str, ...]) -> None:
    """A job that is done ends with 0, whoever reads its summary or does not."""
    assert run(source, "out.csv", redirected, *option) == 0
    lines = (source.parent / "out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["mail", "user@example.com", "x"]


@pytest.mark.parametrize("redirected", ["", ">&-", ">/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_lost_data(source: Path, redirected: str, suffix: str) -> None:
    """Data that could not be written to stdout are a failure."""
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        read = pytest.importorskip("pyarrow.csv").read_csv(source)
        source = source.with_suffix(suffix)
        parquet.write_table(read, source)
    assert run(source, "-", redirected) == 1


def test_a_lost_report_of_data(source: Path) -> None:
    """Data on stdout are whole although nobody reads stderr."""
    assert run(source, "-", ">data.csv") == 0
    assert (source.parent / "data.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("line", [["--help"], ["map", "--help"], ["--version"]])
def test_help_that_cannot_be_printed(line: list[str]) -> None:
    """It is a failure of one line, as with every other output."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603 - the interpreter that runs this
            [sys.executable, "-m", "uid2_async", *line],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, b"uid2: No space left on device.\n")


@pytest.mark.parametrize(
    ("target", "options", "width", "env", "seen", "unseen"),
    [
        # Nothing at all, not even an escape sequence.
        ("out.csv", ["--quiet"], 80, {}, b"", b"\x1b"),
        ("out.csv", [], 80, {"NO_COLOR": "1"}, b"100% 2 rows", b"\x1b[36m"),
        ("out.csv", [], 80, {}, b"user@example.com", b"First rows  \r\n\r\n"),
        ("out.jsonl", [], 80, {}, b"user@example.com", b"First rows  \r\n\r\n"),
        ("out.csv", [], 5, {}, b"\x1b", b"Traceback"),
    ],
)
def test_a_real_terminal(
    source: Path,
    target: str,
    options: list[str],
    width: int,
    env: dict[str, str],
    seen: bytes,
    unseen: bytes,
) -> None:
    """A terminal of any width shows a bar, a summary and first rows, unless quiet."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    command = ["map", source.name, target, "--sandbox", "--email", "mail", *options]
    with subprocess.Popen(  # noqa: S603 - the interpreter that runs this
        [sys.executable, "-m", "uid2_async", *command],
        cwd=source.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as running:
        os.close(theirs)
        screen = b"".join(iter(lambda: read_terminal(ours), b""))
        printed, _ = running.communicate(timeout=60)
    os.close(ours)

    assert (running.returncode, printed) == (0, b"")
    assert seen in screen
    assert unseen not in screen
    assert bool(screen) is ("--quiet" not in options)


def read_terminal(descriptor: int) -> bytes:
    """Read what a program printed; nothing once the program has ended."""
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # Linux
        return b""
