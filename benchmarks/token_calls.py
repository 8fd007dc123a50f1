"""token/generate and token/refresh as several programs make them.

*bare POST* sends the same sealed bytes again and again, over kept connections, and
reads the reply: aiohttp and nothing else. *by hand* does what has to be done, with no
API and no checks: it hashes, seals, posts, opens and reads.
"""

from __future__ import annotations

import base64
import os
import ssl
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

import aiohttp
import attrs
import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from uid2_client import TokenGenerateInput, Uid2PublisherClient
from uid2_client.identity_tokens import IdentityTokens as SDKTokens

from benchmarks import by_hand
from benchmarks.canned import API_KEY, KEY, SECRET
from benchmarks.canned_tokens import REFRESH_KEY, tokens_reply
from uid2_async import IdentityTokens, SessionPool, UID2Client
from uid2_async.protocol.tokens import GENERATE_PATH, REFRESH_PATH, TokensBody

EMAIL = "user@example.com"
HELD_JSON = msgspec.json.encode(msgspec.json.decode(tokens_reply("A"))["body"])
HELD = IdentityTokens.from_json(HELD_JSON)
# Those of a call, so that the same bytes are sent.
HEADERS = {
    "Accept-Encoding": "identity",
    "Authorization": f"Bearer {API_KEY}",
    "Content-Type": "text/plain",
    "UID-Trace-Id": str(uuid.uuid4()),
    "User-Agent": "uid2-async-0.1.0",
    "X-UID2-Client-Version": "uid2-async-0.1.0",
}

Call = Callable[[], Awaitable[object]]


class _Reply(msgspec.Struct):
    body: TokensBody


_read_reply = msgspec.json.Decoder(_Reply).decode


def _sealed(nonce: bytes) -> bytes:
    """Make the body of a token/generate."""
    payload = msgspec.json.encode({"email_hash": by_hand.hash_email(EMAIL)})
    return base64.b64encode(by_hand.envelope(payload, KEY, nonce))


@attrs.define
class Callers:
    """What makes the calls, on one event loop.

    Attributes:
        url: The operator's base URL.
        client: Ours.
        session: aiohttp's.
    """

    url: str
    client: UID2Client
    session: aiohttp.ClientSession

    @classmethod
    def open(
        cls, url: str, context: ssl.SSLContext | None, *, connections: int = 100
    ) -> Callers:
        """Open both; to be called on the loop."""
        pool = SessionPool(url, ssl=context, max_connections=connections)
        connector = aiohttp.TCPConnector(limit=connections, ssl=context or True)
        return cls(
            url,
            UID2Client(url, api_key=API_KEY, client_secret=SECRET, transport=pool),
            aiohttp.ClientSession(connector=connector),
        )

    async def aclose(self) -> None:
        """Close both."""
        await self.client._transport.aclose()  # noqa: SLF001 - a pool of our own making
        await self.session.close()

    async def post(self, path: str, body: bytes) -> bytes:
        """Post *body* and read the reply."""
        async with self.session.post(
            self.url + path, data=body, headers=HEADERS
        ) as reply:
            return await reply.read()

    async def generate_by_hand(self) -> TokensBody:
        """Generate a token with no API and no checks."""
        reply = base64.b64decode(await self.post(GENERATE_PATH, _sealed(os.urandom(8))))
        opened = AESGCM(KEY).decrypt(reply[:12], reply[12:], None)
        return _read_reply(opened[16:]).body

    async def refresh_by_hand(self) -> TokensBody:
        """Refresh a token just so."""
        reply = base64.b64decode(
            await self.post(REFRESH_PATH, HELD.refresh_token.encode())
        )
        opened = AESGCM(REFRESH_KEY).decrypt(reply[:12], reply[12:], None)
        return _read_reply(opened).body

    def generate(self) -> dict[str, Call]:
        """List who makes a token/generate."""
        return {
            "bare POST": partial(self.post, GENERATE_PATH, _sealed(os.urandom(8))),
            "by hand": self.generate_by_hand,
            "uid2_async": partial(self.client.generate_token, EMAIL),
        }

    def refresh(self) -> dict[str, Call]:
        """List who makes a token/refresh."""
        return {
            "bare POST": partial(self.post, REFRESH_PATH, HELD.refresh_token.encode()),
            "by hand": self.refresh_by_hand,
            "uid2_async": partial(self.client.refresh_token, HELD),
        }


def official_generate(url: str) -> object:
    """Generate a token with the official SDK, which connects anew for each call."""
    client = Uid2PublisherClient(url, API_KEY, SECRET)
    return client.generate_token(TokenGenerateInput.from_email(EMAIL)).get_identity()


def official_refresh(url: str) -> object:
    """Refresh a token with the official SDK."""
    client = Uid2PublisherClient(url, API_KEY, SECRET)
    held = SDKTokens.from_json_string(HELD_JSON)
    return client.refresh_token(held).get_identity_json_string()
