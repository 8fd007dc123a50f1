"""key/sharing, key/bidstream and key/latest (docs/protocol.md 2.8 and 6)."""

from __future__ import annotations

from collections.abc import Sequence

from uid2_async.operator.data import MASTER_KEYSET
from uid2_async.operator.world import Question, World
from uid2_async.protocol.key import Key
from uid2_async.protocol.keyring import WireKey, WireSite
from uid2_async.protocol.keys import (
    MASTER_KEYSET_ID,
    build_bidstream_reply,
    build_latest_reply,
    build_sharing_reply,
)
from uid2_async.protocol.refusal import RefusedError, text_error

__all__ = ["bidstream_keys", "latest_keys", "sharing_keys"]

_LAST_RESERVED_SITE = 2


def sharing_keys(world: World, question: Question) -> bytes:
    """Answer key/sharing."""
    client, runtime = question.client, world.runtime
    keys = _visible(world, question)
    default = world.keysets.default_keyset(client.site_id)
    longest = None
    if "SHARER" in client.roles:
        longest = runtime.max_sharing_lifetime_seconds
        longest = runtime.sharing_token_expiry_seconds if longest is None else longest
    return build_sharing_reply(
        caller_site_id=client.site_id,
        default_keyset_id=None if default is None else default.keyset_id,
        token_expiry_seconds=runtime.sharing_token_expiry_seconds,
        max_lifetime_seconds=longest,
        scope=world.scope,
        clock_skew_seconds=world.settings.allow_clock_skew_seconds,
        keys=[
            _wire_key(key, keyset_id=_sealing_keyset(world, key, client.site_id))
            for key in keys
        ],
        sites=_sites(world, keys),
    )


def _sealing_keyset(world: World, key: Key, site_id: int) -> int | None:
    """Number the keyset of *key* for those who may seal with it, else None."""
    keyset = world.keysets.keyset_of(key)
    if keyset.keyset_id == MASTER_KEYSET:
        return MASTER_KEYSET_ID
    return keyset.keyset_id if keyset.site_id == site_id else None


def bidstream_keys(world: World, question: Question) -> bytes:
    """Answer key/bidstream."""
    keys = _visible(world, question)
    longest = world.runtime.max_bidstream_lifetime_seconds
    if longest is None:
        longest = world.runtime.identity_token_expires_after_seconds
    return build_bidstream_reply(
        max_lifetime_seconds=longest,
        scope=world.scope,
        clock_skew_seconds=world.settings.allow_clock_skew_seconds,
        keys=[_wire_key(key) for key in keys],
        sites=_sites(world, keys),
    )


def latest_keys(world: World, question: Question) -> bytes:
    """Answer key/latest, which reserved sites may not ask."""
    site_id = question.client.site_id
    if site_id <= _LAST_RESERVED_SITE:
        message = f"Unexpected client site id {site_id}"
        raise RefusedError(401, "invalid_client", message)
    keys = world.keysets.visible_to(question.client)
    return build_latest_reply(
        _wire_key(key, site_id=world.keysets.keyset_of(key).site_id) for key in keys
    )


def _visible(world: World, question: Question) -> Sequence[Key]:
    """List the caller's keys, provided that there is an active master key.

    Raises:
        RefusedError: If there is none.
    """
    if world.keysets.master_key(question.now_ms) is None:
        raise text_error()
    return world.keysets.visible_to(question.client)


def _wire_key(
    key: Key, *, keyset_id: int | None = None, site_id: int | None = None
) -> WireKey:
    """Write a key for the wire."""
    return WireKey(
        id=key.id,
        created=key.created,
        activates=key.activates,
        expires=key.expires,
        secret=key.secret,
        keyset_id=keyset_id,
        site_id=site_id,
    )


def _sites(world: World, keys: Sequence[Key]) -> list[WireSite] | None:
    """List the names of the sites that own *keys*; None where it is switched off."""
    if not world.settings.client_side_token_generate:
        return None
    with_apps = world.settings.key_sharing_endpoint_provide_app_names
    found = []
    for site_id in world.keysets.owners(keys):
        site = world.site(site_id)
        names = {*site.domain_names, *(site.app_names if with_apps else ())}
        if names:
            found.append(WireSite(id=site_id, domain_names=tuple(sorted(names))))
    return found
