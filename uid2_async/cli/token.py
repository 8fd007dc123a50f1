"""``uid2 token`` for the tokens of one person, and ``uid2 inspect`` for any value."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import unquote

import typer

from uid2_async.bulk.paths import STDIO
from uid2_async.cli.connection import Connection
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.keys import KeysFileOption, KeysKind, KeysOption, kind_of, load_keys
from uid2_async.cli.options import (
    Command,
    JsonOption,
    KindOption,
    ValueFileOption,
    with_shared_options,
)
from uid2_async.cli.output import dump_json, print_lines
from uid2_async.cli.values import as_kind, read_one, read_text
from uid2_async.errors import InputError, KeysUnavailableError, TokenError, TokenFailure
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import InsufficientConsent, OptedOut, ms_from_datetime
from uid2_async.protocol.inspection import ValueKind, describe, inspect_value
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.token_codec import CLIENT_SIDE_GENERATED, open_token
from uid2_async.protocol.token_rules import ClientType, try_decrypt
from uid2_async.protocol.wire import iso

token_app: typer.Typer = typer.Typer(
    help="Generate, refresh and validate identity tokens.",
    add_completion=False,
    rich_markup_mode=None,
)

_ValueArgument = Annotated[
    str | None, typer.Argument(metavar="VALUE", help="An identity; - is stdin.")
]


@token_app.command(cls=Command)
@with_shared_options()
def generate(
    value: _ValueArgument = None,
    *,
    file: ValueFileOption = None,
    kind: KindOption = None,
    tcf_consent: Annotated[
        str | None,
        typer.Option("--tcf-consent", metavar="STRING", help="The TCF v2 string."),
    ] = None,
    connection: Connection,
) -> None:
    """Print the identity tokens of one person as JSON.

    For a person without tokens, prints {"status":"optout"} or
    {"status":"insufficient_user_consent"}.
    """
    identity = as_kind(read_one(value, file), kind)
    answer = connection.ask(
        lambda client: client.generate_token(identity, tcf_consent_string=tcf_consent)
    )
    _print_tokens(answer)


@token_app.command(cls=Command)
@with_shared_options()
def refresh(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A file with identity tokens as printed by generate; - is stdin.",
        ),
    ],
    *,
    connection: Connection,
) -> None:
    """Print new identity tokens for those in FILE as JSON.

    For a person who has opted out, prints {"status":"optout"}.
    """
    tokens = IdentityTokens.from_json(read_text(file))
    answer = connection.ask(lambda client: client.refresh_token(tokens))
    _print_tokens(answer)


@token_app.command(cls=Command)
@with_shared_options()
def validate(
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="An identity; - is stdin.")
    ],
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN", help="An advertising token.")
    ] = None,
    *,
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Read the token, or identity tokens as printed by generate, from "
            "FILE; - is stdin.",
        ),
    ] = None,
    kind: KindOption = None,
    connection: Connection,
) -> None:
    """Check whether an advertising token is this person's: {"valid":true} or false.

    Only tokens of the API key's own site can be checked.
    """
    if value == STDIO == token_file:
        raise InputError("VALUE and --token-file cannot both be stdin.")
    advertising_token = _read_token(token, token_file)
    identity = as_kind(read_one(value, None), kind)
    valid = connection.ask(
        lambda client: client.validate_token(identity, advertising_token)
    )
    typer.echo(json.dumps({"valid": valid}, separators=(",", ":")))


def _read_token(token: str | None, file: str | None) -> str:
    """Return the given advertising token, or read it from a file."""
    if (token is None) == (file is None):
        raise InputError("Give either TOKEN or --token-file.")
    if file is None:
        return token or ""
    text = read_text(file)
    if text.startswith("{"):
        return IdentityTokens.from_json(text).advertising_token
    return text


def _print_tokens(answer: IdentityTokens | OptedOut | InsufficientConsent) -> None:
    """Print JSON. An opt-out is a result, not an error."""
    match answer:
        case IdentityTokens():
            typer.echo(answer.to_json())
        case OptedOut():
            typer.echo('{"status":"optout"}')
        case InsufficientConsent():
            typer.echo('{"status":"insufficient_user_consent"}')


# --- inspect --------------------------------------------------------------------------

_UNKNOWN: Final = "nothing known"
_TOKEN: Final = ValueKind.ADVERTISING_TOKEN.value
_CLIENTS: Final = {
    KeysKind.SHARING: ClientType.SHARING,
    KeysKind.BIDSTREAM: ClientType.BIDSTREAM,
}


@with_shared_options()
def inspect_one(
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="A token, identity tokens, a raw UID or a hash; - is stdin. API keys "
            "and secrets are accepted only on stdin.",
        ),
    ],
    *,
    as_json: JsonOption = False,
    keys: KeysOption = None,
    keys_file: KeysFileOption = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain",
            metavar="NAME",
            help="The domain or app where the token was seen. With the keys for "
            "bidders, client-side tokens are valid only there.",
        ),
    ] = None,
    show_uid: Annotated[
        bool, typer.Option("--show-uid", help="Print the raw UID of decrypted tokens.")
    ] = False,
    connection: Connection,
) -> None:
    """Identify a token, raw UID or hash, and what is wrong with it.

    Prints version, scope, type and times. Nothing is sent. With --keys or --keys-file,
    advertising tokens are decrypted on this machine. VALUE itself is not printed. Exits
    with 3 if VALUE is not recognized.
    """
    if keys is not None and keys_file is not None:
        raise InputError("Give either --keys or --keys-file.")
    now_ms = ms_from_datetime(datetime.now(UTC))
    text = read_text(value) if value == STDIO else value
    found = inspect_value(text, now_ms=now_ms)
    if value != STDIO and ValueKind.API_KEY in found.kinds:
        # Other users and the shell history have seen it.
        raise InputError(
            "API keys and secrets are not accepted on the command line.",
            hint="Pipe it in: uid2 inspect - < FILE. Replace a key that others have "
            "seen.",
        )
    report = describe(found)
    if keys is not None or keys_file is not None:
        if found_token := _find_token(report, text):
            part, token = found_token
            ring = load_keys(keys or KeysKind.SHARING, connection, keys_file)
            part |= _describe_decrypted(token, ring, now_ms, domain, show_uid=show_uid)
        else:
            note = "The value has no advertising token that keys could decrypt."
            report["notes"].append(note)
    if as_json:
        sys.stdout.write(dump_json(report, indent=2))
    else:
        print_lines(_lines(report))
    if not found.kinds:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _find_token(report: dict[str, Any], text: str) -> tuple[dict[str, Any], str] | None:
    """Find the advertising token in *text*, which is one or contains identity tokens.

    Returns it with its part of the *report* about *text*.
    """
    # A cookie may be percent-encoded. No token contains a percent sign.
    text = text.strip()
    token = unquote(text)
    if "advertising_token" in report:
        report = report["advertising_token"]
        json_text = text if text.startswith("{") else token
        token = IdentityTokens.from_json(json_text).advertising_token
    return (report, token) if report["kinds"] == [_TOKEN] else None


def _describe_decrypted(
    token: str, ring: KeyRing, now_ms: int, domain: str | None, *, show_uid: bool
) -> dict[str, Any]:
    """Return the verdict on a token, and its content if the keys decrypt it.

    Expired or otherwise rejected tokens are decrypted as well.
    """
    client = _CLIENTS[kind_of(ring)]
    try:
        found = try_decrypt(token, ring, now_ms, client, domain)
        status = found.name if isinstance(found, TokenFailure) else "SUCCESS"
    except KeysUnavailableError:
        status = "KEYS_NOT_SYNCED"
    try:
        content = open_token(token, ring.key)
    except TokenError:
        return {"status": status}
    created_ms = content.created_ms
    report = {
        "status": status,
        "site_key_id": content.site_key_id,
        "site_id": content.site_id,
        "established": iso(content.established_ms),
        "created": None if created_ms is None else iso(created_ms),
        "expires": iso(content.expires_ms),
        "client_side_generated": bool(content.privacy_bits & CLIENT_SIDE_GENERATED),
        "raw_uid": content.raw_uid if show_uid else None,
    }
    return {name: value for name, value in report.items() if value is not None}


def _lines(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Format a report as ``name: value`` lines, notes last."""
    yield f"{indent}what: {' or '.join(report['kinds']) or _UNKNOWN}"
    for name, value in report.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            yield f"{indent}{label}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, bool):
            yield f"{indent}{label}: {'yes' if value else 'no'}"
        elif not isinstance(value, list):
            yield f"{indent}{label}: {value}"
    for note in report["notes"]:
        yield f"{indent}note: {note}"
