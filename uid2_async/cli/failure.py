"""What a failure looks like: one line, one hint, one exit code, and JSON on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final

import attrs

from uid2_async.cli.exit_codes import ExitCode, exit_code_of
from uid2_async.cli.printing import print_message
from uid2_async.errors import OperatorError, UID2Error

__all__ = ["Failure", "mask", "on_failure", "print_error"]

# What may be repeated in a message: options, commands and short names.
_PLAIN_WORD: Final = re.compile(r"-{0,2}[A-Za-z][A-Za-z_./=-]{0,30}")


@attrs.frozen
class Failure:
    """Why a command ended without a result.

    Attributes:
        name: The class of the error.
        message: What failed and why, in words that may be shown anywhere.
        exit_code: The exit code of the command.
        hint: What to do.
        call: The endpoint, HTTP status, number of attempts and trace ID, if a call to
            the operator failed.
    """

    name: str
    message: str
    exit_code: ExitCode = ExitCode.FAILURE
    hint: str = ""
    call: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe *error*."""
        name = type(error).__name__
        if isinstance(error, UID2Error):
            call = _call_of(error)
            return cls(name, error.message, exit_code_of(error), error.hint, call)
        if isinstance(error, BrokenPipeError):
            return cls(name, "")
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            return cls(name, f"{where}{error.strerror or name}.")
        if isinstance(error, KeyboardInterrupt):
            return cls("Interrupted", "Interrupted.", ExitCode.INTERRUPTED)
        if isinstance(error, SystemExit):
            return cls("Terminated", "Terminated.", ExitCode.TERMINATED)
        return cls(
            name,
            f"An unforeseen {name}{_place_of(error)}",
            hint="This is a defect of uid2_async: please report the line above.",
        )

    def print(self) -> None:
        """Print the message, the call and the hint on stderr."""
        facts = [
            f"{value} {name}" if name == "attempts" else f"{name} {value}"
            for name, value in self.call.items()
        ]
        where = f" [{', '.join(facts)}]" if facts else ""
        if self.message:
            print_error(f"{self.message}{where}", self.hint)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of ``--json``."""
        return {
            "class": self.name,
            "message": self.message,
            "hint": self.hint or None,
            **{name.lower().replace(" ", "_"): one for name, one in self.call.items()},
        }


on_failure: ContextVar[Callable[[Failure], object] | None] = ContextVar(
    "on_failure", default=None
)
"""Set by the command that runs: reports a failure in its own way."""


def print_error(message: str, hint: str = "") -> None:
    """Print *message* on stderr, and *hint* below it."""
    print_message("error", message, hint)


def _call_of(error: UID2Error) -> dict[str, Any]:
    """Return what support needs to find a failed call."""
    status = error.status if isinstance(error, OperatorError) else None
    call = {
        "POST": error.endpoint,
        "HTTP": status or None,
        "attempts": error.attempts if error.attempts > 1 else None,
        "trace id": error.trace_id,
    }
    return {name: value for name, value in call.items() if value is not None}


def _place_of(error: BaseException) -> str:
    """Return where an unforeseen error was raised; its text might hold anything."""
    # Below a public function of the library there are no frames, but there is a note.
    if notes := getattr(error, "__notes__", []):
        return f". {notes[0]}"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return "."
    return f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}."


def mask(message: str, arguments: Iterable[str]) -> str:
    """Mask every argument in *message* that is more than a plain word.

    Messages about a command line repeat parts of it, which may be DII or a secret.
    """
    for argument in sorted(arguments, key=len, reverse=True):
        for part in (argument, *argument.split("=", 1)):
            if part and not _PLAIN_WORD.fullmatch(part):
                message = message.replace(part, "***")
    return message
