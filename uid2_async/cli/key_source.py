"""Where a command gets its keys: from the operator, or from a file that it saved."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from uid2_async.errors import InputError

if TYPE_CHECKING:
    from uid2_async.keystore import KeyStore
    from uid2_async.models import IdentityScope
    from uid2_async.protocol.keyring import KeyRing

__all__ = [
    "KeysFileOption",
    "KeysKind",
    "KeysOption",
    "kind_of",
    "load_keys",
    "save_keys",
]


class KeysKind(StrEnum):
    """Which keys: those of sharers, or those of bidders."""

    SHARING = "sharing"
    BIDSTREAM = "bidstream"


KeysOption = Annotated[
    KeysKind | None,
    typer.Option(
        "--keys",
        help="Fetch these keys from the operator: of sharers, or of bidders.",
    ),
]
KeysFileOption = Annotated[
    str | None,
    typer.Option(
        "--keys-file",
        metavar="FILE",
        help="Use the keys that 'uid2 keys --save FILE' wrote; nothing is fetched.",
    ),
]


async def load_keys(
    kind: KeysKind, scope: IdentityScope, *, sandbox: bool, file: str | None
) -> KeyRing:
    """Fetch a key ring from the operator, or read it from *file*.

    Args:
        kind: Which keys to fetch; a file holds what it holds, see :func:`kind_of`.
        scope: Which operator to ask; a file tells its own scope.
        sandbox: Whether to ask an embedded operator.
        file: What ``uid2 keys --save`` wrote; None to ask the operator.

    Raises:
        InputError: If there is no such file, or *sandbox* is set beside it.
        ProtocolError: If the file holds no keys.
        UID2Error: What the call to the operator met.
    """
    if file is not None:
        if sandbox:
            raise InputError("Give either --keys-file or --sandbox.")
        return _read_keys(file)
    from uid2_async.cli.connection import connect  # noqa: PLC0415 - imports aiohttp

    async with connect(scope, sandbox=sandbox) as client:
        if kind is KeysKind.SHARING:
            return await client.fetch_sharing_keys()
        return await client.fetch_bidstream_keys()


def kind_of(ring: KeyRing) -> KeysKind:
    """Tell whose keys *ring* holds: a sharer's reply alone names the caller's site."""
    return KeysKind.BIDSTREAM if ring.caller_site_id is None else KeysKind.SHARING


async def save_keys(ring: KeyRing, file: str) -> None:
    """Write *ring* to a file that only its owner can read.

    Raises:
        KeysUnavailableError: If all of the keys have expired.
        OSError: If the file cannot be written.
    """
    store = _store(ring)
    await store.ensure_fresh(0)
    store.save(file)


def _read_keys(file: str) -> KeyRing:
    """Read what :func:`save_keys` wrote."""
    from uid2_async.protocol.keyring import KeyRing  # noqa: PLC0415 - loads the ciphers

    store = _store(KeyRing(keys={}))
    if not store.load(file):
        raise InputError(
            f"{file} cannot be read: there is no such file.",
            hint="Write it with 'uid2 keys --save FILE'.",
        )
    return store.ring


def _store(ring: KeyRing) -> KeyStore:
    """Make a store that gets *ring* when it asks; it knows the form of the file."""
    from uid2_async.keystore import KeyStore  # noqa: PLC0415 - loads the ciphers

    async def give() -> KeyRing:
        return ring

    return KeyStore(give)
