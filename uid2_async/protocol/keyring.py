"""Keys, key rings, and the client's half of the key endpoints.

The endpoints are key/sharing, key/bidstream and key/latest (docs/protocol.md 2.8 and
6.1 to 6.4). A blob is what a key encrypts: IV, ciphertext and, with GCM, tag
(docs/protocol.md 5.1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias

import attrs
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from msgspec import Meta

from uid2_async._private import RedactedRepr, Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.models import IdentityScope
from uid2_async.protocol import wire

GCM_IV_SIZE = 12
CBC_IV_SIZE = 16
_PADDING = PKCS7(128)  # the block size of AES in bits


_Int32 = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
_Secret = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Key(
    RedactedRepr,
    Unpicklable,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    dict=True,  # for cached properties
):
    """A key that encrypts tokens (docs/protocol.md 6.3), also as replies contain it.

    Attributes:
        id: The ID of the key in tokens, an int32.
        created: When it was created, in seconds since the Unix epoch.
        activates: When it starts to encrypt, in seconds since the Unix epoch.
        expires: When it stops encrypting, in seconds since the Unix epoch. It still
            decrypts tokens after that.
        secret: 32 bytes, sent as base64.
        keyset_id: Its keyset, or None if it was shared only for decryption.
        site_id: The site that owns it, or None if unknown. Only key/latest sends it,
            as -1 for master keys.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = (
        *("id", "created", "activates", "expires", "keyset_id", "site_id"),
    )

    id: _Int32
    created: int
    activates: int
    expires: int
    secret: _Secret
    keyset_id: int | None = None
    site_id: int | None = None

    @cached_property
    def _gcm(self) -> AESGCM:
        """The GCM cipher, cached because creating one costs more than using it."""
        return AESGCM(self.secret)

    @cached_property
    def decrypt_gcm(self) -> Callable[[bytes, bytes, bytes | None], bytes]:
        """Opens a GCM ciphertext with its IV; bound once, for two calls in each token.

        Raises an InvalidTag of ``cryptography``, or a ValueError for a wrong length.
        """
        return self._gcm.decrypt

    @cached_property
    def _aes(self) -> AES:
        """The block cipher for CBC."""
        return AES(self.secret)

    def is_active(self, now_ms: int) -> bool:
        """Return whether it encrypts at *now_ms* (docs/protocol.md 6.4)."""
        return self.activates <= now_ms // 1000 < self.expires

    def seal_gcm(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt *data* to a GCM blob.

        Raises:
            ValueError: If *iv* does not have 12 bytes, because the blob could not be
                decrypted.
        """
        if len(iv) != GCM_IV_SIZE:
            raise ValueError("A GCM IV must have 12 bytes.")
        return iv + self._gcm.encrypt(iv, data, None)

    def open_gcm(self, data: bytes, start: int = 0) -> bytes | None:
        """Decrypt the GCM blob at *start*, or return None if it is not authentic."""
        body = start + GCM_IV_SIZE
        try:
            return self.decrypt_gcm(data[start:body], data[body:], None)
        except (InvalidTag, ValueError):
            return None

    def seal_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Encrypt *data* to a CBC blob with PKCS#7 padding.

        Raises:
            ValueError: If *iv* does not have 16 bytes.
        """
        if len(iv) != CBC_IV_SIZE:
            raise ValueError("A CBC IV must have 16 bytes.")
        padder = _PADDING.padder()
        cipher = Cipher(self._aes, CBC(iv)).encryptor()
        padded = padder.update(data) + padder.finalize()
        return iv + cipher.update(padded) + cipher.finalize()

    def open_cbc(self, data: bytes, start: int = 0) -> bytes | None:
        """Decrypt the CBC blob at *start*, or return None if its padding is wrong.

        CBC does not detect a forged blob, so callers must check the plaintext.
        """
        body = start + CBC_IV_SIZE
        unpadder = _PADDING.unpadder()
        try:
            cipher = Cipher(self._aes, CBC(data[start:body])).decryptor()
            padded = cipher.update(data[body:]) + cipher.finalize()
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            return None


KeyLookup: TypeAlias = Callable[[int], Key | None]
"""Returns the key with a given ID, like ``ring.key`` or the ``get`` of a dict."""


def by_activation(keys: Iterable[Key]) -> tuple[Key, ...]:
    """Sort the keys of one keyset in the order that :func:`active_key` requires.

    Of two keys that activate at the same time, the later one in *keys* is the newer
    one.
    """
    return tuple(sorted(keys, key=attrgetter("activates")))


def active_key(keys: Sequence[Key], now_ms: int) -> Key | None:
    """Return the key that encrypts at *now_ms*, or None (docs/protocol.md 6.4).

    It is the key that was activated last, skipping expired keys. *keys* must be in the
    order of :func:`by_activation`.
    """
    for key in reversed(keys):
        if key.is_active(now_ms):
            return key
    return None


_DEFAULT_TOKEN_EXPIRY = 30 * 86_400
_DEFAULT_CLOCK_SKEW = 1_800
_Seconds = Annotated[int, Meta(ge=0, lt=10**11)]
_Digits = Annotated[str, Meta(pattern=r"^[0-9]{1,11}\Z")]


class WireSite(msgspec.Struct, frozen=True):
    """A site, and the domains and apps from which its client-side tokens may come."""

    id: _Int32
    domain_names: tuple[str, ...] = ()


class KeysBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of key/sharing and of key/bidstream. None is omitted from the JSON.

    The fields are those of :class:`KeyRing`. The token expiry is sent as digits.
    """

    caller_site_id: _Int32 | None = None
    master_keyset_id: int | None = None
    default_keyset_id: int | None = None
    token_expiry_seconds: _Digits | _Seconds | None = None
    max_sharing_lifetime_seconds: int | None = None
    max_bidstream_lifetime_seconds: int | None = None
    identity_scope: IdentityScope | None = None
    allow_clock_skew_seconds: int | None = None
    keys: tuple[Key, ...]
    site_data: tuple[WireSite, ...] | None = None


class KeysReply(msgspec.Struct, frozen=True):
    """The decrypted reply of key/sharing and of key/bidstream."""

    body: KeysBody
    status: Literal["success"] = "success"


def _group_by_keyset(ring: KeyRing) -> dict[int, tuple[Key, ...]]:
    """Sort the keys of each keyset, because the operator guarantees no order."""
    groups = defaultdict(list)
    for key in ring.keys.values():
        if key.keyset_id is not None:
            groups[key.keyset_id].append(key)
    return {keyset: by_activation(keys) for keyset, keys in groups.items()}


def _last_expiry_ms(ring: KeyRing) -> int:
    """Return when the last key expires in ms, or 0 if there is no key."""
    return max((key.expires for key in ring.keys.values()), default=0) * 1000


@attrs.frozen(kw_only=True, repr=False)
class KeyRing(Unpicklable):
    """The keys of one caller, as of one reply.

    It is immutable: a newer reply becomes a new ring. To use it in another process,
    save it to a private file with :class:`~uid2_async.keystore.KeyStore`.

    Attributes:
        keys: The keys by ID.
        identity_scope: UID2 or EUID.
        caller_site_id: The site of the API key. None from key/bidstream.
        master_keyset_id: The keyset of the master keys. None from key/bidstream.
        default_keyset_id: The keyset that the caller encrypts with, or None.
        token_expiry_seconds: The lifetime of a sharing token, in seconds.
        max_sharing_lifetime_seconds: The longest lifetime of a shared token in seconds,
            or None.
        max_bidstream_lifetime_seconds: The longest lifetime of a token in the bidstream
            in seconds, or None.
        allow_clock_skew_seconds: How far in the future a token's creation time may be,
            in seconds.
        site_data: The lowercase names of sites, by site ID (docs/protocol.md 6.3).
        valid_until_ms: When the last key expires, in ms since the Unix epoch.
    """

    keys: Mapping[int, Key]
    identity_scope: IdentityScope = IdentityScope.UID2
    caller_site_id: int | None = None
    master_keyset_id: int | None = None
    default_keyset_id: int | None = None
    token_expiry_seconds: int = _DEFAULT_TOKEN_EXPIRY
    max_sharing_lifetime_seconds: int | None = None
    max_bidstream_lifetime_seconds: int | None = None
    allow_clock_skew_seconds: int = _DEFAULT_CLOCK_SKEW
    site_data: Mapping[int, frozenset[str]] = attrs.field(factory=dict)

    _keysets: Mapping[int, tuple[Key, ...]] = attrs.field(
        init=False, eq=False, default=attrs.Factory(_group_by_keyset, takes_self=True)
    )
    valid_until_ms: int = attrs.field(
        init=False, eq=False, default=attrs.Factory(_last_expiry_ms, takes_self=True)
    )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse the decrypted reply of key/sharing or key/bidstream.

        Raises:
            ProtocolError: If it does not have the documented structure. The message
                contains only the JSON path.
        """
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        body = wire.decode(data, KeysReply).body
        expiry = body.token_expiry_seconds
        skew = body.allow_clock_skew_seconds
        return cls(
            # If two keys have the same ID, the last one counts.
            keys={key.id: key for key in body.keys},
            identity_scope=body.identity_scope or IdentityScope.UID2,
            caller_site_id=body.caller_site_id,
            master_keyset_id=body.master_keyset_id,
            default_keyset_id=body.default_keyset_id,
            token_expiry_seconds=_DEFAULT_TOKEN_EXPIRY
            if expiry is None
            else int(expiry),
            max_sharing_lifetime_seconds=body.max_sharing_lifetime_seconds,
            max_bidstream_lifetime_seconds=body.max_bidstream_lifetime_seconds,
            allow_clock_skew_seconds=_DEFAULT_CLOCK_SKEW if skew is None else skew,
            site_data={
                site.id: frozenset(name.lower() for name in site.domain_names)
                for site in body.site_data or ()
            },
        )

    def to_json(self) -> bytes:
        """Return the ring as a reply that :meth:`from_json` reads.

        It contains the secrets of all keys. Protect it like the client secret.
        """
        body = KeysBody(
            caller_site_id=self.caller_site_id,
            master_keyset_id=self.master_keyset_id,
            default_keyset_id=self.default_keyset_id,
            token_expiry_seconds=str(self.token_expiry_seconds),
            max_sharing_lifetime_seconds=self.max_sharing_lifetime_seconds,
            max_bidstream_lifetime_seconds=self.max_bidstream_lifetime_seconds,
            identity_scope=self.identity_scope,
            allow_clock_skew_seconds=self.allow_clock_skew_seconds,
            keys=tuple(self.keys.values()),
            site_data=tuple(
                WireSite(id=site, domain_names=tuple(sorted(names)))
                for site, names in self.site_data.items()
            ),
        )
        return wire.encode(KeysReply(body))

    def key(self, key_id: int) -> Key | None:
        """Return the key with the ID *key_id*, expired or not, or None."""
        return self.keys.get(key_id)

    def active_key(self, keyset_id: int | None, now_ms: int) -> Key | None:
        """Return the key of a keyset that encrypts at *now_ms* (docs/protocol.md 6.4).

        Without a keyset, there is none. A ring may have no default one.
        """
        keys = () if keyset_id is None else self._keysets.get(keyset_id, ())
        return active_key(keys, now_ms)

    def has_valid_key(self, now_ms: int) -> bool:
        """Return whether any key expires after *now_ms*."""
        return now_ms < self.valid_until_ms

    def __repr__(self) -> str:
        """Return counts and IDs, but no secrets."""
        return (
            f"<KeyRing {self.identity_scope} keys={len(self.keys)} "
            f"caller_site_id={self.caller_site_id}>"
        )


SHARING_PATH: Final = "/v2/key/sharing"
BIDSTREAM_PATH: Final = "/v2/key/bidstream"
LATEST_PATH: Final = "/v2/key/latest"

strip_tracebacks(globals())
