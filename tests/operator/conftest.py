"""A world to ask without any socket."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.models import IdentityScope
from uid2_async.operator import Fault, OperatorData, dispatch
from uid2_async.operator.http_messages import HttpReply, HttpRequest
from uid2_async.operator.indexes import DataIndex
from uid2_async.protocol.base64 import decode
from uid2_async.protocol.envelope import AesGcmEnvelope

BASE = datetime(2026, 3, 10, tzinfo=UTC)
BASE_MS = int(BASE.timestamp() * 1000)
NONCE = b"abcdefgh"
IV = b"0123456789ab"


class Asker:
    """Asks the endpoints of a world.

    Attributes:
        data: The operator's data.
        world: The world that answers.
        now_ms: The operator's clock, and the client's.
    """

    def __init__(self, data: OperatorData | None = None, **settings: Any) -> None:
        """Take the built-in world, or *data*, with some settings changed."""
        self.load(data or OperatorData.sample(base=BASE), **settings)
        self.now_ms = BASE_MS + 3_600_000

    def load(self, data: OperatorData, **settings: Any) -> None:
        """Take other *data*, with some settings changed."""
        self.data = attrs.evolve(data, settings=attrs.evolve(data.settings, **settings))
        self.world = DataIndex(self.data)

    def headers(self, who: str | None, *, binary: bool = False) -> dict[str, str]:
        """Make the headers of a request."""
        kind = "application/octet-stream" if binary else "text/plain"
        headers = {"Content-Type": kind}
        if who is not None:
            headers["Authorization"] = f"Bearer {self.data.credentials[who].api_key}"
        return headers

    def send(
        self,
        path: str,
        body: bytes,
        headers: dict[str, str],
        fault: Fault | None = None,
    ) -> HttpReply:
        """Send a request as it is."""
        endpoint = dispatch.find("POST", path, self.world.settings)
        assert not isinstance(endpoint, HttpReply)
        request = HttpRequest(method="POST", path=path, headers=headers, body=body)
        return dispatch.answer(
            self.world, endpoint, request, now_ms=self.now_ms, fault=fault or Fault()
        )

    def ask_raw(
        self,
        path: str,
        payload: Any = None,
        *,
        who: str = "everything",
        binary: bool = False,
        fault: Fault | None = None,
        **headers: str,
    ) -> HttpReply:
        """Seal *payload* and send it; None is an empty payload."""
        text = b"" if payload is None else json.dumps(payload).encode()
        body = AesGcmEnvelope().seal(
            text, key=self.secret(who), now_ms=self.now_ms, nonce=NONCE, iv=IV
        )
        return self.send(
            path,
            body if binary else b64encode(body),
            {**self.headers(who, binary=binary), **headers},
            fault,
        )

    def secret(self, who: str) -> bytes:
        """Give a client secret."""
        return decode(self.data.credentials[who].client_secret) or b""

    def ask(
        self, path: str, payload: Any = None, *, who: str = "everything"
    ) -> tuple[int, Any]:
        """Ask, and give the status and the opened JSON, or the text of a failure."""
        reply = self.ask_raw(path, payload, who=who)
        if reply.status != 200:
            return reply.status, _read_failure(reply)
        sealed = decode(reply.body) or b""
        opened = AesGcmEnvelope().open(sealed, key=self.secret(who), nonce=NONCE)
        return 200, json.loads(opened.payload)

    def refresh(
        self, token: str, response_key: str | None = None, *, who: str | None = None
    ) -> tuple[int, Any]:
        """Ask token/refresh, and give the status and the opened JSON."""
        reply = self.send("/v2/token/refresh", token.encode(), self.headers(who))
        if reply.status != 200:
            return reply.status, _read_failure(reply)
        if response_key is None:
            return 200, json.loads(reply.body)
        sealed = decode(reply.body) or b""
        cipher = AESGCM(decode(response_key) or b"")
        return 200, json.loads(cipher.decrypt(sealed[:12], sealed[12:], None))


def _read_failure(reply: HttpReply) -> Any:
    """Read the body of a reply that is no success."""
    if reply.content_type == "application/json":
        return json.loads(reply.body)
    return reply.body.decode()


@pytest.fixture
def make_asker() -> Callable[..., Asker]:
    """Make worlds to ask."""
    return Asker


@pytest.fixture
def asker(scope: IdentityScope) -> Asker:
    """Give the built-in world of each system."""
    return Asker(OperatorData.sample(scope=scope, base=BASE))


@pytest.fixture
def base() -> datetime:
    """Give the day on which these worlds begin."""
    return BASE
