"""What a failure looks like: one line, one hint, one exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

from uid2_async.errors import (
    AuthError,
    CallTimeoutError,
    ConfigError,
    InputError,
    OperatorError,
    RateLimitError,
    StalledError,
    UID2Error,
)

__all__ = [
    "ExitCode",
    "ReportStream",
    "complain",
    "complain_about",
    "complain_about_bug",
    "discard",
    "exit_code_of",
    "mask",
]


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    INCOMPLETE = 3
    AUTH = 4
    TRY_LATER = 5
    INTERRUPTED = 130
    TERMINATED = 143


# What may be repeated in a message: options, commands and short names.
_PLAIN_WORD: Final = re.compile(r"-{0,2}[A-Za-z][A-Za-z_./=-]{0,30}")


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


def complain(message: str, hint: str = "") -> None:
    """Print *message* on stderr, and *hint* below it."""
    stderr = ReportStream(sys.stderr)
    stderr.write(f"uid2: {message}\n")
    if hint:
        stderr.write(f"Hint: {hint}\n")
    stderr.flush()


def complain_about(error: UID2Error) -> None:
    """Print what *error* says, and which call it was."""
    call = []
    if error.endpoint is not None:
        call.append(f"POST {error.endpoint}")
    if isinstance(error, OperatorError) and error.status:
        call.append(f"HTTP {error.status}")
    if error.attempts > 1:
        call.append(f"{error.attempts} attempts")
    if error.trace_id is not None:
        call.append(f"trace id {error.trace_id}")
    where = f" [{', '.join(call)}]" if call else ""
    complain(f"{error.message}{where}", error.hint)


def complain_about_bug(error: Exception) -> None:
    """Print where an unforeseen *error* was raised; its text might hold anything."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = ""
    if place is not None:
        where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    complain(
        f"An unforeseen {type(error).__name__}{where}.",
        "This is a defect of uid2_async: please report the line above.",
    )


def exit_code_of(error: UID2Error) -> ExitCode:
    """Choose the exit code for *error*."""
    match error:
        case InputError() | ConfigError():
            return ExitCode.USAGE
        case AuthError():
            return ExitCode.AUTH
        case RateLimitError() | CallTimeoutError() | StalledError():
            return ExitCode.TRY_LATER
        case _:
            return ExitCode.FAILURE


def mask(message: str, arguments: Iterable[str]) -> str:
    """Blot out every argument in *message* that is more than a plain word.

    Messages about a command line repeat parts of it, which may be DII or a secret.
    """
    for argument in sorted(arguments, key=len, reverse=True):
        for part in (argument, *argument.split("=", 1)):
            if part and not _PLAIN_WORD.fullmatch(part):
                message = message.replace(part, "***")
    return message
