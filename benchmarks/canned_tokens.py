"""An operator in a process of its own that answers token calls without thinking.

It opens a token/generate for its nonce, and seals the same tokens again and again; to a
token/refresh it gives one sealed reply. It stands in where the embedded operator would
be the limit.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
from contextlib import AbstractContextManager

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.canned import KEY, Canned, run_canned
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import gcm_seal
from uid2_async.protocol.tokens import REFRESH_PATH, SEALED_REFRESH_CHARS

REFRESH_KEY = bytes(range(32, 64))
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "


def tokens_reply(letter: str) -> bytes:
    """Write the JSON of a reply as long as the operator's own."""
    now = int(time.time() * 1000)
    body = {
        "advertising_token": letter * 214,
        "refresh_token": letter * SEALED_REFRESH_CHARS,
        "identity_expires": now + 3_600_000,
        "refresh_expires": now + 86_400_000,
        "refresh_from": now + 1_800_000,
        "refresh_response_key": base64.encode_text(REFRESH_KEY),
    }
    return msgspec.json.encode({"body": body, "status": "success"})


class _Connection(asyncio.Protocol):
    """Answers the requests of one connection."""

    generated = tokens_reply("A")
    refreshed = base64.encode(
        gcm_seal(tokens_reply("B"), AESGCM(REFRESH_KEY), bytes(12))
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._waiting = b""

    def data_received(self, data: bytes) -> None:
        """Answer as soon as head and body are there."""
        self._waiting += data
        head, end, rest = self._waiting.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if len(rest) < int(length):
            return
        self._waiting = b""
        path = head.split(b" ", 2)[1].decode()
        body = self.refreshed if path.endswith(REFRESH_PATH) else self._generate(rest)
        self._transport.write(_HEAD + b"%d\r\n\r\n" % len(body) + body)

    def _generate(self, body: bytes) -> bytes:
        """Seal the tokens for the nonce of the request."""
        sealed = base64.decode(body)
        assert sealed is not None
        opened = decrypt_request(sealed, KEY)
        return base64.encode(
            encrypt_reply(
                self.generated,
                key=KEY,
                now_ms=opened.sent_ms,
                nonce=opened.nonce,
                iv=os.urandom(12),
            )
        )


def canned_token_operator(certificate: str = "") -> AbstractContextManager[Canned]:
    """Run one; over TLS where *certificate* is the path of a chain with its key."""
    scheme = "https" if certificate else "http"
    return run_canned("benchmarks.canned_tokens", certificate, scheme)


async def _main(certificate: str) -> None:
    """Serve until terminated."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(
        _Connection, "127.0.0.1", 0, ssl=context, backlog=2_000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
