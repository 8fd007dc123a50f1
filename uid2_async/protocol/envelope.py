"""The encrypted envelopes of requests and replies (docs/protocol.md 1.3 to 1.5).

Input and output are bytes. The caller handles base64, and passes time, nonce and IV as
arguments. All integers are big-endian.
"""

from __future__ import annotations

from hmac import compare_digest
from struct import Struct
from typing import ClassVar, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async._private import RedactedRepr, Secret, Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import EnvelopeError

IV_BYTES = 12
NONCE_BYTES = 8
KEY_BYTES = 32
TAG_BYTES = 16

# The first bytes of the plaintext in both directions: time in ms, then nonce.
HEAD = Struct(">q8s")


class OpenedReply(RedactedRepr, frozen=True):
    """The content of a decrypted reply.

    Attributes:
        payload: The JSON as bytes.
        server_ms: The operator's time when it replied, in ms since the Unix epoch. None
            in a reply to token/refresh, which contains neither time nor nonce.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("server_ms",)

    payload: bytes
    server_ms: int | None = None


class Envelope(Protocol):
    """The encryption of calls. Stateless, because each call passes its key.

    Implement this class to keep the client secret in a hardware module or a signing
    service.
    """

    def seal(
        self, payload: bytes, *, key: bytes, now_ms: int, nonce: bytes, iv: bytes
    ) -> bytes:
        """Encrypt a request *payload* for one attempt.

        Args:
            payload: The request's JSON. May be empty.
            key: The client secret, 32 bytes.
            now_ms: The time of this attempt, in ms since the Unix epoch.
            nonce: 8 bytes, which the reply must repeat.
            iv: 12 bytes, never used twice with the same key.

        Returns:
            The envelope as raw bytes.
        """
        ...

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> OpenedReply:
        """Decrypt a reply *body*.

        Args:
            body: The raw bytes, after base64 decoding.
            key: The client secret or the refresh_response_key, 32 bytes.
            nonce: The nonce of the request. None for a reply to token/refresh, which
                contains neither time nor nonce.

        Raises:
            EnvelopeError: If the reply is not valid. All faults have the same message.
        """
        ...


class AesGcmEnvelope(Unpicklable):
    """The envelope of every UID2 and EUID operator: AES-256-GCM without AAD."""

    # The last key that encrypted. It is almost always the client secret, and
    # preparing the cipher takes longer than encrypting a request of usual length.
    _prepared: Secret[tuple[bytes, AESGCM]] | None = None

    def seal(
        self, payload: bytes, *, key: bytes, now_ms: int, nonce: bytes, iv: bytes
    ) -> bytes:
        """Encrypt a request. See :class:`Envelope` (docs/protocol.md 1.3)."""
        cipher = self._prepared_for(key)
        if cipher is None:
            cipher = AESGCM(key)
            self._prepared = Secret((key, cipher))
        head = HEAD.pack(now_ms, nonce)
        return b"\x01" + iv + cipher.encrypt(iv, head + payload, None)

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> OpenedReply:
        """Decrypt a reply. See :class:`Envelope` (docs/protocol.md 1.5 and 2.2)."""
        inner = gcm_open(body, self._prepared_for(key) or AESGCM(key))
        if inner is None:
            raise EnvelopeError
        if nonce is None:
            return OpenedReply(inner)
        if len(inner) < HEAD.size:
            raise EnvelopeError
        server_ms, found = HEAD.unpack_from(inner)
        if not compare_digest(found, nonce):
            error = EnvelopeError()
            error.foreign_nonce = True
            raise error
        return OpenedReply(inner[HEAD.size :], server_ms)

    def _prepared_for(self, key: bytes) -> AESGCM | None:
        """Return the cipher of *key* if that is the last key that encrypted."""
        if self._prepared is None:
            return None
        known, cipher = self._prepared.reveal()
        # Compared by identity, so that the comparison leaks no timing of the secret.
        return cipher if known is key else None

    def __repr__(self) -> str:
        """Return only the class name."""
        return "AesGcmEnvelope()"


def gcm_seal(plaintext: bytes, cipher: AESGCM, iv: bytes) -> bytes:
    """Encrypt *plaintext* to IV, ciphertext and tag (docs/protocol.md 5.1)."""
    return iv + cipher.encrypt(iv, plaintext, None)


def gcm_open(blob: bytes | memoryview, cipher: AESGCM) -> bytes | None:
    """Decrypt IV, ciphertext and tag, or return None if they are not authentic."""
    if len(blob) < IV_BYTES + TAG_BYTES:
        return None
    # A view, because the data can be large.
    view = memoryview(blob)
    try:
        return cipher.decrypt(view[:IV_BYTES], view[IV_BYTES:], None)
    except InvalidTag:
        return None


strip_tracebacks(globals())
