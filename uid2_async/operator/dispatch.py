"""From an HTTP request to its answer: API key, envelope, endpoint, envelope.

The order of the checks is that of docs/protocol.md 1.6; the size of the body is the
application's affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.operator import routes
from uid2_async.operator.api_keys import unauthorized
from uid2_async.operator.data import Client
from uid2_async.operator.endpoints.client_side import client_generate
from uid2_async.operator.endpoints.refresh import refresh
from uid2_async.operator.exchange import BINARY, JSON, TEXT, Reply, Request, refused
from uid2_async.operator.faults import Fault
from uid2_async.operator.world import Question, World
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import (
    CLIENT_GENERATE_PATH,
    seal_client_generate_reply,
)
from uid2_async.protocol.envelope import (
    IV_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    gcm_seal,
    seal_reply,
)
from uid2_async.protocol.normalize import KINDS
from uid2_async.protocol.refusal import RefusedError
from uid2_async.protocol.request_body import RequestBody, read_request_body
from uid2_async.protocol.tokens import REFRESH_PATH

__all__ = ["answer"]

_CHARSET = re.compile(
    r";\s*charset\s*=\s*\"?(?P<name>[A-Za-z0-9._:+-]+)", re.IGNORECASE
)
_TRACE_HEADER = "X-Amzn-Trace-Id"
_NO_FAULT = Fault()
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
    if isinstance(endpoint, routes.Sealed):
        reply = _answer_sealed(world, endpoint, request, now_ms, sealer)
    elif endpoint == REFRESH_PATH:
        reply = _answer_refresh(world, request, now_ms, sealer)
    elif endpoint == CLIENT_GENERATE_PATH:
        return _answer_client_side(world, request, now_ms, sealer)
    else:
        return Reply(status=200, body=b"OK")
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
    header = request.headers.get("Authorization")
    client = world.api_keys.authorize(header, endpoint.roles)
    if client is None:
        return refused(unauthorized())
    body = None
    try:
        body = read_request_body(
            _body_text(request),
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


def _body_text(request: Request) -> bytes:
    """Take the body, decoded by the charset of its content type if it has one."""
    found = _CHARSET.search(request.headers.get("Content-Type", ""))
    if found is None or found["name"].lower() in {"utf-8", "utf8"}:
        return request.body
    try:
        return request.body.decode(found["name"], "replace").encode("utf-8", "replace")
    except LookupError:
        return request.body


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
    client = world.api_keys.find(request.headers.get("Authorization"))
    try:
        payload, key = refresh(
            world, _body_text(request), authenticated=client is not None, now_ms=now_ms
        )
    except RefusedError as refusal:
        reply = refused(refusal)
    else:
        payload = sealer.payload(payload)
        if key is None:
            reply = Reply(status=200, content_type=JSON, body=payload)
        else:
            cipher = AESGCM(sealer.key(key))
            sealed = gcm_seal(payload, cipher, world.random(IV_BYTES))
            reply = _sealed_reply(sealed, binary=request.binary)
    return attrs.evolve(reply, client=None if client is None else client.name, items=1)


def _answer_client_side(
    world: World, request: Request, now_ms: int, sealer: _Sealer
) -> Reply:
    """Answer token/client-generate, which knows no API key."""
    origin = request.headers.get("Origin")
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
