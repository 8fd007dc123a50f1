"""Making identity tokens (docs/protocol.md 2.1 and 5)."""

from __future__ import annotations

import attrs

from uid2_async.models import IdentityType
from uid2_async.operator.world import World
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import IV_BYTES, KEY_BYTES
from uid2_async.protocol.key import Key
from uid2_async.protocol.refresh_token import (
    RefreshToken,
    seal_refresh_token,
    wrap_refresh_token,
)
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token
from uid2_async.protocol.tokens import TokensBody

__all__ = ["Subject", "UnwrappableError", "mint_tokens"]

SERVER_SIDE = 0b01
CLIENT_SIDE = 0b11


class UnwrappableError(Exception):
    """The first-level hash is of a size with which a refresh token is not wrapped."""


@attrs.frozen(kw_only=True)
class Subject:
    """For whom tokens are made.

    Attributes:
        flh: The first-level hash.
        identity_type: E-mail or phone.
        site_id: The publisher.
        privacy_bits: How the identity came about (docs/protocol.md 5.4).
        established_ms: When it was first generated, in ms.
    """

    flh: bytes = attrs.field(repr=False)
    identity_type: IdentityType
    site_id: int
    privacy_bits: int
    established_ms: int


def mint_tokens(world: World, subject: Subject, now_ms: int) -> TokensBody | None:
    """Make the tokens of *subject*, or return None where a key is missing.

    Raises:
        UnwrappableError: If its first-level hash, from a forged token, has not 32 to 34
            bytes.
    """
    site = world.keysets.site_key(subject.site_id, now_ms)
    master = world.keysets.master_key(now_ms)
    refresh = world.keysets.refresh_key(now_ms)
    if site is None or master is None or refresh is None:
        return None
    runtime = world.runtime
    expires_ms = now_ms + runtime.identity_token_expires_after_seconds * 1000
    refresh_expires = now_ms + runtime.refresh_token_expires_after_seconds * 1000
    response_key = world.random(KEY_BYTES)
    return TokensBody(
        advertising_token=_advertising_token(
            world, subject, (master, site), now_ms, expires_ms
        ),
        refresh_token=_refresh_token(
            world, subject, refresh, response_key, now_ms, refresh_expires
        ),
        identity_expires=expires_ms,
        refresh_expires=refresh_expires,
        refresh_from=now_ms + runtime.refresh_identity_token_after_seconds * 1000,
        refresh_response_key=base64.encode_text(response_key),
    )


def _advertising_token(
    world: World, subject: Subject, keys: tuple[Key, Key], now_ms: int, expires_ms: int
) -> str:
    """Make a v4 token; its raw UID is that of today's salts."""
    master, site = keys
    token = AdvertisingToken(
        version=4,
        scope=world.scope,
        identity_type=subject.identity_type,
        master_key_id=master.id,
        site_key_id=site.id,
        expires_ms=expires_ms,
        created_ms=now_ms,
        site_id=subject.site_id,
        privacy_bits=subject.privacy_bits,
        established_ms=subject.established_ms,
        refreshed_ms=now_ms,
        raw_uid=world.buckets.raw_uid(subject.flh, subject.identity_type, now_ms),
    )
    return seal_token(
        token,
        world.keysets.key,
        master_iv=world.random(IV_BYTES),
        site_iv=world.random(IV_BYTES),
    )


def _refresh_token(
    world: World,
    subject: Subject,
    key: Key,
    response_key: bytes,
    now_ms: int,
    expires_ms: int,
) -> str:
    """Make a v3 refresh token in its wrapper."""
    token = RefreshToken(
        scope=world.scope,
        identity_type=subject.identity_type,
        expires_ms=expires_ms,
        created_ms=now_ms,
        site_id=subject.site_id,
        privacy_bits=subject.privacy_bits,
        established_ms=subject.established_ms,
        first_level_hash=subject.flh,
    )
    inner = seal_refresh_token(token, key, iv=world.random(IV_BYTES))
    iv = world.random(IV_BYTES)
    try:
        return wrap_refresh_token(inner, response_key, key, scope=world.scope, iv=iv)
    except ValueError:
        pass
    raise UnwrappableError
