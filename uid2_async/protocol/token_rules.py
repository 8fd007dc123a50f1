"""Decrypts, checks and encrypts tokens with a key ring (docs/protocol.md 6.5 and 6.6).

The checks and their order are those of the official Java SDK. Unlike the Python SDK, it
checks the scope and the domain.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import ClassVar

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.errors import (
    InputError,
    KeysUnavailableError,
    TokenError,
    TokenFailure,
)
from uid2_async.models import IdentityScope, IdentityType, datetime_from_ms
from uid2_async.protocol import base64
from uid2_async.protocol.keyring import Key, KeyRing
from uid2_async.protocol.raw_uid import (
    RAW_UID_SIZES,
    TYPE_BYTES,
    TYPE_MASK,
    type_byte,
)
from uid2_async.protocol.token_codec import (
    CLIENT_SIDE_GENERATED,
    HEADER,
    MASTER,
    SITE,
    TYPE_FILL,
    V4_BYTE,
    open_layers,
    read_text,
)
from uid2_async.protocol.wire import FIRST_MS, LAST_MS

# The operator's fields of a sharing token: site, type (a service), version and key.
_OPERATOR = (0, 1, 0, 0)
_NO_VALID_KEY = "No key, or all keys have expired."


class ClientType(Enum):
    """The purpose of a decryption, which determines the lifetime and domain checks."""

    BIDSTREAM = "bidstream"
    SHARING = "sharing"


# Looking up an enum member takes 0.1 microseconds on Python 3.11.
_BIDSTREAM = ClientType.BIDSTREAM

# Called for each token, by functions that already strip tracebacks.
_read_text = unwrapped(read_text)
_open_layers = unwrapped(open_layers)
_seal_gcm = unwrapped(Key.seal_gcm)
_encode_url = unwrapped(base64.encode_url_text)
_decode = unwrapped(base64.decode)


class DecryptedToken(RedactedRepr, frozen=True, kw_only=True, gc=False):
    """A decrypted token.

    The times are stored in ms, and converted to datetimes on access.

    Attributes:
        raw_uid: The raw UID, 44 base64 characters.
        site_id: The site that generated the token or shared the raw UID.
        established_ms: When the identity was first generated, in ms since the Unix
            epoch.
        created_ms: When the token was created, in ms since the Unix epoch. None for v2.
        expires_ms: When it expires, in ms since the Unix epoch.
        identity_type: The type of the identity: email or phone. None for v2.
        scope: UID2 or EUID.
        version: 2, 3 or 4.
        client_side_generated: Whether a browser or app generated it.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = (
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
        """When the token was created. None for v2, which does not contain it."""
        return None if self.created_ms is None else datetime_from_ms(self.created_ms)

    @property
    def expires(self) -> datetime:
        """When the token expires."""
        return datetime_from_ms(self.expires_ms)


def try_decrypt(  # noqa: PLR0911 - one for each check, in their order
    text: str,
    ring: KeyRing,
    now_ms: int,
    client: ClientType,
    domain_or_app: str | None = None,
) -> DecryptedToken | TokenFailure:
    """Decrypt and check a token, without raising if it is invalid.

    Args:
        text: The token, of any version and in either alphabet.
        ring: The keys.
        now_ms: The time in ms since the Unix epoch.
        client: The purpose of the decryption.
        domain_or_app: The domain or app that the bid request comes from. It is checked
            only for tokens that were generated client-side, and only for the bidstream.

    Returns:
        The token, or why it was rejected.

    Raises:
        KeysUnavailableError: If all keys of *ring* have expired.
    """
    if now_ms >= ring.valid_until_ms:
        raise KeysUnavailableError(_NO_VALID_KEY)
    data = _read_text(text)
    if not isinstance(data, bytes):
        return data
    opened = _open_layers(data, ring.keys.get, ring.identity_scope)
    if not isinstance(opened, tuple):
        return opened
    version, _, identity_type, _, _, expires_ms, created_ms, _, raw_uid, site = opened
    site_id, _, _, privacy_bits, established_ms, _ = site
    client_side = privacy_bits & CLIENT_SIDE_GENERATED
    # v2 has no creation time, so its remaining lifetime is checked instead.
    start_ms = now_ms if created_ms is None else created_ms
    if expires_ms < now_ms:
        return TokenFailure.EXPIRED_TOKEN
    if not (
        FIRST_MS <= established_ms <= LAST_MS
        and FIRST_MS <= start_ms <= LAST_MS
        and expires_ms <= LAST_MS
    ):
        return TokenFailure.INVALID_PAYLOAD
    if client is _BIDSTREAM:
        longest = ring.max_bidstream_lifetime_seconds
        if client_side and not _comes_from_site(site_id, ring, domain_or_app):
            return TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
    else:
        longest = ring.max_sharing_lifetime_seconds
    # In whole seconds, rounded down.
    too_long = longest is not None and (expires_ms - start_ms) // 1000 > longest
    if too_long or (start_ms - now_ms) // 1000 > ring.allow_clock_skew_seconds:
        return TokenFailure.INVALID_TOKEN_LIFETIME
    return DecryptedToken(
        raw_uid=raw_uid,
        site_id=site_id,
        established_ms=established_ms,
        created_ms=created_ms,
        expires_ms=expires_ms,
        identity_type=identity_type,
        scope=ring.identity_scope,
        version=version,
        client_side_generated=client_side != 0,
    )


def _comes_from_site(site_id: int, ring: KeyRing, domain_or_app: object) -> bool:
    """Return whether the domain or app belongs to the site, ignoring case."""
    # The value may come from a bid request or file. Anything but a str is no match.
    if not isinstance(domain_or_app, str):
        return False
    return domain_or_app.lower() in ring.site_data.get(site_id, ())


class SharingSealer:
    """Creates the sharing tokens of one keyset at one time (docs/protocol.md 6.5).

    The keys and the fields that all tokens share are prepared once. All tokens are of
    version 4.
    """

    __slots__ = ("_master", "_master_fields", "_scope", "_site", "_site_fields")

    def __init__(
        self, ring: KeyRing, *, now_ms: int, keyset_id: int | None = None
    ) -> None:
        """Select the keys.

        Args:
            ring: The keys from key/sharing.
            now_ms: The time in ms since the Unix epoch.
            keyset_id: The keyset whose readers can decrypt the tokens. Defaults to the
                ring's default keyset.

        Raises:
            TokenError: If the ring has no key to encrypt with.
            KeysUnavailableError: If all keys of *ring* have expired.
        """
        if now_ms >= ring.valid_until_ms:
            raise KeysUnavailableError(_NO_VALID_KEY)
        keyset_id = ring.default_keyset_id if keyset_id is None else keyset_id
        master = ring.active_key(ring.master_keyset_id, now_ms)
        site = ring.active_key(keyset_id, now_ms)
        if master is None or ring.caller_site_id is None:
            raise TokenError(
                TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY,
                hint="Fetch the keys from key/sharing. Other keys cannot encrypt.",
            )
        if site is None:
            raise TokenError(
                TokenFailure.NOT_AUTHORIZED_FOR_KEY,
                hint="The keyset has no active key that this API key may encrypt with.",
            )
        expires_ms = now_ms + ring.token_expiry_seconds * 1000
        self._scope = ring.identity_scope
        self._master = master
        self._site = site
        self._master_fields = MASTER.pack(expires_ms, now_ms, *_OPERATOR, site.id)
        self._site_fields = SITE.pack(ring.caller_site_id, 0, 0, 0, now_ms, now_ms)

    def seal(
        self,
        raw_uid: object,
        *,
        master_iv: bytes,
        site_iv: bytes,
        identity_type: IdentityType | None = None,
    ) -> str:
        """Create one token.

        Args:
            raw_uid: The raw UID, 44 base64 characters. Anything else is rejected.
            master_iv: 12 random bytes.
            site_iv: 12 different random bytes.
            identity_type: The type of the identity. If None, it is read from the raw
                UID. A raw UID of 32 bytes does not contain it, and counts as one of an
                email.

        Raises:
            InputError: If *raw_uid* is malformed, or *identity_type* contradicts it.
            TokenError: If the raw UID belongs to the other scope.
        """
        data = _decode(raw_uid) if isinstance(raw_uid, str) else None
        if data is None or len(data) not in RAW_UID_SIZES:
            raise InputError("The raw UID is not 32 or 33 bytes in base64.")
        if len(data) == RAW_UID_SIZES[0]:
            kind = type_byte(self._scope, identity_type or IdentityType.EMAIL)
        else:
            kind = self._read_kind(data[0], identity_type)
        sealed = _seal_gcm(self._site, site_iv, self._site_fields + data)
        sealed = _seal_gcm(self._master, master_iv, self._master_fields + sealed)
        head = HEADER.pack(kind | TYPE_FILL, V4_BYTE, self._master.id)
        return _encode_url(head + sealed)

    def _read_kind(self, first: int, claimed: IdentityType | None) -> int:
        """Return the type byte of a raw UID of 33 bytes, after checking it."""
        scope, identity_type = TYPE_BYTES[first]
        if identity_type is None:
            raise InputError("The raw UID has an unknown identity type.")
        if scope is not self._scope:
            raise TokenError(TokenFailure.INVALID_IDENTITY_SCOPE)
        if claimed is not None and claimed is not identity_type:
            raise InputError("The raw UID contradicts identity_type.")
        return first & TYPE_MASK


strip_tracebacks(globals())
