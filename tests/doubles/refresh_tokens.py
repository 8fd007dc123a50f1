"""Refresh tokens of both versions. Operators of today create only v3."""

from __future__ import annotations

from base64 import b64encode
from struct import pack

from uid2_async.operator.minting import (
    RefreshToken,
    encrypt_refresh_token as seal_v3,
)
from uid2_async.protocol.keyring import Key

GRACE_MS = 60_000


def encrypt_refresh_token(token: RefreshToken, key: Key, *, iv: bytes) -> str:
    """Seal a token in the layout of its version; v2 takes 16 bytes of *iv*."""
    if token.version == 3:
        return seal_v3(token, key, iv=iv)
    expires = (token.expires_ms, token.expires_ms + GRACE_MS)
    header = pack(">Bqqqi", 2, token.created_ms, *expires, key.id)
    text = b64encode(token.first_level_hash)
    payload = (
        pack(">ii", token.site_id, len(text))
        + text
        + pack(">iq", token.privacy_bits, token.established_ms)
    )
    return b64encode(header + key.seal_cbc(iv, payload)).decode()
