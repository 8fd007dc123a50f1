"""``uid2 decrypt``: raw UIDs out of advertising tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.cli.job_options import TextOptions
from uid2_async.cli.key_source import (
    KeysFileOption,
    KeysKind,
    KeysOption,
    kind_of,
    load_keys,
)
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.row_files import Cells, Shape, Work
from uid2_async.cli.row_job import (
    ForceOption,
    RowJob,
    RowsArgument,
    RowsOutArgument,
)
from uid2_async.cli.run_async import run_async
from uid2_async.cli.shared_options import with_shared_options
from uid2_async.errors import InputError, TokenFailure
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.protocol.keyring import KeyRing
    from uid2_async.protocol.token_rules import DecryptedToken

__all__ = ["decrypt_tokens"]

_ADDED: Final = {
    "UID": Content.TEXT,
    "SITE_ID": Content.INTEGER,
    "DECRYPTION_STATUS": Content.TEXT,
}


@with_shared_options
def decrypt_tokens(  # noqa: PLR0913 - an option each
    source: RowsArgument = None,
    target: RowsOutArgument = None,
    *,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="A token instead of a file; - reads lines of stdin. Repeatable.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="The column with the tokens; UID_TOKEN by default.",
        ),
    ] = None,
    domain_column: Annotated[
        str | None,
        typer.Option(
            "--domain-column",
            metavar="NAME",
            help="The column with the domain or app that each token comes from.",
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain", metavar="NAME", help="The domain or app of all tokens."
        ),
    ] = None,
    force: ForceOption = False,
    text: TextOptions,
    keys: KeysOption = None,
    keys_file: KeysFileOption = None,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Decrypt advertising tokens of any version locally.

    Every row and column of IN is kept, in order; UID, SITE_ID and DECRYPTION_STATUS are
    appended. With --token they are printed as JSON, a line each.

    DECRYPTION_STATUS is empty (null) for a decrypted token, else EXPIRED_TOKEN,
    INVALID_PAYLOAD, VERSION_NOT_SUPPORTED, INVALID_IDENTITY_SCOPE,
    NOT_AUTHORIZED_FOR_MASTER_KEY, NOT_AUTHORIZED_FOR_KEY, INVALID_TOKEN_LIFETIME or
    DOMAIN_OR_APP_NAME_CHECK_FAILED. Exits with 3 if a token is not decrypted.

    --keys bidstream, the default, judges as a bidder must: a token that a page or app
    generated is taken only with a domain or app of its site. --keys sharing judges as
    for shared tokens, without domains. A file written by 'uid2 keys' tells by itself.
    """
    if domain and domain_column:
        raise InputError("Give either --domain or --domain-column.")
    if (domain or domain_column) and keys is KeysKind.SHARING:
        raise InputError(
            "Domains are checked with --keys bidstream alone.",
            hint="Leave out --keys sharing, or the domains.",
        )
    wanted = {"--column": column or "UID_TOKEN"}
    if domain_column:
        wanted["--domain-column"] = domain_column

    def prepare() -> Work:
        kind = keys or KeysKind.BIDSTREAM
        ring = run_async(load_keys(kind, scope, sandbox=sandbox, file=keys_file))
        if keys is None and not (domain or domain_column):
            kind = kind_of(ring)
        return _opener(ring, kind, domain)

    RowJob(
        option="--token",
        values=tokens or (),
        source=source,
        target=target,
        options=FileFormatOptions(**text.settings()),
        force=force,
        columns=(column, domain_column),
        shape=Shape(wanted=wanted, added=_ADDED),
        result="a raw UID",
    ).run(prepare)


def _opener(ring: KeyRing, kind: KeysKind, domain: str | None) -> Work:
    """Make what opens some tokens at once."""
    # --help need not wait for the ciphers.
    from uid2_async.bidstream import BidstreamClient  # noqa: PLC0415 - above
    from uid2_async.sharing import SharingClient  # noqa: PLC0415 - above

    sharing, bidstream = SharingClient(ring), BidstreamClient(ring)

    def open_some(values: Sequence[Sequence[str]]) -> Iterable[Cells]:
        tokens, *others = values
        if kind is KeysKind.SHARING:
            found = sharing.decrypt_many(tokens)
        else:
            domains = others[0] if others else [domain] * len(tokens)
            found = bidstream.decrypt_many(tokens, domains)
        return map(_cells, found)

    return open_some


def _cells(found: DecryptedToken | TokenFailure) -> Cells:
    """Turn an answer into the three columns."""
    if isinstance(found, TokenFailure):
        return (None, None, found.name)
    return (found.raw_uid, found.site_id, None)
