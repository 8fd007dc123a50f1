"""The endpoints key/sharing, key/bidstream and key/latest (docs/protocol.md 2.8, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from uid2_async.operator.data import MASTER_KEYSET
from uid2_async.operator.http_messages import RefusedError, encode_success, text_error
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.protocol.keyring import Key, KeysBody, WireKey, WireSite

MASTER_KEYSET_ID: Final = 9_999_999
"""The master keyset's ID in replies, instead of -1: SDKs expect a positive ID."""

# Replies state longer lifetimes than configured, so that SDKs do not reject tokens
# because of a small clock difference.
_TOLERANCE_SECONDS = 10
_LAST_RESERVED_SITE = 2


def sharing_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/sharing."""
    client, runtime = call.client, index.runtime
    keys = _visible(index, call)
    default = index.keysets.default_keyset(client.site_id)
    longest = runtime.max_sharing_lifetime_seconds
    if longest is None:
        longest = runtime.sharing_token_expiry_seconds
    shares = "SHARER" in client.roles
    body = KeysBody(
        caller_site_id=client.site_id,
        master_keyset_id=MASTER_KEYSET_ID,
        default_keyset_id=None if default is None else default.keyset_id,
        token_expiry_seconds=str(runtime.sharing_token_expiry_seconds),
        max_sharing_lifetime_seconds=longest + _TOLERANCE_SECONDS if shares else None,
        identity_scope=index.scope,
        allow_clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=tuple(
            _wire_key(key, keyset_id=_sealing_keyset(index, key, client.site_id))
            for key in keys
        ),
        site_data=_sites(index, keys),
    )
    return encode_success(body)


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
    body = KeysBody(
        max_bidstream_lifetime_seconds=longest + _TOLERANCE_SECONDS,
        identity_scope=index.scope,
        allow_clock_skew_seconds=index.settings.allow_clock_skew_seconds,
        keys=tuple(map(_wire_key, keys)),
        site_data=_sites(index, keys),
    )
    return encode_success(body)


def latest_keys(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer key/latest, which reserved sites may not call."""
    site_id = call.client.site_id
    if site_id <= _LAST_RESERVED_SITE:
        message = f"Unexpected client site id {site_id}"
        raise RefusedError(401, "invalid_client", message)
    keys = index.keysets.visible_to(call.client)
    return encode_success(
        [_wire_key(key, site_id=index.keysets.keyset_of(key).site_id) for key in keys]
    )


def _visible(index: DataIndex, call: AuthorizedRequest) -> Sequence[Key]:
    """List the caller's keys, if the master keyset has an active key."""
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


def _sites(index: DataIndex, keys: Sequence[Key]) -> tuple[WireSite, ...] | None:
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
    return tuple(found)
