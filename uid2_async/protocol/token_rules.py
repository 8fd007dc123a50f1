"""How the holder of a key ring judges and makes tokens (docs/protocol.md 6.5 and 6.6).

Of the two official SDKs the rules follow the Java one, which checks the scope and the
domain, in the order of its checks.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import ClassVar

from uid2_async.errors import (
    InputError,
    KeysUnavailableError,
    TokenError,
    TokenFailure,
)
from uid2_async.models import IdentityScope, IdentityType, datetime_from_ms
from uid2_async.protocol import base64
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, TYPE_BYTES
from uid2_async.protocol.token_codec import (
    open_master,
    open_site,
    read_text,
    seal_token,
)
from uid2_async.protocol.token_layout import (
    CLIENT_SIDE_GENERATED,
    AdvertisingToken,
    MasterPayload,
    SitePayload,
)
from uid2_async.veiled import Veiled

__all__ = ["ClientType", "DecryptedToken", "decrypt", "encrypt", "try_decrypt"]

# The years 1 to 9999, which is what a datetime can hold.
_FIRST_MS = -62_135_596_800_000
_LAST_MS = 253_402_300_799_999


class ClientType(Enum):
    """For what a token is opened: it decides about the lifetime and the domain."""

    BIDSTREAM = "bidstream"
    SHARING = "sharing"


class DecryptedToken(Veiled, frozen=True, kw_only=True, gc=False):
    """What a token says to the holder of its keys.

    The instants exist in ms too, which costs nothing; a datetime is made when asked.

    Attributes:
        raw_uid: The raw UID, 44 characters of base64.
        site_id: The site that generated the token, or that shared the raw UID.
        established_ms: When the identity was first generated, in ms.
        created_ms: When the token was made, in ms; None for v2.
        expires_ms: Until when it holds, in ms.
        identity_type: What the raw UID was made from; None for v2.
        scope: UID2 or EUID.
        version: 2, 3 or 4.
        client_side_generated: Whether a browser or app generated it.
    """

    shown: ClassVar[tuple[str, ...]] = (
        "site_id",
        "established_ms",
        "created_ms",
        "expires_ms",
        "identity_type",
        "scope",
        "version",
        "client_side_generated",
    )

    raw_uid: str
    site_id: int
    established_ms: int
    created_ms: int | None
    expires_ms: int
    identity_type: IdentityType | None
    scope: IdentityScope
    version: int
    client_side_generated: bool

    @property
    def established(self) -> datetime:
        """When the identity was first generated."""
        return datetime_from_ms(self.established_ms)

    @property
    def created(self) -> datetime | None:
        """When the token was made; None for v2, which does not say."""
        return None if self.created_ms is None else datetime_from_ms(self.created_ms)

    @property
    def expires(self) -> datetime:
        """Until when the token holds."""
        return datetime_from_ms(self.expires_ms)


def decrypt(
    text: str,
    ring: KeyRing,
    *,
    now_ms: int,
    client: ClientType,
    domain_or_app: str | None = None,
) -> DecryptedToken:
    """Open a token and judge it; arguments as in :func:`try_decrypt`.

    Raises:
        TokenError: If it is refused; the reason says why.
        KeysUnavailableError: If all keys of *ring* have expired.
    """
    found = try_decrypt(
        text, ring, now_ms=now_ms, client=client, domain_or_app=domain_or_app
    )
    if not isinstance(found, DecryptedToken):
        raise TokenError(found)
    return found


def try_decrypt(
    text: str,
    ring: KeyRing,
    *,
    now_ms: int,
    client: ClientType,
    domain_or_app: str | None = None,
) -> DecryptedToken | TokenFailure:
    """Open a token and judge it, without an exception for a bad one.

    Args:
        text: The token, of any version and either alphabet.
        ring: The keys.
        now_ms: The time in ms.
        client: For what it is opened.
        domain_or_app: Where the bid request comes from. It is compared for tokens that
            were generated client-side and opened for the bidstream.

    Returns:
        The token, or why it is refused.

    Raises:
        KeysUnavailableError: If all keys of *ring* have expired.
    """
    _require_valid(ring, now_ms)
    data = read_text(text)
    if not isinstance(data, bytes):
        return data
    key_of = ring.keys.get
    master = open_master(data, key_of, scope=ring.identity_scope)
    if not isinstance(master, MasterPayload):
        return master
    site = open_site(master, key_of)
    if not isinstance(site, SitePayload):
        return site
    failure = _judge(master, site, ring, now_ms, client, domain_or_app)
    if failure is not None:
        return failure
    return DecryptedToken(
        raw_uid=site.raw_uid,
        site_id=site.site_id,
        established_ms=site.established_ms,
        created_ms=master.created_ms,
        expires_ms=master.expires_ms,
        identity_type=master.identity_type,
        scope=ring.identity_scope,
        version=master.version,
        client_side_generated=site.privacy_bits & CLIENT_SIDE_GENERATED != 0,
    )


def _require_valid(ring: KeyRing, now_ms: int) -> None:
    """Refuse a ring that has no key which expires after *now_ms*."""
    if not ring.has_valid_key(now_ms):
        raise KeysUnavailableError("No key, or all keys have expired.")


def _judge(
    master: MasterPayload,
    site: SitePayload,
    ring: KeyRing,
    now_ms: int,
    client: ClientType,
    domain_or_app: str | None,
) -> TokenFailure | None:
    """Find the first rule that an opened token breaks."""
    expires_ms = master.expires_ms
    # v2 has no creation time: what is judged is how long it will hold from now on.
    start_ms = now_ms if master.created_ms is None else master.created_ms
    if expires_ms < now_ms:
        return TokenFailure.EXPIRED_TOKEN
    if not (
        _FIRST_MS <= site.established_ms <= _LAST_MS
        and _FIRST_MS <= start_ms <= _LAST_MS
        and expires_ms <= _LAST_MS
    ):
        return TokenFailure.INVALID_PAYLOAD
    if client is ClientType.BIDSTREAM:
        longest = ring.max_bidstream_lifetime_seconds
        client_side = site.privacy_bits & CLIENT_SIDE_GENERATED
        if client_side and not _is_at_home(site.site_id, ring, domain_or_app):
            return TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
    else:
        longest = ring.max_sharing_lifetime_seconds
    # In whole seconds, rounded down.
    too_long = longest is not None and (expires_ms - start_ms) // 1000 > longest
    if too_long or (start_ms - now_ms) // 1000 > ring.allow_clock_skew_seconds:
        return TokenFailure.INVALID_TOKEN_LIFETIME
    return None


def _is_at_home(site_id: int, ring: KeyRing, domain_or_app: str | None) -> bool:
    """Tell whether the name is one of the site's, in any letter case."""
    if domain_or_app is None:
        return False
    return domain_or_app.lower() in ring.site_data.get(site_id, ())


def encrypt(
    raw_uid: str,
    ring: KeyRing,
    *,
    now_ms: int,
    master_iv: bytes,
    site_iv: bytes,
    keyset_id: int | None = None,
    identity_type: IdentityType | None = None,
) -> str:
    """Make a sharing token of version 4 (docs/protocol.md 6.5).

    Args:
        raw_uid: The raw UID, 44 characters of base64.
        ring: Keys from key/sharing.
        now_ms: The time in ms.
        master_iv: 12 random bytes.
        site_iv: 12 other random bytes.
        keyset_id: Whose members shall read it; the ring's default if None.
        identity_type: What the raw UID was made from. If None, it is read from the raw
            UID; one of 32 bytes does not tell, and counts as an e-mail's.

    Raises:
        InputError: If *raw_uid* is none, or *identity_type* contradicts it.
        TokenError: If the raw UID belongs to the other scope, or the ring has no key
            to seal with.
        KeysUnavailableError: If all keys of *ring* have expired.
    """
    _require_valid(ring, now_ms)
    inferred = _read_type(raw_uid, ring.identity_scope)
    keyset_id = ring.default_keyset_id if keyset_id is None else keyset_id
    master = ring.active_key(ring.master_keyset_id, now_ms)
    site = ring.active_key(keyset_id, now_ms)
    if master is None or ring.caller_site_id is None:
        raise TokenError(
            TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY,
            hint="Fetch the keys from key/sharing; others cannot encrypt.",
        )
    if site is None:
        raise TokenError(
            TokenFailure.NOT_AUTHORIZED_FOR_KEY,
            hint="The keyset has no active key that this API key may encrypt with.",
        )
    token = AdvertisingToken(
        version=4,
        scope=ring.identity_scope,
        identity_type=identity_type or inferred,
        master_key_id=master.id,
        site_key_id=site.id,
        expires_ms=now_ms + ring.token_expiry_seconds * 1000,
        created_ms=now_ms,
        site_id=ring.caller_site_id,
        established_ms=now_ms,
        refreshed_ms=now_ms,
        raw_uid=raw_uid,
    )
    return seal_token(token, ring.key, master_iv=master_iv, site_iv=site_iv)


def _read_type(raw_uid: object, scope: IdentityScope) -> IdentityType:
    """Read the identity type from a raw UID, which must be one of *scope*."""
    data = base64.decode(raw_uid) if isinstance(raw_uid, str) else None
    if data is None or len(data) not in RAW_UID_SIZES:
        raise InputError("The raw UID is not 32 or 33 bytes in base64.")
    if len(data) == RAW_UID_SIZES[0]:
        return IdentityType.EMAIL
    own_scope, identity_type = TYPE_BYTES[data[0]]
    if identity_type is None:
        raise InputError("The raw UID is of an unknown identity type.")
    if own_scope is not scope:
        raise TokenError(TokenFailure.INVALID_IDENTITY_SCOPE)
    return identity_type
