"""An operator in memory that replies at once, as on a given day."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

from uid2_async import UID2Client
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import base64
from uid2_async.transport import Reply, Request

KEY = bytes(range(32))


class Day:
    """A transport that replies at once like the operator on a given day, and counts."""

    max_connections = 100

    def __init__(
        self, name: str, on_request: Callable[[], object] = lambda: None
    ) -> None:
        """Use the raw UIDs of the day *name*. Each request first calls *on_request*."""
        self.name = name
        self.asked = 0
        self._on_request = on_request

    async def send(self, request: Request) -> Reply:
        """Answer a request. In the second week, every fourth person has opted out."""
        self._on_request()
        opened = decrypt_request(request.body, KEY)
        asked: dict[str, list[str]] = msgspec.json.decode(opened.payload)
        body: dict[str, Any] = {"email": [], "phone": []}
        for kind, hashes in asked.items():
            self.asked += len(hashes)
            body[kind] = list(map(self._row, hashes))
        sealed = encrypt_reply(
            msgspec.json.encode({"body": body, "status": "success"}),
            key=KEY,
            now_ms=opened.sent_ms,
            nonce=opened.nonce,
            iv=bytes(12),
        )
        return Reply(status=200, headers={}, body=sealed)

    def _row(self, hashed: str) -> dict[str, Any]:
        digest = sha256(f"{self.name}{hashed}".encode()).digest()
        if self.name == "second" and digest[0] % 4 == 0:
            return {"e": "optout"}
        return {"u": base64.encode_text(digest), "p": None, "r": 1}

    async def aclose(self) -> None:
        """Do nothing."""

    def client(self) -> UID2Client:
        """Return a client that uses this operator."""
        return UID2Client(
            "https://operator.example",
            api_key="key",
            client_secret=base64.encode_text(KEY),
            transport=self,
        )
