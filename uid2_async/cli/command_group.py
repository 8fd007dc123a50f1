"""The root of all commands: where secrets are refused and failures get codes."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import typer
from typer.core import TyperGroup

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.failure import Failure, mask, on_failure
from uid2_async.cli.printing import (
    LOG,
    LogFormat,
    discard,
    print_json,
    print_message,
)

__all__ = ["CommandGroup"]

_SECRET_OPTION: Final = re.compile(
    r"--?(api|client|secret)?[-_]?(key|secret)([-_]?(key|file))?(=.*)?",
    re.IGNORECASE | re.DOTALL,
)
# The one option of that name that there is: it names a column.
_KEY_COLUMN: Final = re.compile(r"--key(=.*)?", re.DOTALL)
_GLOBAL_OPTIONS: Final = ("--log-level", "--log-format")
_SECRET_REFUSED: Final = Failure(
    "UsageError",
    "API keys and secrets are not taken from the command line, where other users and "
    "the shell's history see them.",
    ExitCode.USAGE,
    "Set UID2_API_KEY and UID2_SECRET_KEY in the environment, or UID2_API_KEY_FILE and "
    "UID2_SECRET_KEY_FILE to files.",
)
_API_KEY: Final = re.compile(r"(^|=)\s*E?UID2?-C-", re.IGNORECASE)


class CommandGroup(TyperGroup):
    """Prints every failure as one line and a hint, and never repeats a secret."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command line *args* and exit.

        Raises:
            SystemExit: Always, with the code of :class:`ExitCode`.
        """
        _open_standard_streams()
        arguments = sys.argv[1:] if args is None else list(args)
        LOG.configure(None, LogFormat.TEXT)
        on_failure.set(partial(_print_failure, as_json="--json" in arguments))
        if any(_is_secret(one, arguments) for one in arguments):
            sys.exit(_report(_SECRET_REFUSED))
        extra["standalone_mode"] = False
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(_globals_first(arguments), *rest, **extra)
            except Exception as error:
                if not _is_usage_error(error):
                    raise
                code = _report(_usage_failure(error, arguments))
            finally:
                LOG.configure(None, LogFormat.TEXT)
        sys.exit(code or ExitCode.OK)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was found; see :meth:`main`."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except typer.Abort:
            code = ExitCode.FAILURE
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if _is_usage_error(error):
                raise
            if isinstance(error, OSError):
                discard(sys.stdout)
            code = _report(Failure.of(error))
        else:
            return result
        raise typer.Exit(code)


def _report(failure: Failure) -> ExitCode:
    """Let the command that runs report its failure; return the exit code."""
    report = on_failure.get()
    assert report is not None  # noqa: S101 - by main
    report(failure)
    return failure.exit_code


def _print_failure(failure: Failure, *, as_json: bool) -> None:
    """Print a failure; with *as_json* also as an object on stdout."""
    failure.print()
    if as_json:
        fields = {"complete": False, "resumes": False}
        code = failure.exit_code.value
        print_json({**fields, "exit_code": code, "error": failure.as_json()})


def _globals_first(arguments: Sequence[str]) -> list[str]:
    """Move the options of all commands to the front, wherever they were given."""
    moved: list[str] = []
    kept: list[str] = []
    rest = iter(arguments)
    for one in rest:
        if one == "--":
            kept += [one, *rest]
        elif one.partition("=")[0] in _GLOBAL_OPTIONS:
            moved += [one] if "=" in one else [one, *islice(rest, 1)]
        else:
            kept.append(one)
    return [*moved, *kept]


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the source's."""
    print_message("warning", f"warning: {message}")


def _is_secret(argument: str, arguments: Sequence[str]) -> bool:
    """Tell whether *argument* is an option for a secret, or an API key."""
    if _API_KEY.search(argument):
        return True
    if arguments[0] in ("map", "estimate") and _KEY_COLUMN.fullmatch(argument):
        return False
    return _SECRET_OPTION.fullmatch(argument) is not None


def _is_usage_error(error: BaseException) -> bool:
    """Tell whether typer refused the command line; its versions differ in the class."""
    return hasattr(error, "format_message")


def _usage_failure(error: Any, arguments: Sequence[str]) -> Failure:
    """Describe what is wrong with the command line, without the values in it."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "uid2"
    message = " ".join(mask(error.format_message(), arguments).split())
    hint = f"See '{command} --help'."
    return Failure("UsageError", message, ExitCode.USAGE, hint)


def _open_standard_streams() -> None:
    """Open those of stdin, stdout and stderr that the caller has closed.

    Else the next file that is opened would take their place, and what is printed would
    be written into it. A closed stdout fails when data is written to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            flags = os.O_RDWR if name == "stderr" else os.O_RDONLY
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as the process
