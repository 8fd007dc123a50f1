"""Turns an HTTP request into a reply: route, API key, envelope and endpoint.

The checks run in the order of docs/protocol.md 1.6. The application has already checked
the size of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.operator import endpoints, tokens
from uid2_async.operator.client_side import client_generate
from uid2_async.operator.data import Client, OperatorSettings
from uid2_async.operator.envelope import RequestBody, encrypt_reply, read_request_body
from uid2_async.operator.http_messages import (
    BINARY,
    JSON,
    NOT_FOUND,
    TEXT,
    HttpReply,
    HttpRequest,
    RefusedError,
    body_text,
    check_form,
    reply_error,
    reply_to_refusal,
)
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.operator.state import NO_FAULT, Fault
from uid2_async.operator.tokens import refresh
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import CLIENT_GENERATE_PATH
from uid2_async.protocol.envelope import IV_BYTES, KEY_BYTES, NONCE_BYTES, gcm_seal
from uid2_async.protocol.keyring import BIDSTREAM_PATH, LATEST_PATH, SHARING_PATH
from uid2_async.protocol.mapping import (
    BUCKETS_PATH,
    MAP_V2_PATH,
    MAP_V3_PATH,
    STATUS_PATH,
)
from uid2_async.protocol.normalize import KINDS
from uid2_async.protocol.tokens import (
    GENERATE_PATH,
    LOGOUT_PATH,
    REFRESH_PATH,
    VALIDATE_PATH,
)

_TRACE_HEADER = "X-Amzn-Trace-Id"
_AES_SIZES = (16, 24, 32)
_COUNTED_KEYS = (*KINDS, "advertising_ids")

# Only these: a key that the caller invents could contain anything.
_SHOWN_KEYS = frozenset(_COUNTED_KEYS) | {
    "clientIp",
    "link_id",
    "optout_check",
    "policy",
    "since_timestamp",
    "tcf_consent_string",
    "token",
}

_Handler: TypeAlias = Callable[[DataIndex, AuthorizedRequest], bytes]
"""Turns a decrypted request into the reply's JSON."""


def _answer_encrypted(
    handle: _Handler,
    roles: frozenset[str],
    index: DataIndex,
    request: HttpRequest,
    now_ms: int,
    fault: Fault,
) -> HttpReply:
    """Answer a request to an endpoint that requires an API key with one of *roles*."""
    client = index.api_keys.authorize(request.header("Authorization"), roles)
    if client is None:
        # The same for an unknown key, a disabled key and a missing role.
        return reply_to_refusal(RefusedError(401, "unauthorized", None))
    body = None
    try:
        body = read_request_body(
            body_text(request.content_type, request.body),
            binary=request.binary,
            key=client.secret,
            now_ms=now_ms,
            scope=index.scope,
        )
        call = AuthorizedRequest(client=client, payload=body.payload, now_ms=now_ms)
        payload = handle(index, call)
    except RefusedError as refusal:
        return _with_call_notes(reply_to_refusal(refusal), client, body)
    encrypted = encrypt_reply(
        payload if fault.payload is None else fault.payload,
        key=index.random(KEY_BYTES) if fault.wrong_key else client.secret,
        now_ms=now_ms,
        nonce=index.random(NONCE_BYTES) if fault.wrong_nonce else body.nonce,
        iv=index.random(IV_BYTES),
    )
    reply = _encrypted_reply(encrypted, binary=body.binary)
    return _with_call_notes(reply, client, body)


def _with_call_notes(
    reply: HttpReply, client: Client, body: RequestBody | None
) -> HttpReply:
    """Add the client and the number of identities to *reply*, for the call log."""
    fields = {} if body is None else body.payload or {}
    counted = [fields[key] for key in _COUNTED_KEYS if key in fields]
    return attrs.evolve(
        reply,
        client=client.name,
        keys=tuple(key for key in fields if key in _SHOWN_KEYS),
        items=sum(len(one) if isinstance(one, list) else 1 for one in counted),
    )


def _encrypted_reply(data: bytes, *, binary: bool) -> HttpReply:
    """Return a reply with an encrypted body, as raw bytes or base64."""
    return HttpReply(
        status=200,
        content_type=BINARY if binary else TEXT,
        body=data if binary else base64.encode(data),
        encrypted=True,
    )


def _answer_refresh(
    index: DataIndex, request: HttpRequest, now_ms: int, fault: Fault
) -> HttpReply:
    """Answer token/refresh, for which an API key is optional."""
    client = index.api_keys.find(request.header("Authorization"))
    try:
        text = body_text(request.content_type, request.body)
        payload, key = refresh(
            index, text, authenticated=client is not None, now_ms=now_ms
        )
        reply = _refresh_reply(index, request, payload, key, fault)
    except RefusedError as refusal:
        reply = reply_to_refusal(refusal)
    return attrs.evolve(reply, client=None if client is None else client.name, items=1)


def _refresh_reply(
    index: DataIndex,
    request: HttpRequest,
    payload: bytes,
    key: bytes | None,
    fault: Fault,
) -> HttpReply:
    """Encrypt a reply with the refresh response key, or send it in clear without."""
    payload = payload if fault.payload is None else fault.payload
    if key is None:
        return HttpReply(status=200, content_type=JSON, body=payload)
    if fault.wrong_key:
        key = index.random(KEY_BYTES)
    if len(key) not in _AES_SIZES:
        # Only a forged refresh token contains such a key.
        raise reply_error()
    encrypted = gcm_seal(payload, AESGCM(key), index.random(IV_BYTES))
    return _encrypted_reply(encrypted, binary=request.binary)


def _answer_client_side(
    index: DataIndex, request: HttpRequest, now_ms: int, fault: Fault
) -> HttpReply:
    """Answer token/client-generate, which uses no API key."""
    origin = request.header("Origin")
    try:
        payload, cipher = client_generate(
            index, request.body, origin=origin, now_ms=now_ms
        )
    except RefusedError as refusal:
        return attrs.evolve(reply_to_refusal(refusal), items=1)
    if fault.wrong_key:
        cipher = AESGCM(index.random(KEY_BYTES))
    payload = payload if fault.payload is None else fault.payload
    # As base64 text, with neither a time nor a nonce.
    body = base64.encode(gcm_seal(payload, cipher, index.random(IV_BYTES)))
    return HttpReply(status=200, body=body, encrypted=True, items=1)


HEALTH_PATH: Final = "/ops/healthcheck"


@attrs.frozen(kw_only=True)
class Route:
    """An endpoint.

    Attributes:
        answer: Turns a request into a reply.
        method: The HTTP method.
        roles: The accepted roles. The API key needs at least one of them.
        authenticates: Whether the operator looks at the API key, if there is one.
        setting: The name of the setting that enables the endpoint, or "".
    """

    answer: Callable[[DataIndex, HttpRequest, int, Fault], HttpReply]
    method: str = "POST"
    roles: frozenset[str] = frozenset()
    authenticates: bool = True
    setting: str = ""


def _encrypted(handle: _Handler, *roles: str, setting: str = "") -> Route:
    """Return an endpoint with an API key and with encrypted requests and replies."""
    accepted = frozenset(roles)
    answer = partial(_answer_encrypted, handle, accepted)
    return Route(answer=answer, roles=accepted, setting=setting)


_POST: Final = {
    GENERATE_PATH: _encrypted(tokens.generate, "GENERATOR"),
    VALIDATE_PATH: _encrypted(tokens.validate, "GENERATOR"),
    LOGOUT_PATH: _encrypted(tokens.opt_out, "OPTOUT"),
    BUCKETS_PATH: _encrypted(endpoints.buckets, "MAPPER"),
    MAP_V2_PATH: _encrypted(endpoints.map_v2, "MAPPER"),
    MAP_V3_PATH: _encrypted(endpoints.map_v3, "MAPPER"),
    STATUS_PATH: _encrypted(
        endpoints.opt_out_status,
        *("MAPPER", "SHARER", "ID_READER"),
        setting="optout_status_api_enabled",
    ),
    SHARING_PATH: _encrypted(endpoints.sharing_keys, "SHARER", "ID_READER"),
    BIDSTREAM_PATH: _encrypted(endpoints.bidstream_keys, "ID_READER"),
    LATEST_PATH: _encrypted(endpoints.latest_keys, "ID_READER"),
    REFRESH_PATH: Route(answer=_answer_refresh),
    CLIENT_GENERATE_PATH: Route(
        answer=_answer_client_side,
        authenticates=False,
        setting="client_side_token_generate",
    ),
}
_ENDPOINTS: Final = {
    **_POST,
    HEALTH_PATH: Route(
        answer=lambda *_: HttpReply(status=200, body=b"OK"),
        method="GET",
        authenticates=False,
    ),
}

PATHS: Final = tuple(_POST)
"""The paths of all POST endpoints."""


def find(method: str, path: str, settings: OperatorSettings) -> Route | HttpReply:
    """Find the endpoint of a normalized *path*, or return the 404 or 405 reply."""
    endpoint = _ENDPOINTS.get(path)
    if endpoint is None or not getattr(settings, endpoint.setting, True):
        return NOT_FOUND
    if method != endpoint.method:
        return HttpReply(status=405, headers={"Allow": endpoint.method})
    return endpoint


def answer(
    index: DataIndex,
    endpoint: Route,
    request: HttpRequest,
    *,
    now_ms: int,
    fault: Fault = NO_FAULT,
) -> HttpReply:
    """Answer *request* at *endpoint*. A *fault* is injected into a 200 reply."""
    try:
        if endpoint.method == "POST":
            body = check_form(request.content_type, request.body)
            request = attrs.evolve(request, body=body)
    except RefusedError as refusal:
        # The API key has not been checked yet, so not even the trace ID is returned.
        return reply_to_refusal(refusal)
    reply = endpoint.answer(index, request, now_ms, fault)
    trace = request.headers.get(_TRACE_HEADER) if endpoint.authenticates else None
    return attrs.evolve(reply, headers={_TRACE_HEADER: trace}) if trace else reply
