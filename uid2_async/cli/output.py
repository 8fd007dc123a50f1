"""What every command prints, and how it fails.

Printed text never controls the terminal, and no failure repeats a secret.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import attrs
import msgspec
import typer

from uid2_async._private import printable
from uid2_async.cli.exit_codes import ExitCode, exit_code_of
from uid2_async.errors import OperatorError, UID2Error

# --- printing ------------------------------------------------------------------------


class ReportStream:
    """Stdout or stderr for reports about a job, never for its data.

    A closed reader or a full disk must not change the result of a job.
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
        """Delegate everything else to the stream."""
        return getattr(self._stream, name)


def discard(stream: Any) -> None:
    """Redirect a standard stream and its buffered data to the null device."""
    with suppress(OSError, ValueError):  # it may be closed, or not a file
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, stream.fileno())
        finally:
            os.close(descriptor)


def discard_unwritten(error: BaseException) -> None:
    """Discard what stdout still buffers if *error* may be that it cannot be written."""
    if isinstance(error, OSError):
        discard(sys.stdout)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, for people."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
    # A sandbox whose stdout is a pipe must show its URL before it ends.
    sys.stdout.flush()


def print_message(level: str, message: str, hint: str = "", **fields: Any) -> None:
    """Print a line on stderr, if it can be written to.

    *level* is ``error``, ``warning`` or ``info``. A *hint* gets its own line in text.
    *fields* are added to the object if the log is JSON.
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
    """Print one JSON object in one line; a closed reader is not an error."""
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
    """Messages and the library's log, written to stderr while a command runs."""

    def __init__(self) -> None:
        self.is_json: bool = False
        # Errors are printed; logging them would repeat them.
        self._handler: logging.Handler = logging.NullHandler()
        self._logger = logging.getLogger("uid2_async")

    def configure(self, level: LogLevel | None, log_format: LogFormat) -> None:
        """Write the library's log from *level* up; None disables it."""
        self.is_json = log_format is LogFormat.JSON
        self._logger.removeHandler(self._handler)
        self._handler = logging.NullHandler() if level is None else _LogHandler()
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.NOTSET if level is None else level.upper())


class _LogHandler(logging.Handler):
    """Prints the library's records, which are printable and contain no secrets."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        level, message = record.levelname.lower(), record.getMessage()
        text = message if LOG.is_json else f"{level}: {message}"
        print_message(level, text, logger=record.name)


LOG: Final = _Log()


def dump_json(fields: Any, *, indent: int | None = None) -> str:
    """Encode *fields* as ASCII JSON, with everything else escaped."""
    return json.dumps(msgspec.to_builtins(fields), indent=indent) + "\n"


# --- failures ------------------------------------------------------------------------


# In hints: `name`, `name=value`, and `identifiers={"email": COLUMN}`, which is --email.
_ARGUMENT: Final = re.compile(
    r"""`(?:identifiers={"(?P<kind>\w+)":\ (?P<column>\w+)}
    |(?P<name>\w+)(?:=(?P<value>[^`]+))?)`""",
    re.VERBOSE,
)
_SENTENCE_END: Final = re.compile(r"(?<=\.) (?=[A-Z])")
# Arguments whose options have other names.
_OPTIONS: Final = {
    "sql": "query",
    "table": "to-table",
    "kind": "type",
    "keys": "key",
}
# What a message may repeat: options, commands and short names.
_PLAIN_WORD: Final = re.compile(r"-{0,2}[A-Za-z][A-Za-z_./=-]{0,30}")


@attrs.frozen
class Failure:
    """Why a command ended without a result, safe to show anywhere.

    *name* is the class of the error. *call* has the endpoint, HTTP status, number of
    attempts and trace ID of a failed call.
    """

    name: str
    message: str
    exit_code: ExitCode = ExitCode.FAILURE
    hint: str = ""
    call: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(
        cls, error: BaseException, options: Collection[str] | None = None
    ) -> Failure:
        """Describe *error*, with hints about *options* of the command only."""
        name = type(error).__name__
        if isinstance(error, UID2Error):
            call = _call_of(error)
            hint = _with_options(error.hint, options)
            return cls(name, error.message, exit_code_of(error), hint, call)
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
            f"An unexpected {name}{_place_of(error)}",
            hint="This is a bug in uid2_async. Please report the line above.",
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


on_failure: ContextVar[Callable[[Failure], object]] = ContextVar(
    "on_failure", default=Failure.print
)
"""Set by the running command: reports a failure in its own way."""


def print_error(message: str, hint: str = "") -> None:
    """Print *message* on stderr, and *hint* below it."""
    print_message("error", message, hint)


def _with_options(hint: str, options: Collection[str] | None) -> str:
    """Turn the arguments that a library hint names into command-line options.

    ```delimiter``` becomes ``--delimiter``, ```format="jsonl"``` ``--format jsonl``.
    Sentences about options that are not among *options* are left out.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found["kind"] or found["name"], found["column"] or found["value"]
        words = [f"--{_OPTIONS.get(name, name.replace('_', '-'))}"]
        if value not in (None, "True"):
            words.append(shlex.quote(value.strip('"').replace(r"\\", "\\")))
        return " ".join(words)

    return " ".join(
        _ARGUMENT.sub(option, sentence)
        for sentence in _SENTENCE_END.split(hint)
        if options is None
        or all(
            option(one).split()[0] in options for one in _ARGUMENT.finditer(sentence)
        )
    )


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
    """Return where an unexpected error was raised; its text might contain anything."""
    # A public function of the library strips the frames below it and adds a note.
    if notes := getattr(error, "__notes__", []):
        return f". {notes[0]}"
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "."
    return f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}."


_IDENTIFIERS: Final = {
    *("column", "email_column", "phone_column"),
    *("email_hash_column", "phone_hash_column"),
}
_ONE_COLUMN: Final = (
    "Name one column of each type, such as --email COL --phone COL, and map others of "
    "the same type in another job."
)


def reject_repeated(command: Any, ctx: Any, arguments: Sequence[str]) -> None:
    """Reject an option that is given several times, but takes one value.

    Typer would use the last value and silently drop the others.
    """
    *_, order = command.make_parser(ctx).parse_args(list(arguments))
    for parameter, count in Counter(order).items():
        # A flag without an opposite says the same thing again.
        is_flag = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
        if count == 1 or is_flag or getattr(parameter, "multiple", False):
            continue
        columns = ctx.params.keys() & _IDENTIFIERS
        is_column = len(columns) > 1 and parameter.name in columns
        hint = _ONE_COLUMN if is_column else "Give it once."
        message = f"it takes one value, but is given {count} times. {hint}"
        raise typer.BadParameter(message, ctx=ctx, param=parameter)


def mask(message: str, arguments: Iterable[str]) -> str:
    """Mask every argument in *message* except plain words.

    Typer's messages repeat parts of the command line, which may be DII or a secret.
    """
    for argument in sorted(arguments, key=len, reverse=True):
        for part in (argument, *argument.split("=", 1)):
            if part not in ("", "-") and not _PLAIN_WORD.fullmatch(part):
                message = message.replace(part, "***")
    return message
