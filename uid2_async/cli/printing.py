"""What commands print: messages, the log, and JSON in ASCII.

Nothing of it can steer a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from uid2_async._printable import printable

__all__ = [
    "LOG",
    "LogFormat",
    "LogLevel",
    "ReportStream",
    "discard",
    "dump_json",
    "print_json",
    "print_lines",
    "print_message",
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


def print_message(level: str, message: str, hint: str = "", **fields: Any) -> None:
    """Print a line on stderr, if that can be written to.

    Args:
        level: ``error``, ``warning`` or ``info``.
        message: The line, which stands behind ``uid2:``, or in ``message`` of an object
            if the log is JSON.
        hint: What to do; a line of its own in text.
        fields: More fields of the object.
    """
    if LOG.is_json:
        entry = {"time": datetime.now(UTC), "level": level, "message": message}
        if hint:
            entry["hint"] = hint
        print_json({**entry, **fields}, to_stderr=True)
        return
    stderr = ReportStream(sys.stderr)
    stderr.write(f"{printable(f'uid2: {message}')}\n")
    if hint:
        stderr.write(f"{printable(f'Hint: {hint}')}\n")
    stderr.flush()


def print_json(fields: Any, *, to_stderr: bool = False) -> None:
    """Print one JSON object in a line, whatever becomes of the reader."""
    stream = ReportStream(sys.stderr if to_stderr else sys.stdout)
    stream.write(dump_json(fields))
    stream.flush()


class LogFormat(StrEnum):
    """How messages and log records are written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """Which records of the library's log are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _Log:
    """What is written to stderr while a command runs: messages and the library's log.

    Attributes:
        is_json: Whether each line is a JSON object.
    """

    def __init__(self) -> None:
        self.is_json: bool = False
        # Errors are printed; the log's lines about them would say it twice.
        self._handler: logging.Handler = logging.NullHandler()
        self._logger = logging.getLogger("uid2_async")

    def configure(self, level: LogLevel | None, log_format: LogFormat) -> None:
        """Write the library's log from *level* on; nothing of it if that is None."""
        self.is_json = log_format is LogFormat.JSON
        self._logger.removeHandler(self._handler)
        self._handler = logging.NullHandler() if level is None else _LogHandler()
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.NOTSET if level is None else level.upper())


class _LogHandler(logging.Handler):
    """Prints records of the library, which are printable and hold no secret."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        level, message = record.levelname.lower(), record.getMessage()
        text = message if LOG.is_json else f"{level}: {message}"
        print_message(level, text, logger=record.name)


LOG: Final = _Log()


def dump_json(fields: Any, *, indent: int | None = None) -> str:
    """Write *fields* as JSON in ASCII, which shows everything else as escapes."""
    return json.dumps(msgspec.to_builtins(fields), indent=indent) + "\n"
