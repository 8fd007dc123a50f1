"""SharingClient: raw UIDs into tokens for those who may read them, and back."""

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

__all__ = ["SharingClient"]

_SHARING = ClientType.SHARING
# Called for each token, by methods that are wrapped themselves.
_ring_of = unwrapped(ring_of)
_try_decrypt = unwrapped(try_decrypt)
_seal_one = unwrapped(SharingSealer.seal)


class SharingClient(Unpicklable):
    """Makes and opens the tokens in which raw UIDs are shared (docs/protocol.md 6.5).

    It works locally, with the keys of key/sharing, and may be used by any thread.

    Example:
        >>> async with KeyStore(client.fetch_sharing_keys) as keys:
        ...     token = SharingClient(keys).encrypt(raw_uid)
    """

    def __init__(self, keys: Keys, *, clock: Clock | None = None) -> None:
        """Keep where the keys are.

        Args:
            keys: The keys of key/sharing.
            clock: Gives the time as an aware datetime; the system's by default.
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
        """Make a token of version 4 from a raw UID.

        Args:
            raw_uid: The raw UID, 44 characters of base64.
            identity_type: What it was made from. If None, the raw UID tells; one of 32
                bytes does not, and counts as an e-mail's.
            keyset_id: Whose members shall read the token; the default keyset if None.

        Raises:
            InputError: If *raw_uid* is none, or *identity_type* contradicts it.
            TokenError: If it belongs to the other scope, or there is no key to seal
                with that this API key may use.
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
        """Make tokens from many raw UIDs; arguments as in :meth:`encrypt`.

        Returns:
            For each raw UID a token, or why there is none, INVALID_PAYLOAD where it is
            no raw UID or contradicts *identity_type*, INVALID_IDENTITY_SCOPE where it
            belongs to the other scope.

        Raises:
            InputError: If *raw_uids* is a str.
            TokenError: If there is no key to seal with that this API key may use.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        if isinstance(raw_uids, str):
            raise InputError("raw_uids is a str; pass a list of them.")
        sealer = self._sealer(keyset_id)
        return [_try_seal(sealer, raw_uid, identity_type) for raw_uid in raw_uids]

    def _sealer(self, keyset_id: int | None) -> SharingSealer:
        """Choose the keys of this moment."""
        return SharingSealer(
            _ring_of(self._keys),
            now_ms=self._now_ns() // NS_PER_MS,
            keyset_id=keyset_id,
        )

    def decrypt(self, token: str) -> DecryptedToken:
        """Open a token, whoever shared it.

        Args:
            token: The token, of version 2, 3 or 4.

        Raises:
            TokenError: If it is refused; the reason says why.
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
        """Open many tokens, without an exception for a bad one.

        Returns:
            For each token what it says, or why it is refused.

        Raises:
            InputError: If *tokens* is a str.
            KeysUnavailableError: If there are no keys, or all have expired.
        """
        if isinstance(tokens, str):
            raise InputError("tokens is a str; pass a list of them.")
        ring, now_ms = _ring_of(self._keys), self._now_ns() // NS_PER_MS
        return [_try_decrypt(token, ring, now_ms, _SHARING) for token in tokens]

    def __repr__(self) -> str:
        """Show the keys' own repr, which shows no key."""
        return f"<SharingClient {self._keys!r}>"


def _seal(
    sealer: SharingSealer, raw_uid: object, identity_type: IdentityType | None
) -> str:
    """Make a token under IVs that nobody has used."""
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
    """Make a token, or say why not."""
    try:
        return _seal(sealer, raw_uid, identity_type)
    except InputError:
        return TokenFailure.INVALID_PAYLOAD
    except TokenError as error:
        return error.reason


strip_tracebacks(globals())
