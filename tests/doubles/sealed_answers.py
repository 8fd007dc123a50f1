"""Replies encrypted like an operator's, for servers and transports that misbehave."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from canaries import ADVERTISING_TOKEN, KEY, REFRESH_TOKEN, REPLY_KEY, UID
from uid2_async import IdentityTokens
from uid2_async.operator.envelope import (
    DecryptedRequest,
    decrypt_request,
    encrypt_reply,
)
from uid2_async.protocol import base64


def now_ms() -> int:
    """Return the current time in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def held_tokens() -> IdentityTokens:
    """Create the tokens that a publisher has stored."""
    return IdentityTokens.from_dict(
        tokens_body() | {"refresh_token": "Held" + REFRESH_TOKEN[4:]}
    )


def tokens_body(**changes: Any) -> dict[str, Any]:
    """Return the body of a generate or refresh reply."""
    now = now_ms()
    return {
        "advertising_token": ADVERTISING_TOKEN,
        "refresh_token": REFRESH_TOKEN,
        "identity_expires": now + 3_600_000,
        "refresh_expires": now + 86_400_000,
        "refresh_from": now + 1_800_000,
        "refresh_response_key": base64.encode_text(REPLY_KEY),
    } | changes


def success(body: Any) -> bytes:
    """Return the JSON of a successful reply."""
    return msgspec.json.encode({"body": body, "status": "success"})


def right_answer(path: str, payload: bytes) -> bytes:
    """Return the JSON with which a healthy operator replies."""
    if path.endswith("/identity/map"):
        values: dict[str, list[str]] = msgspec.json.decode(payload)
        row = {"u": UID, "p": None, "r": 2_000_000_000}
        return success({key: [row] * len(texts) for key, texts in values.items()})
    if path == "/v2/token/refresh":
        return success(tokens_body(advertising_token="Fresh" + ADVERTISING_TOKEN))
    return success(tokens_body())


def open_body(path: str, body: bytes) -> DecryptedRequest | None:
    """Decrypt a request. Return None for token/refresh, which is not encrypted."""
    if path == "/v2/token/refresh":
        return None
    sealed = body if body[:1] == b"\x01" else base64.decode(body)
    return decrypt_request(sealed or b"", KEY)


def iv_of(body: bytes) -> bytes:
    """Return the IV of an encrypted request."""
    sealed = body if body[:1] == b"\x01" else base64.decode(body) or b""
    return sealed[1:13]


def seal(
    path: str,
    body: bytes,
    payload: bytes | None = None,
    *,
    key: bytes = KEY,
    nonce: bytes | None = None,
    off_ms: int = 0,
) -> bytes:
    """Encrypt *payload* as the reply to the request *body*.

    Args:
        path: The request's path.
        body: The request's body as sent.
        payload: The JSON. Defaults to the correct reply.
        key: The key to encrypt with.
        nonce: The nonce of the reply. Defaults to the request's nonce.
        off_ms: The offset of the operator's clock in ms.
    """
    opened = open_body(path, body)
    if payload is None:
        payload = right_answer(path, b"" if opened is None else opened.payload)
    iv = os.urandom(12)
    if opened is None:
        reply_key = REPLY_KEY if key == KEY else key
        return base64.encode(iv + AESGCM(reply_key).encrypt(iv, payload, None))
    sealed = encrypt_reply(
        payload, key=key, now_ms=now_ms() + off_ms, nonce=nonce or opened.nonce, iv=iv
    )
    return sealed if body[:1] == b"\x01" else base64.encode(sealed)
