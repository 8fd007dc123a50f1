"""What a failure looks like: one line, one hint, one exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from uid2_async.cli.printing import print_to_stderr
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
    "complain",
    "complain_about",
    "complain_about_bug",
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


def complain(message: str, hint: str = "") -> None:
    """Print *message* on stderr, and *hint* below it."""
    print_to_stderr(f"uid2: {message}")
    if hint:
        print_to_stderr(f"Hint: {hint}")


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
    where = "."
    if place is not None:
        where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}."
    # Below a public function of the library there are no frames, but there is a note.
    notes = getattr(error, "__notes__", [])
    where = f". {notes[0]}" if notes else where
    complain(
        f"An unforeseen {type(error).__name__}{where}",
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
