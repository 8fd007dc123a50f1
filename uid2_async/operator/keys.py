"""The operator's half of key/sharing, key/bidstream and key/latest.

See docs/protocol.md 2.8 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from uid2_async.models import IdentityScope
from uid2_async.operator.data import MASTER_KEYSET
from uid2_async.operator.http_messages import RefusedError, text_error
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.protocol import wire
from uid2_async.protocol.keyring import Key, KeysBody, KeysReply, WireKey, WireSite

MASTER_KEYSET_ID: Final = 9_999_999
"""The master keyset's ID in replies, instead of -1: SDKs expect a positive ID."""

# Replies state longer lifetimes than configured, so that SDKs do not reject tokens
# because of a small clock difference.
_TOLERANCE_SECONDS = 10


def build_sharing_reply(
    *,
    caller_site_id: int,
    default_keyset_id: int | None,
    token_expiry_seconds: int,
    max_lifetime_seconds: int | None,
    scope: IdentityScope,
    clock_skew_seconds: int,
    keys: Iterable[WireKey],
    sites: Iterable[WireSite] | None,
) -> bytes:
    """Build the reply to key/sharing (docs/protocol.md 6.1).

    Args:
        caller_site_id: The site of the API key.
        default_keyset_id: The keyset that the site encrypts with, or None if it has
            none.
        token_expiry_seconds: The lifetime of sharing tokens.
        max_lifetime_seconds: The configured limit, or None if the caller does not
            share.
        scope: UID2 or EUID.
        clock_skew_seconds: How far in the future a token's creation time may be.
        keys: The keys, in ascending order of their IDs.
        sites: The names of the keys' sites, or None if the operator does not generate
            tokens client-side.
    """
    body = KeysBody(
        caller_site_id=caller_site_id,
        master_keyset_id=MASTER_KEYSET_ID,
        default_keyset_id=default_keyset_id,
        token_expiry_seconds=str(token_expiry_seconds),
        max_sharing_lifetime_seconds=_tolerant(max_lifetime_seconds),
        identity_scope=scope,
        allow_clock_skew_seconds=clock_skew_seconds,
        keys=tuple(keys),
        site_data=None if sites is None else tuple(sites),
    )
    return wire.encode(KeysReply(body))


def build_bidstream_reply(
    *,
    max_lifetime_seconds: int,
    scope: IdentityScope,
    clock_skew_seconds: int,
    keys: Iterable[WireKey],
    sites: Iterable[WireSite] | None,
) -> bytes:
    """Build the reply to key/bidstream (docs/protocol.md 6.2).

    Args:
        max_lifetime_seconds: The configured limit.
        scope: UID2 or EUID.
        clock_skew_seconds: How far in the future a token's creation time may be.
        keys: The keys without keyset IDs, in ascending order of their IDs.
        sites: The same as in :func:`build_sharing_reply`.
    """
    body = KeysBody(
        max_bidstream_lifetime_seconds=_tolerant(max_lifetime_seconds),
        identity_scope=scope,
        allow_clock_skew_seconds=clock_skew_seconds,
        keys=tuple(keys),
        site_data=None if sites is None else tuple(sites),
    )
    return wire.encode(KeysReply(body))


def _tolerant(seconds: int | None) -> int | None:
    """Convert a configured lifetime to the longer one of the reply."""
    return None if seconds is None else seconds + _TOLERANCE_SECONDS


def build_latest_reply(keys: Iterable[WireKey]) -> bytes:
    """Build the reply to key/latest. Its keys have site IDs instead of keyset IDs."""
    return wire.encode({"body": tuple(keys), "status": "success"})


_LAST_RESERVED_SITE = 2


def sharing_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/sharing."""
    client, runtime = call.client, index.runtime
    keys = _visible(index, call)
    default = index.keysets.default_keyset(client.site_id)
    longest = None
    if "SHARER" in client.roles:
        longest = runtime.max_sharing_lifetime_seconds
        longest = runtime.sharing_token_expiry_seconds if longest is None else longest
    return build_sharing_reply(
        caller_site_id=client.site_id,
        default_keyset_id=None if default is None else default.keyset_id,
        token_expiry_seconds=runtime.sharing_token_expiry_seconds,
        max_lifetime_seconds=longest,
        scope=index.scope,
        clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=[
            _wire_key(key, keyset_id=_sealing_keyset(index, key, client.site_id))
            for key in keys
        ],
        sites=_sites(index, keys),
    )


def _sealing_keyset(index: DataIndex, key: Key, site_id: int) -> int | None:
    """Return the keyset ID of *key* if the site may encrypt with it, else None."""
    keyset = index.keysets.keyset_of(key)
    if keyset.keyset_id == MASTER_KEYSET:
        return MASTER_KEYSET_ID
    return keyset.keyset_id if keyset.site_id == site_id else None


def bidstream_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/bidstream."""
    keys = _visible(index, call)
    longest = index.runtime.max_bidstream_lifetime_seconds
    if longest is None:
        longest = index.runtime.identity_token_expires_after_seconds
    return build_bidstream_reply(
        max_lifetime_seconds=longest,
        scope=index.scope,
        clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=[_wire_key(key) for key in keys],
        sites=_sites(index, keys),
    )


def latest_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/latest, which reserved sites may not call."""
    site_id = call.client.site_id
    if site_id <= _LAST_RESERVED_SITE:
        message = f"Unexpected client site id {site_id}"
        raise RefusedError(401, "invalid_client", message)
    keys = index.keysets.visible_to(call.client)
    return build_latest_reply(
        _wire_key(key, site_id=index.keysets.keyset_of(key).site_id) for key in keys
    )


def _visible(index: DataIndex, call: AuthorizedRequest) -> Sequence[Key]:
    """List the caller's keys, if the master keyset has an active key.

    Raises:
        RefusedError: If it has none.
    """
    if index.keysets.master_key(call.now_ms) is None:
        raise text_error()
    return index.keysets.visible_to(call.client)


def _wire_key(
    key: Key, *, keyset_id: int | None = None, site_id: int | None = None
) -> WireKey:
    """Convert a key to its form in replies."""
    return WireKey(
        id=key.id,
        created=key.created,
        activates=key.activates,
        expires=key.expires,
        secret=key.secret,
        keyset_id=keyset_id,
        site_id=site_id,
    )


def _sites(index: DataIndex, keys: Sequence[Key]) -> list[WireSite] | None:
    """List the named sites that own *keys*, or return None if the setting is off."""
    if not index.settings.client_side_token_generate:
        return None
    with_apps = index.settings.key_sharing_endpoint_provide_app_names
    found = []
    for site_id in index.keysets.owners(keys):
        site = index.site(site_id)
        names = {*site.domain_names, *(site.app_names if with_apps else ())}
        if names:
            found.append(WireSite(id=site_id, domain_names=tuple(sorted(names))))
    return found
