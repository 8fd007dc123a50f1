"""Encrypt and decrypt single tokens with a ring, a time and IVs of the test's own."""

from __future__ import annotations

from typing import Any

from uid2_async.errors import TokenError, TokenFailure
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.token_rules import (
    DecryptedToken,
    SharingSealer,
    try_decrypt,
)


def decrypt(text: str, ring: KeyRing, **options: Any) -> DecryptedToken:
    """Decrypt a token, or raise why it is rejected."""
    found = try_decrypt(text, ring, **options)
    if isinstance(found, TokenFailure):
        raise TokenError(found)
    return found


def encrypt(
    raw_uid: str,
    ring: KeyRing,
    *,
    now_ms: int,
    keyset_id: int | None = None,
    **options: Any,
) -> str:
    """Create a sharing token."""
    sealer = SharingSealer(ring, now_ms=now_ms, keyset_id=keyset_id)
    return sealer.seal(raw_uid, **options)
