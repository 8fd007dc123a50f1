"""The commands put together."""

from __future__ import annotations

from typing import Annotated

import typer

from uid2_async._version import __version__
from uid2_async.cli import (
    buckets,
    decrypt,
    doctor,
    encrypt,
    estimate,
    hash as hash_command,
    inspect as inspect_command,
    keys,
    map as map_command,
    optout_status,
    refresh,
    sandbox,
)
from uid2_async.cli.command_group import CommandGroup
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.help_panels import PanelCommand
from uid2_async.cli.printing import (
    LOG,
    LogFormat,
    LogLevel,
    print_json,
    print_lines,
)
from uid2_async.cli.state import state_app
from uid2_async.cli.token import token_app

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    cls=CommandGroup,
    help="UID2 and EUID from the command line. The environment names the operator: "
    "UID2_BASE_URL (or UID2_ENV=integ|prod), UID2_API_KEY and UID2_SECRET_KEY; EUID_* "
    "for EUID; each may end in _FILE and name a file.",
    epilog="'uid2 exit-codes' explains the exit codes.",
    # With rich, help takes three times as long and breaks lines where the source does.
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
            help="Print the library's log to stderr, from this level on. Every command "
            "takes it.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            help="json: every line on stderr is a JSON object. Every command takes it.",
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


app.command(name="map", cls=PanelCommand)(map_command.map_files)
app.command(name="refresh", cls=PanelCommand)(refresh.refresh_people)
app.command(name="optout-status", cls=PanelCommand)(optout_status.check_optouts)
app.command(name="estimate", cls=PanelCommand)(estimate.estimate_files)
app.add_typer(state_app, name="state")
app.add_typer(token_app, name="token")
app.command(name="encrypt")(encrypt.encrypt_uids)
app.command(name="decrypt")(decrypt.decrypt_tokens)
app.command(name="hash")(hash_command.hash_values)
app.command(name="inspect")(inspect_command.inspect_one)
app.command(name="keys")(keys.list_keys)
app.command(name="buckets")(buckets.list_buckets)
app.command(name="doctor")(doctor.explain)
app.command(name="sandbox")(sandbox.run_sandbox)
app.command(name="exit-codes")(list_exit_codes)
