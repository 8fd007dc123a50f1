"""Opens a recorded call: what was asked and what was answered, as readable text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.errors import EnvelopeError
from uid2_async.operator.client_side import (
    open_client_generate_request,
    parse_client_generate_request,
)
from uid2_async.operator.console.exchanges import Exchange
from uid2_async.operator.envelope import RequestEnvelopeError, open_request
from uid2_async.operator.http_messages import BINARY, RefusedError
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.java_json import JavaJsonError, decode_utf8, parse
from uid2_async.operator.minting import (
    WRAPPED_CHARS,
    RefreshToken,
    RefreshTokenError,
    open_refresh_token,
    unwrap_refresh_token,
)
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import (
    CLIENT_GENERATE_PATH,
    open_client_generate_reply,
)
from uid2_async.protocol.envelope import NONCE_BYTES, gcm_open
from uid2_async.protocol.token_codec import CLIENT_SIDE_GENERATED
from uid2_async.protocol.tokens import REFRESH_PATH
from uid2_async.protocol.wire import iso

__all__ = ["CHARS_SHOWN", "Part", "Reading", "read", "refresh_fields"]

CHARS_SHOWN: Final = 200_000
"""How much of a request or a reply is shown."""

_ENCODER: Final = json.JSONEncoder(indent=2, ensure_ascii=False)
_HEAD_BYTES: Final = 8 + NONCE_BYTES


@attrs.frozen
class Part:
    """A request or a reply.

    Attributes:
        how: How it travelled and what opened it; a sentence.
        text: What it says, JSON indented; may be empty, and ends somewhere beyond
            :data:`CHARS_SHOWN`.
        data: The JSON, or None where it is none.
    """

    how: str
    text: str = attrs.field(default="", repr=False)
    data: Any = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Reading:
    """A call, opened.

    Attributes:
        request: What was asked.
        reply: What was answered.
        sent_ms: The caller's clock in the envelope, or None.
        sealed_by: Whose client secret opened the envelope, or None.
        refresh_token: The refresh token that was sent, or None.
    """

    request: Part
    reply: Part
    sent_ms: int | None = None
    sealed_by: str | None = None
    refresh_token: RefreshToken | None = None


def read(exchange: Exchange, index: DataIndex) -> Reading:
    """Open *exchange* with what the operator knows; never fails."""
    path = exchange.call.path
    if exchange.call.method == "POST" and exchange.body:
        if path == REFRESH_PATH:
            return _read_refresh(exchange, index)
        if path == CLIENT_GENERATE_PATH:
            return _read_client_side(exchange, index)
        return _read_sealed(exchange, index)
    body = _plain(exchange.body, "Not sealed.") if exchange.body else Part("No body.")
    return Reading(request=body, reply=_read_reply(exchange, None))


# --- behind an API key ----------------------------------------------------------------


def _read_sealed(exchange: Exchange, index: DataIndex) -> Reading:
    """Open an envelope with the client secret that fits."""
    client = exchange.caller.client
    others = (one for one in index.clients if one is not client)
    secret = None if client is None else client.secret
    for one in (*([] if client is None else [client]), *others):
        for data in _decoded(exchange):
            try:
                opened = open_request(data, one.secret)
            except RequestEnvelopeError:
                continue
            how = f"Sealed with the client secret of {one.name}."
            return Reading(
                request=_plain(opened.payload, how, empty=f"{how} It is empty."),
                reply=_read_reply(exchange, secret, nonce=opened.nonce),
                sent_ms=opened.sent_ms,
                sealed_by=one.name,
            )
    how = "Not sealed, or not with a client secret of this sandbox."
    return Reading(
        request=_plain(exchange.body, how), reply=_read_reply(exchange, secret)
    )


def _decoded(exchange: Exchange) -> Iterator[bytes]:
    """Give what the envelope may be: the body as it is, or decoded."""
    if exchange.call.binary:
        yield exchange.body
    decoded = base64.decode(exchange.body)
    if decoded is not None:
        yield decoded


def _read_reply(
    exchange: Exchange, key: bytes | None, *, nonce: bytes | None = None
) -> Part:
    """Open a reply; without a *nonce*, one to token/refresh, which has no head."""
    fault = exchange.call.fault
    reply = exchange.reply
    if fault is not None and fault.drop:
        return Part("Nothing was sent: the connection was closed.")
    cut = ""
    if fault is not None and fault.cut_after is not None:
        cut = f" Only its first {fault.cut_after} bytes were sent."
    if not reply.sealed:
        return _plain(reply.body, f"Not sealed.{cut}", empty=f"No body.{cut}")
    data = reply.body if reply.content_type == BINARY else base64.decode(reply.body)
    inner = None if key is None else gcm_open(data or b"", AESGCM(key))
    if inner is None:
        return Part(f"Sealed with a key that does not open it.{cut}")
    if exchange.call.path == REFRESH_PATH:
        how = "Sealed with the refresh_response_key that came with the token."
        return _plain(inner, how + cut)
    how = f"Sealed with the client secret of {exchange.reply.client}."
    if nonce is not None and inner[8:_HEAD_BYTES] != nonce:
        how += " Its nonce is not the request's."
    return _plain(inner[_HEAD_BYTES:], how + cut)


# --- token/refresh --------------------------------------------------------------------


def _read_refresh(exchange: Exchange, index: DataIndex) -> Reading:
    """Open the refresh token that is the whole request."""
    text = decode_utf8(exchange.body)
    key = token = None
    try:
        if len(text) == WRAPPED_CHARS:
            text, key = unwrap_refresh_token(text, index.keysets.key)
        token = open_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        how = f"A refresh token that cannot be opened: {error.reason.value}."
        request = _plain(exchange.body, how)
    else:
        fields = {"refresh_token": refresh_fields(token)}
        how = "A refresh token, opened with the operator's own keys."
        request = _json(fields, how)
    reply = _read_reply(exchange, key)
    return Reading(request=request, reply=reply, refresh_token=token)


def refresh_fields(token: RefreshToken) -> dict[str, Any]:
    """List what a refresh token says."""
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


# --- token/client-generate ------------------------------------------------------------


def _read_client_side(exchange: Exchange, index: DataIndex) -> Reading:
    """Open the payload with the subscription's private key."""
    outer = _plain(exchange.body, "Not opened: its payload is no one's here.")
    try:
        request = parse_client_generate_request(exchange.body)
        found = index.keypair(request.subscription_id)
        if found is None:
            return Reading(request=outer, reply=_read_reply(exchange, None))
        fields, cipher = open_client_generate_request(request, found[1])
    except RefusedError:
        return Reading(request=outer, reply=_read_reply(exchange, None))
    how = f"Its payload is sealed for the subscription {found[0].subscription_id}."
    asked = _json({**(outer.data or {}), "payload": fields}, how)
    if not exchange.reply.sealed:
        return Reading(request=asked, reply=_read_reply(exchange, None))
    try:
        payload = open_client_generate_reply(exchange.reply.body, cipher)
    except EnvelopeError:
        return Reading(request=asked, reply=_read_reply(exchange, None))
    how = "Sealed with the key that page and operator have agreed on."
    return Reading(request=asked, reply=_plain(payload, how))


# --- text -----------------------------------------------------------------------------


def _plain(data: bytes, how: str, *, empty: str = "Empty.") -> Part:
    """Show *data* as JSON where it is some, else as text."""
    if not data:
        return Part(empty)
    try:
        return _json(parse(data), how)
    except JavaJsonError:
        return Part(how, data.decode("utf-8", "replace"))


def _json(data: Any, how: str) -> Part:
    """Show JSON, indented, and no more of it than is shown."""
    pieces: list[str] = []
    size = 0
    # Indented, a small body that is deeply nested could fill the memory.
    for piece in _ENCODER.iterencode(data):
        pieces.append(piece)
        size += len(piece)
        if size > CHARS_SHOWN:
            break
    return Part(how, "".join(pieces), data)
