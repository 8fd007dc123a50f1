"""``uid2 inspect``: what a value is, and with keys what is in it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.key_source import (
    KeysFileOption,
    KeysKind,
    KeysOption,
    load_keys,
)
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.printing import dump_json, print_lines
from uid2_async.cli.run_async import run_async
from uid2_async.cli.values import STANDARD, read_text
from uid2_async.errors import InputError
from uid2_async.models import IdentityScope, ms_from_datetime

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from uid2_async.protocol.inspection import Inspection
    from uid2_async.protocol.keyring import KeyRing

__all__ = ["inspect_one"]


def inspect_one(
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="A token, identity tokens, a raw UID or a hash; - is stdin, and the "
            "only way for API keys and secrets.",
        ),
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object.")
    ] = False,
    keys: KeysOption = None,
    keys_file: KeysFileOption = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            metavar="NAME",
            help="The domain or app on which the token was seen; with the keys of "
            "bidders, tokens that were generated client-side are tied to it.",
        ),
    ] = None,
    show_uid: Annotated[
        bool, typer.Option("--show-uid", help="Print the raw UID of opened tokens.")
    ] = False,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Show what a token, raw UID or hash is, and what is wrong.

    Prints version, scope, type and times. Nothing is sent. With --keys or
    --keys-file, advertising tokens are decrypted on this machine. VALUE itself is not
    printed. Exits with 3 if VALUE is nothing known.
    """
    from uid2_async.cli.inspect_report import lines  # noqa: PLC0415 - loads the ciphers
    from uid2_async.protocol.inspection import describe, inspect_value  # noqa: PLC0415 - as above

    if keys is not None and keys_file is not None:
        raise InputError("Give either --keys or --keys-file.")
    now_ms = ms_from_datetime(datetime.now(UTC))
    text = read_text(value) if value == STANDARD else value
    found = inspect_value(text, now_ms=now_ms)
    if value != STANDARD:
        _refuse_key(found)
    report = describe(found)
    if keys is not None or keys_file is not None:
        source = load_keys(
            keys or KeysKind.SHARING, scope, sandbox=sandbox, file=keys_file
        )
        _open(report, text, source, now_ms=now_ms, domain=domain, show_uid=show_uid)
    if as_json:
        sys.stdout.write(dump_json(report, indent=2))
    else:
        print_lines(lines(report))
    if not found.kinds:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _refuse_key(found: Inspection) -> None:
    """Refuse an API key that other users and the shell's history have seen."""
    from uid2_async.protocol.inspection import ValueKind  # noqa: PLC0415 - as above

    if ValueKind.API_KEY in found.kinds:
        raise InputError(
            "API keys and secrets are not taken from the command line.",
            hint="Pipe it in: uid2 inspect - < FILE. Replace a key that others saw.",
        )


def _open(
    report: dict[str, Any],
    text: str,
    source: Coroutine[Any, Any, KeyRing],
    *,
    now_ms: int,
    domain: str | None,
    show_uid: bool,
) -> None:
    """Open the advertising token in *text*, if there is one; else fetch nothing."""
    from uid2_async.cli.inspect_report import find_token, open_token_into  # noqa: PLC0415 - as above

    found = find_token(report, text)
    if found is None:
        source.close()
        report["notes"].append("There is no advertising token that keys could open.")
        return
    token_report, token = found
    open_token_into(
        token_report,
        token,
        run_async(source),
        now_ms=now_ms,
        domain=domain,
        show_uid=show_uid,
    )
