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
from uid2_async.cli.failure import ExitCode
from uid2_async.cli.state import state_app
from uid2_async.cli.token import token_app

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    cls=CommandGroup,
    help="UID2 and EUID from the command line. The environment names the operator: "
    "UID2_BASE_URL (or UID2_ENV=integ|prod), UID2_API_KEY and UID2_SECRET_KEY; EUID_* "
    "for EUID; each may end in _FILE and name a file.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, but "
    "some rows could not be asked about (map, refresh, optout-status) or some values "
    "are invalid (hash, inspect, encrypt, decrypt), 4 key or secret not accepted, "
    "5 rate limited, timed out or stalled (the same command goes on), 130 interrupted, "
    "143 terminated.",
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
) -> None:
    """Print the version, or what commands there are."""
    if version:
        typer.echo(f"uid2-async {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


app.command(name="map")(map_command.map_files)
app.command(name="refresh")(refresh.refresh_people)
app.command(name="optout-status")(optout_status.check_optouts)
app.command(name="estimate")(estimate.estimate_files)
app.add_typer(state_app, name="state")
app.add_typer(token_app, name="token")
app.command(name="encrypt")(encrypt.encrypt_uids)
app.command(name="decrypt")(decrypt.decrypt_tokens)
app.command(name="hash")(hash_command.hash_values)
app.command(name="inspect")(inspect_command.inspect_one)
app.command(name="keys")(keys.list_keys)
app.command(name="buckets")(buckets.list_buckets)
app.command(name="doctor")(doctor.find_causes)
app.command(name="sandbox")(sandbox.run_sandbox)
