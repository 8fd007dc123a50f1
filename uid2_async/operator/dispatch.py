"""From an HTTP request to its answer: API key, envelope, endpoint, envelope.

The order of the checks is that of docs/protocol.md 1.6; the size of the body is the
application's affair.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.operator import routes
from uid2_async.operator.api_keys import unauthorized
from uid2_async.operator.content_type import body_text, take_form
from uid2_async.operator.data import Client
from uid2_async.operator.endpoints.client_side import client_generate
from uid2_async.operator.endpoints.refresh import refresh
from uid2_async.operator.exchange import BINARY, JSON, TEXT, Reply, Request, refused
from uid2_async.operator.faults import Fault
from uid2_async.operator.routes import HEALTH_PATH
from uid2_async.operator.world import Question, World
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import seal_client_generate_reply
from uid2_async.protocol.envelope import (
    IV_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    gcm_seal,
    seal_reply,
)
from uid2_async.protocol.normalize import KINDS
from uid2_async.protocol.refusal import RefusedError, reply_error
from uid2_async.protocol.request_body import RequestBody, read_request_body
from uid2_async.protocol.tokens import REFRESH_PATH

__all__ = ["answer"]

_TRACE_HEADER = "X-Amzn-Trace-Id"
_NO_FAULT = Fault()
_AES_SIZES = (16, 24, 32)
_COUNTED_KEYS = (*KINDS, "advertising_ids")
# No others: what a caller names a key could be anything.
_SHOWN_KEYS = frozenset(_COUNTED_KEYS) | {
    "clientIp",
    "link_id",
    "optout_check",
    "policy",
    "since_timestamp",
    "tcf_consent_string",
    "token",
}


def answer(
    world: World,
    endpoint: routes.Endpoint,
    request: Request,
    *,
    now_ms: int,
    fault: Fault | None = None,
) -> Reply:
    """Answer *request*, which *endpoint* was found for.

    Args:
        world: The operator's data.
        endpoint: What :func:`uid2_async.operator.routes.find` returned.
        request: The request with its body.
        now_ms: The operator's clock.
        fault: What shall go wrong with the envelope of a 200.
    """
    sealer = _Sealer(world.random, fault or _NO_FAULT)
    if endpoint == HEALTH_PATH:
        return Reply(status=200, body=b"OK")
    try:
        body = take_form(request.content_type, request.body)
    except RefusedError as refusal:
        # Before the API key is looked at: not even the trace id is repeated.
        return refused(refusal)
    request = attrs.evolve(request, body=body)
    if isinstance(endpoint, routes.Sealed):
        reply = _answer_sealed(world, endpoint, request, now_ms, sealer)
    elif endpoint == REFRESH_PATH:
        reply = _answer_refresh(world, request, now_ms, sealer)
    else:
        return _answer_client_side(world, request, now_ms, sealer)
    trace = request.headers.get(_TRACE_HEADER)
    return attrs.evolve(reply, headers={_TRACE_HEADER: trace}) if trace else reply


@attrs.frozen
class _Sealer:
    """Seals replies, wrongly if told so."""

    random: Callable[[int], bytes]
    fault: Fault

    def seal(
        self, payload: bytes, client: Client, body: RequestBody, now: int
    ) -> bytes:
        """Seal a reply with time and nonce (docs/protocol.md 1.5)."""
        nonce = self.random(NONCE_BYTES) if self.fault.wrong_nonce else body.nonce
        return seal_reply(
            self.payload(payload),
            key=self.key(client.secret),
            now_ms=now,
            nonce=nonce,
            iv=self.random(IV_BYTES),
        )

    def payload(self, payload: bytes) -> bytes:
        """Choose what to seal."""
        return payload if self.fault.payload is None else self.fault.payload

    def key(self, key: bytes) -> bytes:
        """Choose the key to seal with."""
        return self.random(KEY_BYTES) if self.fault.wrong_key else key


def _answer_sealed(
    world: World,
    endpoint: routes.Sealed,
    request: Request,
    now_ms: int,
    sealer: _Sealer,
) -> Reply:
    """Answer a request to an endpoint behind an API key."""
    client = world.api_keys.authorize(request.header("Authorization"), endpoint.roles)
    if client is None:
        return refused(unauthorized())
    body = None
    try:
        body = read_request_body(
            body_text(request.content_type, request.body),
            binary=request.binary,
            key=client.secret,
            now_ms=now_ms,
            scope=world.scope,
        )
        question = Question(client=client, payload=body.payload, now_ms=now_ms)
        payload = endpoint.handle(world, question)
    except RefusedError as refusal:
        return _noted(refused(refusal), client, body)
    sealed = sealer.seal(payload, client, body, now_ms)
    return _noted(_sealed_reply(sealed, binary=body.binary), client, body)


def _noted(reply: Reply, client: Client, body: RequestBody | None) -> Reply:
    """Note who asked and about how many, for the log of calls."""
    fields = {} if body is None else body.payload or {}
    counted = [fields[key] for key in _COUNTED_KEYS if key in fields]
    return attrs.evolve(
        reply,
        client=client.name,
        keys=tuple(key for key in fields if key in _SHOWN_KEYS),
        items=sum(len(one) if isinstance(one, list) else 1 for one in counted),
    )


def _sealed_reply(sealed: bytes, *, binary: bool) -> Reply:
    """Answer with a sealed body, as bytes or as base64."""
    return Reply(
        status=200,
        content_type=BINARY if binary else TEXT,
        body=sealed if binary else base64.encode(sealed),
        sealed=True,
    )


def _answer_refresh(
    world: World, request: Request, now_ms: int, sealer: _Sealer
) -> Reply:
    """Answer token/refresh, for which an API key is optional."""
    client = world.api_keys.find(request.header("Authorization"))
    try:
        text = body_text(request.content_type, request.body)
        payload, key = refresh(
            world, text, authenticated=client is not None, now_ms=now_ms
        )
    except RefusedError as refusal:
        reply = refused(refusal)
    else:
        payload = sealer.payload(payload)
        if key is None:
            reply = Reply(status=200, content_type=JSON, body=payload)
        else:
            reply = _seal_refresh(payload, sealer.key(key), world, request)
    return attrs.evolve(reply, client=None if client is None else client.name, items=1)


def _seal_refresh(payload: bytes, key: bytes, world: World, request: Request) -> Reply:
    """Seal a reply to token/refresh with the key of the wrapper."""
    if len(key) not in _AES_SIZES:
        # Only a forged wrapper holds such a key.
        return refused(reply_error())
    sealed = gcm_seal(payload, AESGCM(key), world.random(IV_BYTES))
    return _sealed_reply(sealed, binary=request.binary)


def _answer_client_side(
    world: World, request: Request, now_ms: int, sealer: _Sealer
) -> Reply:
    """Answer token/client-generate, which knows no API key."""
    origin = request.header("Origin")
    try:
        payload, cipher = client_generate(
            world, request.body, origin=origin, now_ms=now_ms
        )
    except RefusedError as refusal:
        return attrs.evolve(refused(refusal), items=1)
    if sealer.fault.wrong_key:
        cipher = AESGCM(world.random(KEY_BYTES))
    body = seal_client_generate_reply(
        sealer.payload(payload), cipher, world.random(IV_BYTES)
    )
    return Reply(status=200, body=body, sealed=True, items=1)
