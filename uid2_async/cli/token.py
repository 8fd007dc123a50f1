"""``uid2 token``: identity tokens for one person."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.cli.options import FileOption, KindOption, SandboxOption, ScopeOption
from uid2_async.cli.run_async import run_async
from uid2_async.cli.values import STANDARD, as_kind, read_one, read_text
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Identity, IdentityScope, InsufficientConsent, OptedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from uid2_async.client import UID2Client

    T = TypeVar("T")

__all__ = ["token_app"]

token_app: typer.Typer = typer.Typer(
    help="Generate, refresh and validate identity tokens.", rich_markup_mode=None
)

_ValueArgument = Annotated[
    str | None,
    typer.Argument(metavar="VALUE", help="An identity; - is stdin."),
]


@token_app.command()
def generate(
    value: _ValueArgument = None,
    *,
    file: FileOption = None,
    kind: KindOption = None,
    tcf_consent: Annotated[
        str | None,
        typer.Option("--tcf-consent", metavar="STRING", help="The TCF v2 string."),
    ] = None,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Print the identity tokens of one person as JSON.

    For a person without tokens it is {"status":"optout"} or
    {"status":"insufficient_user_consent"}.
    """
    identity = as_kind(read_one(value, file), kind)
    answer = _ask(
        lambda client: client.generate_token(identity, tcf_consent_string=tcf_consent),
        scope,
        sandbox=sandbox,
    )
    _print_tokens(answer)


@token_app.command()
def refresh(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Identity tokens as generate prints them; - is stdin."
        ),
    ],
    *,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Print new identity tokens for those in FILE as JSON.

    For a person who has opted out it is {"status":"optout"}.
    """
    tokens = IdentityTokens.from_json(read_text(file))
    answer = _ask(lambda client: client.refresh_token(tokens), scope, sandbox=sandbox)
    _print_tokens(answer)


@token_app.command()
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
            help="Read the token, or identity tokens as generate prints them, from "
            "FILE; - is stdin.",
        ),
    ] = None,
    kind: KindOption = None,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Tell whether an advertising token is this person's: {"valid":true} or false.

    Only tokens of the API key's own site can be asked about.
    """
    if value == STANDARD == token_file:
        raise InputError("VALUE and --token-file cannot both be stdin.")
    advertising_token = _read_token(token, token_file)
    identity: Identity = as_kind(read_one(value, None), kind)
    valid = _ask(
        lambda client: client.validate_token(identity, advertising_token),
        scope,
        sandbox=sandbox,
    )
    typer.echo(json.dumps({"valid": valid}, separators=(",", ":")))


def _ask(
    call: Callable[[UID2Client], Awaitable[T]], scope: IdentityScope, *, sandbox: bool
) -> T:
    """Make one call."""

    async def run() -> T:
        from uid2_async.cli.connection import connect  # noqa: PLC0415 - imports aiohttp

        async with connect(scope, sandbox=sandbox) as client:
            return await call(client)

    return run_async(run())


def _read_token(token: str | None, file: str | None) -> str:
    """Take the advertising token itself, or out of a file."""
    if (token is None) == (file is None):
        raise InputError("Give either TOKEN or --token-file.")
    if file is None:
        return token or ""
    text = read_text(file)
    if text.startswith("{"):
        return IdentityTokens.from_json(text).advertising_token
    return text


def _print_tokens(answer: IdentityTokens | OptedOut | InsufficientConsent) -> None:
    """Print JSON; an opt-out is an answer like any other."""
    match answer:
        case IdentityTokens():
            typer.echo(answer.to_json())
        case OptedOut():
            typer.echo('{"status":"optout"}')
        case InsufficientConsent():
            typer.echo('{"status":"insufficient_user_consent"}')
