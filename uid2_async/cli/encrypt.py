"""``uid2 encrypt``: tokens in which raw UIDs are shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.cli.job_options import TextOptions
from uid2_async.cli.key_source import KeysFileOption, KeysKind, load_keys
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
from uid2_async.errors import TokenError, TokenFailure
from uid2_async.models import IdentityScope, IdentityType

if TYPE_CHECKING:
    from uid2_async.protocol.keyring import KeyRing

__all__ = ["encrypt_uids"]

_ADDED: Final = {"UID_TOKEN": Content.TEXT, "ENCRYPTION_STATUS": Content.TEXT}

# In the words that users of Snowflake know.
_STATUSES: Final = {
    TokenFailure.INVALID_PAYLOAD: "MISSING_OR_INVALID_RAW_UID",
    TokenFailure.INVALID_IDENTITY_SCOPE: "MISMATCHING_IDENTITY_SCOPE",
    TokenFailure.NOT_AUTHORIZED_FOR_KEY: "NOT_AUTHORIZED_FOR_SITE_KEY",
}


@with_shared_options
def encrypt_uids(  # noqa: PLR0913 - an option each
    source: RowsArgument = None,
    target: RowsOutArgument = None,
    *,
    raw_uids: Annotated[
        list[str] | None,
        typer.Option(
            "--uid",
            metavar="RAW_UID",
            help="A raw UID instead of a file; - reads lines of stdin. Repeatable.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column",
            metavar="NAME",
            help="The column with the raw UIDs; UID by default.",
        ),
    ] = None,
    keyset_id: Annotated[
        int | None,
        typer.Option(
            "--keyset-id",
            metavar="ID",
            help="Whose members may read the tokens; the default keyset if left out.",
        ),
    ] = None,
    identity_type: Annotated[
        IdentityType | None,
        typer.Option(
            "--type",
            help="What the raw UIDs were made from; by default they tell it, and those "
            "of 32 bytes, which do not, count as an e-mail's.",
        ),
    ] = None,
    force: ForceOption = False,
    text: TextOptions,
    keys_file: KeysFileOption = None,
    sandbox: SandboxOption = False,
    scope: ScopeOption = IdentityScope.UID2,
) -> None:
    """Encrypt raw UIDs into tokens for sharing, on this machine.

    Every row and column of IN is kept, in order; UID_TOKEN and ENCRYPTION_STATUS are
    appended. With --uid they are printed as JSON, a line each.

    ENCRYPTION_STATUS is empty (null) for an encrypted raw UID, else
    MISSING_OR_INVALID_RAW_UID, MISMATCHING_IDENTITY_SCOPE,
    NOT_AUTHORIZED_FOR_MASTER_KEY or NOT_AUTHORIZED_FOR_SITE_KEY. Exits with 3 if a raw
    UID is not encrypted.
    """

    def prepare() -> Work:
        ring = run_async(
            load_keys(KeysKind.SHARING, scope, sandbox=sandbox, file=keys_file)
        )
        return _sealer(ring, identity_type, keyset_id)

    RowJob(
        option="--uid",
        values=raw_uids or (),
        source=source,
        target=target,
        options=FileFormatOptions(**text.settings()),
        force=force,
        columns=(column,),
        shape=Shape(wanted={"--column": column or "UID"}, added=_ADDED),
        result="a token",
    ).run(prepare)


def _sealer(
    ring: KeyRing, identity_type: IdentityType | None, keyset_id: int | None
) -> Work:
    """Make what seals some raw UIDs at once."""
    from uid2_async.sharing import SharingClient  # noqa: PLC0415 - --help need not wait

    client = SharingClient(ring)

    def seal_some(values: Sequence[Sequence[str]]) -> Iterable[Cells]:
        (raw_uids,) = values
        try:
            found = client.encrypt_many(
                raw_uids, identity_type=identity_type, keyset_id=keyset_id
            )
        except TokenError as error:
            # There is no key to seal with: none of them can be encrypted.
            return [_cells(error.reason)] * len(raw_uids)
        return map(_cells, found)

    return seal_some


def _cells(found: str | TokenFailure) -> Cells:
    """Turn an answer into the two columns."""
    if isinstance(found, TokenFailure):
        return (None, _STATUSES.get(found, found.name))
    return (found, None)
