"""The root of all commands: where secrets are refused and failures get codes."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

import typer
from typer.core import TyperGroup

from uid2_async.cli.failure import (
    ExitCode,
    complain,
    complain_about,
    complain_about_bug,
    exit_code_of,
    mask,
)
from uid2_async.cli.printing import discard
from uid2_async.errors import UID2Error

__all__ = ["CommandGroup"]

_SECRET_OPTION: Final = re.compile(
    r"--?(api|client|secret)?[-_]?(key|secret)([-_]?(key|file))?(=.*)?",
    re.IGNORECASE | re.DOTALL,
)
# The one option of that name that there is: it names a column.
_KEY_COLUMN: Final = re.compile(r"--key(=.*)?", re.DOTALL)
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
        if any(_is_secret(one, arguments) for one in arguments):
            complain(
                "API keys and secrets are not taken from the command line, where other "
                "users and the shell's history see them.",
                "Set UID2_API_KEY and UID2_SECRET_KEY in the environment, or "
                "UID2_API_KEY_FILE and UID2_SECRET_KEY_FILE to files.",
            )
            sys.exit(ExitCode.USAGE)
        extra["standalone_mode"] = False
        # Errors are printed here; the log's lines about them would say it twice.
        logging.getLogger("uid2_async").addHandler(logging.NullHandler())
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(arguments, *rest, **extra)
            except Exception as error:
                if not _is_usage_error(error):
                    raise
                _complain_about_usage(error, arguments)
                code = ExitCode.USAGE
        sys.exit(code or ExitCode.OK)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was found; see :meth:`main`."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except UID2Error as error:
            complain_about(error)
            code = exit_code_of(error)
        except BrokenPipeError:
            discard(sys.stdout)
            code = ExitCode.FAILURE
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{error.strerror or type(error).__name__}.")
            discard(sys.stdout)
            code = ExitCode.FAILURE
        except KeyboardInterrupt:
            complain("Interrupted.")
            code = ExitCode.INTERRUPTED
        except typer.Abort:
            code = ExitCode.FAILURE
        except typer.Exit:
            raise
        except Exception as error:
            if _is_usage_error(error):
                raise
            complain_about_bug(error)
            code = ExitCode.FAILURE
        else:
            return result
        raise typer.Exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, without the source's."""
    complain(f"warning: {message}")


def _is_secret(argument: str, arguments: Sequence[str]) -> bool:
    """Tell whether *argument* is an option for a secret, or an API key."""
    if _API_KEY.search(argument):
        return True
    if arguments[0] == "map" and _KEY_COLUMN.fullmatch(argument):
        return False
    return _SECRET_OPTION.fullmatch(argument) is not None


def _is_usage_error(error: Exception) -> bool:
    """Tell whether typer refused the command line; its versions differ in the class."""
    return hasattr(error, "format_message")


def _complain_about_usage(error: Any, arguments: Sequence[str]) -> None:
    """Print what is wrong with the command line, without the values in it."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "uid2"
    message = " ".join(mask(error.format_message(), arguments).split())
    complain(message, f"See '{command} --help'.")


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
