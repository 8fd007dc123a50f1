"""SharingClient: encrypts raw UIDs into tokens for chosen sites, and decrypts them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.clock import NS_PER_MS, Clock, ns_clock
from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.keystore import Keys, ring_of
from uid2_async.models import IdentityType
from uid2_async.protocol.keyring import GCM_IV_SIZE
from uid2_async.protocol.token_rules import (
    ClientType,
    DecryptedToken,
    SharingSealer,
    try_decrypt,
)

_SHARING = ClientType.SHARING
# Called for each token, by methods that already strip tracebacks.
_ring_of = unwrapped(ring_of)
_try_decrypt = unwrapped(try_decrypt)
_seal_one = unwrapped(SharingSealer.seal)


class SharingClient(Unpicklable):
    """Encrypts and decrypts the tokens that share raw UIDs (docs/protocol.md 6.5).

    It works locally with the keys of key/sharing, and is thread-safe.

    Example:
        >>> async with KeyStore(client.fetch_sharing_keys) as keys:
        ...     token = SharingClient(keys).encrypt(raw_uid)
    """

    def __init__(self, keys: Keys, *, clock: Clock | None = None) -> None:
        """Store the source of the keys.

        Args:
            keys: The keys of key/sharing.
            clock: Returns the current time as an aware datetime. Defaults to the system
                clock.
        """
        self._keys = keys
        self._now_ns = ns_clock(clock)

    def encrypt(
        self,
        raw_uid: str,
        *,
        identity_type: IdentityType | None = None,
        keyset_id: int | None = None,
    ) -> str:
        """Encrypt a raw UID into a token of version 4.

        Args:
            raw_uid: The raw UID, 44 base64 characters.
            identity_type: The type of the identity. If None, it is read from the raw
                UID. A raw UID of 32 bytes does not contain it, and counts as one of an
                email.
            keyset_id: The keyset whose readers can decrypt the token. Defaults to the
                site's default keyset.

        Raises:
            InputError: If *raw_uid* is malformed, or *identity_type* contradicts it.
            TokenError: If it belongs to the other scope, or this API key has no key to
                encrypt with.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        return _seal(self._sealer(keyset_id), raw_uid, identity_type)

    def encrypt_many(
        self,
        raw_uids: Iterable[str],
        *,
        identity_type: IdentityType | None = None,
        keyset_id: int | None = None,
    ) -> list[str | TokenFailure]:
        """Encrypt many raw UIDs into tokens. Arguments are as in :meth:`encrypt`.

        Returns:
            For each raw UID, a token or the reason why there is none. INVALID_PAYLOAD
            means that it is not a raw UID or contradicts *identity_type*, and
            INVALID_IDENTITY_SCOPE that it belongs to the other scope.

        Raises:
            InputError: If *raw_uids* is a str.
            TokenError: If this API key has no key to encrypt with.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        if isinstance(raw_uids, str):
            raise InputError("raw_uids must be a list, not a str.")
        sealer = self._sealer(keyset_id)
        return [_try_seal(sealer, raw_uid, identity_type) for raw_uid in raw_uids]

    def _sealer(self, keyset_id: int | None) -> SharingSealer:
        return SharingSealer(
            _ring_of(self._keys),
            now_ms=self._now_ns() // NS_PER_MS,
            keyset_id=keyset_id,
        )

    def decrypt(self, token: str) -> DecryptedToken:
        """Decrypt a token from any sharer.

        Args:
            token: The token, of version 2, 3 or 4.

        Raises:
            TokenError: If the token is rejected. The reason is an attribute.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        ring, now_ms = _ring_of(self._keys), self._now_ns() // NS_PER_MS
        found = _try_decrypt(token, ring, now_ms, _SHARING)
        if isinstance(found, DecryptedToken):
            return found
        raise TokenError(found)

    def decrypt_many(
        self, tokens: Iterable[str]
    ) -> list[DecryptedToken | TokenFailure]:
        """Decrypt many tokens, without raising if one is not valid.

        Returns:
            For each token, the decrypted token or the reason why it was rejected.

        Raises:
            InputError: If *tokens* is a str.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        if isinstance(tokens, str):
            raise InputError("tokens must be a list, not a str.")
        ring, now_ms = _ring_of(self._keys), self._now_ns() // NS_PER_MS
        return [_try_decrypt(token, ring, now_ms, _SHARING) for token in tokens]

    def __repr__(self) -> str:
        """Return the repr of the keys, which contains no secrets."""
        return f"<SharingClient {self._keys!r}>"


def _seal(
    sealer: SharingSealer, raw_uid: object, identity_type: IdentityType | None
) -> str:
    """Create a token with new random IVs."""
    ivs = os.urandom(2 * GCM_IV_SIZE)
    return _seal_one(
        sealer,
        raw_uid,
        master_iv=ivs[:GCM_IV_SIZE],
        site_iv=ivs[GCM_IV_SIZE:],
        identity_type=identity_type,
    )


def _try_seal(
    sealer: SharingSealer, raw_uid: object, identity_type: IdentityType | None
) -> str | TokenFailure:
    """Create a token, or return why that is not possible."""
    try:
        return _seal(sealer, raw_uid, identity_type)
    except InputError:
        return TokenFailure.INVALID_PAYLOAD
    except TokenError as error:
        return error.reason


strip_tracebacks(globals())
