"""The last calls as they were sent, and their content after decryption."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from threading import Lock
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.errors import EnvelopeError
from uid2_async.operator.client_side import (
    decrypt_client_generate_request,
    parse_client_generate_request,
)
from uid2_async.operator.data import Client
from uid2_async.operator.envelope import RequestEnvelopeError, decrypt_request
from uid2_async.operator.http_messages import BINARY, HttpReply, RefusedError
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.java import JavaJsonError, decode_utf8, parse
from uid2_async.operator.minting import (
    RefreshToken,
    RefreshTokenError,
    decrypt_refresh_token,
)
from uid2_async.operator.state import RecordedCall
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import (
    CLIENT_GENERATE_PATH,
    open_client_generate_reply,
)
from uid2_async.protocol.envelope import NONCE_BYTES, gcm_open
from uid2_async.protocol.token_codec import CLIENT_SIDE_GENERATED
from uid2_async.protocol.tokens import REFRESH_PATH
from uid2_async.protocol.wire import iso

CALLS_KEPT: Final = 500
_BYTES_KEPT: Final = 32 * 1024 * 1024


class KeyCheck(Enum):
    """What was in the ``Authorization`` header."""

    MISSING = "no API key"
    MALFORMED = "not of the form 'Bearer KEY'"
    UNKNOWN = "an API key that this operator does not know"
    KNOWN = "a known API key"


def check_key(client: Client | None, authorization: str | None) -> KeyCheck:
    """Return what was in an ``Authorization`` header, whose key *client* owns."""
    header = (authorization or "").strip()
    if client is not None:
        return KeyCheck.KNOWN
    if not header:
        return KeyCheck.MISSING
    is_bearer = header.lower().startswith("bearer ")
    return KeyCheck.UNKNOWN if is_bearer else KeyCheck.MALFORMED


@attrs.frozen(kw_only=True)
class Exchange:
    """A request and its reply, before a fault truncated or dropped it.

    *at_ms* is the operator's time. *client* owns the API key, even if it is disabled
    or lacks the role. The key itself is not stored.
    """

    number: int = 0
    at_ms: int
    took_ms: float
    call: RecordedCall
    key_check: KeyCheck
    client: Client | None = None
    body: bytes = attrs.field(repr=False)
    reply: HttpReply = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """The length of both bodies in bytes."""
        return len(self.body) + len(self.reply.body)


class ExchangeLog:
    """The last exchanges. The oldest are dropped if they are too many or too large."""

    def __init__(
        self, *, calls_kept: int = CALLS_KEPT, bytes_kept: int = _BYTES_KEPT
    ) -> None:
        """Store at most so many exchanges, with bodies of so many bytes in total."""
        self._lock = Lock()
        self._kept: deque[Exchange] = deque()
        self._calls_kept = calls_kept
        self._bytes_kept = bytes_kept
        self._bytes = 0
        self._last = 0

    def add(self, exchange: Exchange) -> None:
        """Number *exchange* and store it."""
        with self._lock:
            self._last += 1
            self._kept.append(attrs.evolve(exchange, number=self._last))
            self._bytes += exchange.size
            while len(self._kept) > self._calls_kept or (
                self._bytes > self._bytes_kept and len(self._kept) > 1
            ):
                self._bytes -= self._kept.popleft().size

    def after(self, number: int) -> list[Exchange]:
        """List the exchanges after *number*, oldest first."""
        with self._lock:
            return [one for one in self._kept if one.number > number]

    @property
    def first(self) -> int:
        """The number of the oldest stored exchange, or of the next one."""
        with self._lock:
            return self._kept[0].number if self._kept else self._last + 1

    def find(self, number: int) -> Exchange | None:
        """Return an exchange, or None if it is no longer stored."""
        with self._lock:
            return next((one for one in self._kept if one.number == number), None)

    def clear(self) -> None:
        """Remove all exchanges."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


CHARS_SHOWN: Final = 200_000
"""How much of a request or a reply is shown."""

_ENCODER: Final = json.JSONEncoder(indent=2, ensure_ascii=False)
_HEAD_BYTES: Final = 8 + NONCE_BYTES


@attrs.frozen
class DecryptedBody:
    """A request or a reply: a sentence on how it was encrypted, and its content.

    *text* has indented JSON, and is cut somewhere after :data:`CHARS_SHOWN`. *data* is
    None if it is not JSON.
    """

    how: str
    text: str = attrs.field(default="", repr=False)
    data: Any = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class DecryptedCall:
    """A decrypted call.

    *sent_ms* is the caller's time in the envelope, and *encrypted_by* the client whose
    secret decrypted it.
    """

    request: DecryptedBody
    reply: DecryptedBody
    sent_ms: int | None = None
    encrypted_by: str | None = None
    refresh_token: RefreshToken | None = None


def decrypt_call(exchange: Exchange, index: DataIndex) -> DecryptedCall:
    """Decrypt *exchange* with the operator's keys. Never raises."""
    path = exchange.call.path
    if exchange.call.method == "POST" and exchange.body:
        if path == REFRESH_PATH:
            return _decrypt_refresh(exchange, index)
        if path == CLIENT_GENERATE_PATH:
            return _decrypt_client_side(exchange, index)
        return _decrypt_envelope(exchange, index)
    body = (
        _show_bytes(exchange.body, "Not encrypted.")
        if exchange.body
        else DecryptedBody("No body.")
    )
    return DecryptedCall(request=body, reply=_decrypt_reply(exchange, None))


def _decrypt_envelope(exchange: Exchange, index: DataIndex) -> DecryptedCall:
    """Decrypt an envelope, trying the client secrets of all API keys."""
    client = exchange.client
    others = (one for one in index.data.clients if one is not client)
    secret = None if client is None else client.secret
    for one in (*([] if client is None else [client]), *others):
        for data in _envelope_candidates(exchange):
            try:
                found = decrypt_request(data, one.secret)
            except RequestEnvelopeError:
                continue
            how = f"Encrypted with the client secret of {one.name}."
            return DecryptedCall(
                request=_show_bytes(found.payload, how, empty=f"{how} It is empty."),
                reply=_decrypt_reply(exchange, secret, nonce=found.nonce),
                sent_ms=found.sent_ms,
                encrypted_by=one.name,
            )
    how = "Not encrypted, or not with a client secret of this sandbox."
    return DecryptedCall(
        request=_show_bytes(exchange.body, how), reply=_decrypt_reply(exchange, secret)
    )


def _envelope_candidates(exchange: Exchange) -> Iterator[bytes]:
    """Yield the possible envelopes: the body as it is, and decoded."""
    if exchange.call.binary:
        yield exchange.body
    decoded = base64.decode(exchange.body)
    if decoded is not None:
        yield decoded


def _decrypt_reply(
    exchange: Exchange, key: bytes | None, *, nonce: bytes | None = None
) -> DecryptedBody:
    """Decrypt a reply. Replies to token/refresh have no time and no *nonce*."""
    fault = exchange.call.fault
    reply = exchange.reply
    if fault is not None and fault.drop:
        return DecryptedBody("Nothing was sent: the connection was closed.")
    cut = ""
    if fault is not None and fault.cut_after is not None:
        cut = f" Only its first {fault.cut_after} bytes were sent."
    if not reply.encrypted:
        return _show_bytes(reply.body, f"Not encrypted.{cut}", empty=f"No body.{cut}")
    data = reply.body if reply.content_type == BINARY else base64.decode(reply.body)
    inner = None if key is None else gcm_open(data or b"", AESGCM(key))
    if inner is None:
        return DecryptedBody(
            f"Encrypted with a key that this sandbox does not know.{cut}"
        )
    if exchange.call.path == REFRESH_PATH:
        how = "Encrypted with the refresh_response_key that came with the token."
        return _show_bytes(inner, how + cut)
    how = f"Encrypted with the client secret of {exchange.reply.client}."
    if nonce is not None and inner[8:_HEAD_BYTES] != nonce:
        how += " Its nonce is not the request's."
    return _show_bytes(inner[_HEAD_BYTES:], how + cut)


def _decrypt_refresh(exchange: Exchange, index: DataIndex) -> DecryptedCall:
    """Decrypt the refresh token, which is the whole request."""
    text = decode_utf8(exchange.body)
    key = token = None
    try:
        token, key = decrypt_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        how = f"A refresh token that cannot be decrypted: {error.reason.value}."
        request = _show_bytes(exchange.body, how)
    else:
        fields = {"refresh_token": describe_refresh_token(token)}
        how = "A refresh token, decrypted with the operator's own keys."
        request = _show_json(fields, how)
    reply = _decrypt_reply(exchange, key)
    return DecryptedCall(request=request, reply=reply, refresh_token=token)


def describe_refresh_token(token: RefreshToken) -> dict[str, Any]:
    """Return the fields of a refresh token."""
    return {
        "version": token.version,
        "scope": token.scope.value,
        "identity_type": token.identity_type.value,
        "site_id": token.site_id,
        "established": iso(token.established_ms),
        "created": iso(token.created_ms),
        "expires": iso(token.expires_ms),
        "client_side_generated": bool(token.privacy_bits & CLIENT_SIDE_GENERATED),
        "first_level_hash": base64.encode_text(token.first_level_hash),
    }


def _decrypt_client_side(exchange: Exchange, index: DataIndex) -> DecryptedCall:
    """Decrypt the payload with the subscription's private key."""
    outer = _show_bytes(
        exchange.body,
        "The payload is not encrypted for a subscription of this sandbox.",
    )
    closed = DecryptedCall(request=outer, reply=_decrypt_reply(exchange, None))
    try:
        request = parse_client_generate_request(exchange.body)
        found = index.keypair(request.subscription_id)
        if found is None:
            return closed
        fields, cipher = decrypt_client_generate_request(request, found[1])
    except RefusedError:
        return closed
    how = f"The payload is encrypted for the subscription {found[0].subscription_id}."
    asked = _show_json({**(outer.data or {}), "payload": fields}, how)
    reply = closed.reply
    if exchange.reply.encrypted:
        with suppress(EnvelopeError):
            payload = open_client_generate_reply(exchange.reply.body, cipher)
            how = "Encrypted with the key that the page and the operator agreed on."
            reply = _show_bytes(payload, how)
    return DecryptedCall(request=asked, reply=reply)


def _show_bytes(data: bytes, how: str, *, empty: str = "Empty.") -> DecryptedBody:
    """Show *data* as JSON if possible, else as text."""
    if not data:
        return DecryptedBody(empty)
    try:
        return _show_json(parse(data), how)
    except JavaJsonError:
        return DecryptedBody(how, data.decode("utf-8", "replace"))


def _show_json(data: Any, how: str) -> DecryptedBody:
    """Show indented JSON, truncated to what is shown."""
    pieces: list[str] = []
    size = 0
    # Indented, a small body that is deeply nested could fill the memory.
    for piece in _ENCODER.iterencode(data):
        pieces.append(piece)
        size += len(piece)
        if size > CHARS_SHOWN:
            break
    return DecryptedBody(how, "".join(pieces), data)
