"""A key of a keyset: when it holds, and what it seals and opens.

A blob is what a key seals: the IV, the ciphertext, and with GCM the tag
(docs/protocol.md 5.1). Whoever has a key has its ciphers made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import TypeAlias

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from uid2_async._traceback import strip_tracebacks
from uid2_async.secret import Unpicklable

__all__ = [
    "CBC_IV_SIZE",
    "GCM_IV_SIZE",
    "Key",
    "KeyLookup",
    "active_key",
    "by_activation",
]

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
        activates: From when on it seals, in seconds.
        expires: Until when it seals, in seconds; it opens tokens beyond that.
        keyset_id: Its keyset, or None where it was shared for opening alone.
        site_id: The site that owns it, where it is known.
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
    def _gcm_decrypt(self) -> Callable[[bytes, bytes, bytes | None], bytes]:
        """Its method, bound once: it is called twice for each token."""
        return self._gcm.decrypt

    @cached_property
    def _aes(self) -> AES:
        """The block cipher that CBC runs on."""
        return AES(self.secret)

    def is_active(self, now_ms: int) -> bool:
        """Tell whether it seals at *now_ms* (docs/protocol.md 6.4)."""
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
        """Open the GCM blob that begins at *start*; None where it is not authentic."""
        body = start + GCM_IV_SIZE
        try:
            return self._gcm_decrypt(data[start:body], data[body:], None)
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
        """Open the CBC blob that begins at *start*; None where its padding is wrong.

        CBC does not tell a forged blob: what comes out is to be judged by its content.
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


strip_tracebacks(globals())
