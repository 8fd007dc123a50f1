"""The command tree of ``uid2``. Commands are loaded on first use.

The root reads the options that all commands share, rejects secrets, and turns failures
into messages and exit codes.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from uid2_async._version import __version__
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.output import (
    LOG,
    Failure,
    LogFormat,
    LogLevel,
    discard_unwritten,
    mask,
    on_failure,
    print_json,
    print_lines,
    print_message,
    reject_repeated,
)

# --- the tree -------------------------------------------------------------------------

# For each command: its module, its function or command group, and the first sentence of
# its help, so that listing the commands loads none of them.
_COMMANDS: Final = {
    "map": (
        "map:map_files",
        "Map files of email addresses or phone numbers to raw UIDs.",
    ),
    "refresh": ("map:refresh_people", "Ask again about the due identities of a state."),
    "optout-status": ("map:check_optouts", "Check who has opted out."),
    "estimate": (
        "map:estimate_files",
        "Estimate the requests, traffic and time of 'uid2 map'.",
    ),
    "encrypt": (
        "rows:encrypt_uids",
        "Encrypt raw UIDs locally into tokens for sharing.",
    ),
    "decrypt": (
        "rows:decrypt_tokens",
        "Decrypt advertising tokens of any version locally.",
    ),
    "hash": ("rows:hash_identities", "Normalize and hash identities locally."),
    "inspect": (
        "token:inspect_one",
        "Identify a token, raw UID or hash, and what is wrong with it.",
    ),
    "keys": ("keys:list_keys", "List the keys for tokens, without their secrets."),
    "buckets": (
        "keys:list_buckets",
        "List the salt buckets that rotated at or after a time.",
    ),
    "doctor": (
        "doctor:explain",
        "Find out why requests fail: settings, network, key, clock.",
    ),
    "sandbox": (
        "sandbox:run_sandbox",
        "Run a local operator to develop and test against.",
    ),
    "exit-codes": (
        "app:list_exit_codes",
        "List the exit codes, and what a scheduler should do.",
    ),
    "state": ("state:state_app", "Inspect, export, purge and maintain a state file."),
    "token": ("token:token_app", "Generate, refresh and validate identity tokens."),
}


# --- the root -------------------------------------------------------------------------

_SECRET_OPTION: Final = re.compile(
    r"--?(api|client|secret)?[-_]?(key|secret)([-_]?(key|file))?(=.*)?",
    re.IGNORECASE | re.DOTALL,
)
# The only option with such a name. It names a column.
_KEY_COLUMN: Final = re.compile(r"--key(=.*)?", re.DOTALL)
_GLOBAL_OPTIONS: Final = ("--log-level", "--log-format")
_SECRET_REFUSED: Final = Failure(
    "UsageError",
    "API keys and secrets are not accepted on the command line, where other users and "
    "the shell history can see them.",
    ExitCode.USAGE,
    "Set UID2_API_KEY and UID2_SECRET_KEY in the environment, or UID2_API_KEY_FILE and "
    "UID2_SECRET_KEY_FILE to files.",
)
_API_KEY: Final = re.compile(r"(^|=)\s*E?UID2?-C-", re.IGNORECASE)


class CommandGroup(TyperGroup):
    """The commands of the table, each loaded on first use.

    Prints every failure as one line and a hint, and never repeats a secret.
    """

    def __init__(self, **settings: Any) -> None:
        """Pass the settings to typer, and add the names of the commands."""
        super().__init__(**settings)
        self.commands: dict[str, Any] = {**dict.fromkeys(_COMMANDS), **self.commands}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None if there is none of that name."""
        if cmd_name in _COMMANDS and self.commands[cmd_name] is None:
            module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
            found = getattr(import_module(f"uid2_async.cli.{module}"), attribute)
            if not isinstance(found, typer.Typer):
                single = typer.Typer(add_completion=False, rich_markup_mode=None)
                single.command(cls=getattr(found, "command_class", None))(found)
                found = single
            command = self.commands[cmd_name] = typer.main.get_command(found)
            command.name = cmd_name
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options that all commands share, each given once."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        reject_repeated(self, ctx, given)
        return rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without loading them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

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
            except Exception as error:  # noqa: BLE001 - every failure is reported
                # Help is printed while the command line is parsed.
                discard_unwritten(error)
                failure = (
                    _usage_failure(error, arguments)
                    if _is_usage_error(error)
                    else Failure.of(error)
                )
                code = _report(failure)
            finally:
                LOG.configure(None, LogFormat.TEXT)
        sys.exit(code or ExitCode.OK)

    def invoke(self, ctx: Any) -> Any:
        """Run the selected command, and report its failure."""
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
            discard_unwritten(error)
            command = self.get_command(ctx, ctx.invoked_subcommand)
            code = _report(Failure.of(error, _options_of(command)))
        else:
            return result
        raise typer.Exit(code)


def _options_of(command: Any) -> set[str]:
    """Return the options of a command and of the commands below it."""
    below = getattr(command, "commands", {}).values()
    parameters = [
        one for each in (command, *below) for one in getattr(each, "params", ())
    ]
    return {name for one in parameters for name in one.opts}


def _report(failure: Failure) -> ExitCode:
    """Report a failure through the running command, and return the exit code."""
    on_failure.get()(failure)
    return failure.exit_code


def _print_failure(failure: Failure, *, as_json: bool) -> None:
    """Print a failure; with *as_json* also as an object on stdout."""
    failure.print()
    if as_json:
        fields = {"complete": False, "resumes": False}
        code = failure.exit_code.value
        print_json({**fields, "exit_code": code, "error": failure.as_json()})


def _globals_first(arguments: Sequence[str]) -> list[str]:
    """Move the options that all commands share to the front."""
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
    """Print a warning as one line, without its source location."""
    print_message("warning", f"warning: {message}")


def _is_secret(argument: str, arguments: Sequence[str]) -> bool:
    """Return whether *argument* is an option for a secret, or an API key."""
    if _API_KEY.search(argument):
        return True
    if arguments[0] in ("map", "estimate") and _KEY_COLUMN.fullmatch(argument):
        return False
    return _SECRET_OPTION.fullmatch(argument) is not None


def _is_usage_error(error: BaseException) -> bool:
    """Return whether typer rejected the command line; its class is private."""
    return hasattr(error, "format_message")


def _usage_failure(error: Any, arguments: Sequence[str]) -> Failure:
    """Describe what is wrong with the command line, without the values in it."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "uid2"
    message = " ".join(mask(error.format_message(), arguments).split())
    hint = f"See '{command} --help'."
    return Failure("UsageError", message, ExitCode.USAGE, hint)


def _open_standard_streams() -> None:
    """Open stdin, stdout and stderr if the caller closed them.

    Otherwise the next file to be opened would get their descriptor, and printed text
    would be written into it. A closed stdout fails when data is written to it.
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


app: typer.Typer = typer.Typer(
    cls=CommandGroup,
    help="UID2 and EUID from the command line. Environment variables set the operator: "
    "UID2_BASE_URL (or UID2_ENV=integ|prod), UID2_API_KEY and UID2_SECRET_KEY; EUID_* "
    "for EUID. Each can end in _FILE and name a file.",
    epilog="'uid2 exit-codes' explains the exit codes.",
    # With rich, help takes three times as long and keeps the line breaks of the source.
    rich_markup_mode=None,
    # A traceback that shows local variables would show DII and keys.
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            "--log-level",
            help="Print the library's log to stderr, from this level up. Works with "
            "every command.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            help="json: every line on stderr is a JSON object. Works with every "
            "command.",
        ),
    ] = LogFormat.TEXT,
) -> None:
    """Print the version, or list the commands."""
    LOG.configure(log_level, log_format)
    if version:
        typer.echo(f"uid2-async {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def list_exit_codes(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array.")
    ] = False,
) -> None:
    """List the exit codes, and what a scheduler should do."""
    if as_json:
        rows = [
            {"code": one.value, "meaning": one.meaning, "action": one.action}
            for one in ExitCode
        ]
        print_json(rows)
        return
    for one in ExitCode:
        print_lines([f"{one.value:>3}  {one.meaning}", f"     {one.action}"])
