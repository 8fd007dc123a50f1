"""Keys, key rings, and the client's half of key/sharing and key/bidstream.

docs/protocol.md 2.8 and 6.1 to 6.4. A blob is what a key seals: the IV, the ciphertext
and, with GCM, the tag (docs/protocol.md 5.1).
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
_PADDING = PKCS7(128)  # the block of AES, in bits


@attrs.frozen(kw_only=True)
class Key(Unpicklable):
    """A key that seals tokens (docs/protocol.md 6.3).

    Attributes:
        id: The number by which a token names it, int32.
        secret: 32 bytes.
        created: When it was made, in seconds since the Unix epoch.
        activates: When it starts sealing, in seconds.
        expires: When it stops sealing, in seconds; it opens tokens beyond that.
        keyset_id: Its keyset, or None if it was shared only for opening.
        site_id: The site that owns it, if known.
    """

    id: int
    secret: bytes = attrs.field(repr=False)
    created: int
    activates: int
    expires: int
    keyset_id: int | None = None
    site_id: int | None = None

    @cached_property
    def _gcm(self) -> AESGCM:
        """The GCM cipher: making one costs more than using it."""
        return AESGCM(self.secret)

    @cached_property
    def decrypt_gcm(self) -> Callable[[bytes, bytes, bytes | None], bytes]:
        """Opens a GCM ciphertext with its IV; bound once, for two calls in each token.

        Raises an InvalidTag of ``cryptography``, or a ValueError for a wrong length.
        """
        return self._gcm.decrypt

    @cached_property
    def _aes(self) -> AES:
        """The block cipher that CBC runs on."""
        return AES(self.secret)

    def is_active(self, now_ms: int) -> bool:
        """Return whether it seals at *now_ms* (docs/protocol.md 6.4)."""
        return self.activates <= now_ms // 1000 < self.expires

    def seal_gcm(self, iv: bytes, data: bytes) -> bytes:
        """Seal *data* into a GCM blob.

        Raises:
            ValueError: If *iv* has not 12 bytes: such a blob could not be opened.
        """
        if len(iv) != GCM_IV_SIZE:
            raise ValueError("A GCM IV has 12 bytes.")
        return iv + self._gcm.encrypt(iv, data, None)

    def open_gcm(self, data: bytes, start: int = 0) -> bytes | None:
        """Open the GCM blob that begins at *start*, or None if it is not authentic."""
        body = start + GCM_IV_SIZE
        try:
            return self.decrypt_gcm(data[start:body], data[body:], None)
        except (InvalidTag, ValueError):
            return None

    def seal_cbc(self, iv: bytes, data: bytes) -> bytes:
        """Seal *data* into a CBC blob, padded by PKCS#7.

        Raises:
            ValueError: If *iv* has not 16 bytes.
        """
        if len(iv) != CBC_IV_SIZE:
            raise ValueError("A CBC IV has 16 bytes.")
        padder = _PADDING.padder()
        cipher = Cipher(self._aes, CBC(iv)).encryptor()
        padded = padder.update(data) + padder.finalize()
        return iv + cipher.update(padded) + cipher.finalize()

    def open_cbc(self, data: bytes, start: int = 0) -> bytes | None:
        """Open the CBC blob that begins at *start*; None if its padding is wrong.

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
"""Finds a key by its id, as ``ring.key`` does, or ``get`` of a dict."""


def by_activation(keys: Iterable[Key]) -> tuple[Key, ...]:
    """Order the keys of one keyset as :func:`active_key` wants them.

    Of two keys that activate together, the one that came last counts as the newer.
    """
    return tuple(sorted(keys, key=attrgetter("activates")))


def active_key(keys: Sequence[Key], now_ms: int) -> Key | None:
    """Choose the key that seals at *now_ms*, or None (docs/protocol.md 6.4).

    It is the latest one that has activated, stepping back over expired ones.

    Args:
        keys: The keys of one keyset, in the order of :func:`by_activation`.
        now_ms: The time in ms.
    """
    for key in reversed(keys):
        if key.is_active(now_ms):
            return key
    return None


_DEFAULT_TOKEN_EXPIRY = 30 * 86_400
_DEFAULT_CLOCK_SKEW = 1_800
_Int32 = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
_Seconds = Annotated[int, Meta(ge=0, lt=10**11)]
_Digits = Annotated[str, Meta(pattern=r"^[0-9]{1,11}\Z")]
_Secret = Annotated[bytes, Meta(min_length=32, max_length=32)]


class WireKey(RedactedRepr, Unpicklable, frozen=True, kw_only=True, omit_defaults=True):
    """A key in a reply; times in seconds since the Unix epoch.

    Attributes:
        id: The number by which a token names it.
        created: When it was made.
        activates: When it starts sealing.
        expires: When it stops sealing.
        secret: 32 bytes, base64 on the wire.
        keyset_id: Only in key/sharing, and only where the caller may seal with it.
        site_id: Only in key/latest; -1 for master keys.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("id",)

    id: _Int32
    created: int
    activates: int
    expires: int
    secret: _Secret
    keyset_id: int | None = None
    site_id: int | None = None

    @classmethod
    def from_key(cls, key: Key) -> WireKey:
        """Return *key* in the form in which it is sent."""
        return cls(
            id=key.id,
            created=key.created,
            activates=key.activates,
            expires=key.expires,
            secret=key.secret,
            keyset_id=key.keyset_id,
            site_id=key.site_id,
        )

    def to_key(self) -> Key:
        """Turn it into a key that seals and opens."""
        return Key(
            id=self.id,
            secret=self.secret,
            created=self.created,
            activates=self.activates,
            expires=self.expires,
            keyset_id=self.keyset_id,
            site_id=self.site_id,
        )


class WireSite(msgspec.Struct, frozen=True):
    """A site and the names under which its client-side tokens may appear.

    Attributes:
        id: The site.
        domain_names: Domains, and app names where the operator provides them.
    """

    id: _Int32
    domain_names: tuple[str, ...] = ()


class KeysBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of key/sharing and of key/bidstream; what is None is left out.

    Attributes:
        caller_site_id: The site of the API key; only in key/sharing.
        master_keyset_id: The keyset of the master keys; only in key/sharing.
        default_keyset_id: The keyset that the caller seals with; only in key/sharing.
        token_expiry_seconds: How long a sharing token is valid, a string of digits
            on the wire; only in key/sharing.
        max_sharing_lifetime_seconds: The longest life of a token that is shared.
        max_bidstream_lifetime_seconds: The longest life of a token in the bidstream.
        identity_scope: UID2 or EUID.
        allow_clock_skew_seconds: How far in the future a token may be made.
        keys: The keys, by ascending id.
        site_data: The names of sites, where the operator generates client-side.
    """

    caller_site_id: _Int32 | None = None
    master_keyset_id: int | None = None
    default_keyset_id: int | None = None
    token_expiry_seconds: _Digits | _Seconds | None = None
    max_sharing_lifetime_seconds: int | None = None
    max_bidstream_lifetime_seconds: int | None = None
    identity_scope: IdentityScope | None = None
    allow_clock_skew_seconds: int | None = None
    keys: tuple[WireKey, ...]
    site_data: tuple[WireSite, ...] | None = None


class KeysReply(msgspec.Struct, frozen=True):
    """The opened reply of key/sharing and of key/bidstream.

    Attributes:
        body: The keys.
        status: ``success``, the only one that these endpoints have.
    """

    body: KeysBody
    status: Literal["success"] = "success"


def _group_by_keyset(ring: KeyRing) -> dict[int, tuple[Key, ...]]:
    """Sort the keys of each keyset once; the operator's order is not promised."""
    groups = defaultdict(list)
    for key in ring.keys.values():
        if key.keyset_id is not None:
            groups[key.keyset_id].append(key)
    return {keyset: by_activation(keys) for keyset, keys in groups.items()}


def _last_expiry_ms(ring: KeyRing) -> int:
    """Return when the last key expires, or the epoch if there is no key."""
    return max((key.expires for key in ring.keys.values()), default=0) * 1000


@attrs.frozen(kw_only=True, repr=False)
class KeyRing(Unpicklable):
    """The keys of one caller, as of one reply.

    It is a value: a newer reply makes a new ring. To use it in another process, save it
    to a private file with :class:`~uid2_async.keystore.KeyStore`.

    Attributes:
        keys: The keys by their id.
        identity_scope: UID2 or EUID.
        caller_site_id: The site of the API key; None from key/bidstream.
        master_keyset_id: The keyset of the master keys; None from key/bidstream.
        default_keyset_id: The keyset that tokens are made with, or None.
        token_expiry_seconds: How long a sharing token is valid.
        max_sharing_lifetime_seconds: The longest life of a shared token, or None.
        max_bidstream_lifetime_seconds: The longest life in the bidstream, or None.
        allow_clock_skew_seconds: How far in the future a token may be made.
        site_data: The lower-case names of sites, by site id (docs/protocol.md 6.3).
        valid_until_ms: When the last key expires, in ms.
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
        """Read the opened reply of key/sharing or key/bidstream.

        Raises:
            ProtocolError: If it is not of the documented shape; names only the path.
        """
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        return cls.from_body(wire.decode(data, KeysReply).body)

    @classmethod
    def from_body(cls, body: KeysBody) -> Self:
        """Make a ring of the body of a reply, with the documented defaults."""
        expiry = body.token_expiry_seconds
        skew = body.allow_clock_skew_seconds
        return cls(
            # Of two keys with the same id, the last one counts.
            keys={key.id: key.to_key() for key in body.keys},
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
        """Write the ring as the reply that :meth:`from_json` reads.

        It contains the secrets of all keys: protect it like the client secret.
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
            keys=tuple(WireKey.from_key(key) for key in self.keys.values()),
            site_data=tuple(
                WireSite(id=site, domain_names=tuple(sorted(names)))
                for site, names in self.site_data.items()
            ),
        )
        return wire.encode(KeysReply(body))

    def key(self, key_id: int) -> Key | None:
        """Find a key by the id that a token names, expired or not."""
        return self.keys.get(key_id)

    def active_key(self, keyset_id: int | None, now_ms: int) -> Key | None:
        """Choose the key of a keyset that seals at *now_ms* (docs/protocol.md 6.4).

        Args:
            keyset_id: The keyset; None, which a ring may have for its own, finds none.
            now_ms: The time in ms.
        """
        keys = () if keyset_id is None else self._keysets.get(keyset_id, ())
        return active_key(keys, now_ms)

    def has_valid_key(self, now_ms: int) -> bool:
        """Return whether any key expires after *now_ms*."""
        return now_ms < self.valid_until_ms

    def __repr__(self) -> str:
        """Show counts and numbers, never a secret."""
        return (
            f"<KeyRing {self.identity_scope} keys={len(self.keys)} "
            f"caller_site_id={self.caller_site_id}>"
        )


SHARING_PATH: Final = "/v2/key/sharing"
BIDSTREAM_PATH: Final = "/v2/key/bidstream"
LATEST_PATH: Final = "/v2/key/latest"

strip_tracebacks(globals())
