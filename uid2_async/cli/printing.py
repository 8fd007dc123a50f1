"""What commands print: text that cannot steer a terminal, and JSON in ASCII."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec

from uid2_async._printable import printable

__all__ = [
    "ReportStream",
    "discard",
    "dump_json",
    "print_lines",
    "print_to_stderr",
]


class ReportStream:
    """Stdout or stderr for what is said about a job, never for its data.

    A reader that is gone, or a disk that is full, must not change how a job ends.
    """

    def __init__(self, stream: Any) -> None:
        """Write to *stream*."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write *text* if that is possible."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            discard(self._stream)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Be the stream in all else."""
        return getattr(self._stream, name)

    def __repr__(self) -> str:
        """Show the stream."""
        return f"<ReportStream {self._stream!r}>"


def discard(stream: Any) -> None:
    """Send what a standard stream still holds, and all that follows, nowhere."""
    with suppress(OSError, ValueError):  # it may not be a file, or be closed
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, stream.fileno())
        finally:
            os.close(descriptor)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, for people."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
    # A sandbox whose stdout is a pipe says where it is before it ends.
    sys.stdout.flush()


def print_to_stderr(line: str) -> None:
    """Print a line on stderr, if that can be written to."""
    stderr = ReportStream(sys.stderr)
    stderr.write(f"{printable(line)}\n")
    stderr.flush()


def dump_json(fields: Any, *, indent: int | None = None) -> str:
    """Write *fields* as JSON in ASCII, which shows everything else as escapes."""
    return json.dumps(msgspec.to_builtins(fields), indent=indent) + "\n"
