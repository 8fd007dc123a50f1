"""No request at all makes the operator fail in a way that it does not foresee.

Structured garbage goes to every endpoint: shuffled fields, odd values, forged tokens
and envelopes, odd headers. The examples are the same in each run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64encode
from random import Random
from typing import Any

import aiohttp
import pytest

from refresh_tokens import encrypt_refresh_token
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator import (
    LocalOperator,
    OperatorData,
    dispatch,
)
from uid2_async.operator.http_messages import HttpReply, RefusedError
from uid2_async.operator.minting import (
    RefreshToken,
    wrap_refresh_token,
)
from uid2_async.protocol import client_side
from uid2_async.protocol.envelope import AesGcmEnvelope
from uid2_async.protocol.raw_uid import type_byte
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token

IV = b"0123456789ab"
NONCE = b"abcdefgh"
TEXTS = (
    *("", " ", "a@b.c", "optout@example.com", "+12345678901", "\ud83d", "\udc00@x.y"),
    *("A" * 43 + "=", "=" * 44, "ab" * 32, "\u0661" * 11, "x" * 5_000, "\U0001f600"),
    *("2026-01-01T00:00:00", "+999999999-12-31T23:59:59", "-0000-01-01T00:00", "BA"),
    *("COwAAAAAAwAAAAGABBENABCAAAAAAAAAAAAAAAAAAAAA", "null", "true", "\x00", "."),
)
FIELDS = (
    *("email", "email_hash", "phone", "phone_hash", "link_id", "token", "clientIp"),
    *("tcf_consent_string", "since_timestamp", "advertising_ids", "policy", "\ud800"),
)
OUTER = ("payload", "iv", "public_key", "timestamp", "subscription_id", "app_name")
KINDS = (
    *("text/plain", "application/octet-stream", "multipart/form-data; boundary=x"),
    *("application/x-www-form-urlencoded", "text/plain;charset=utf-16", 'x;y="', ""),
    *("text/plain;charset=nope", "multipart/form-data;boundary", "\udce9;\udcff"),
)


class Garbage:
    """Makes requests of a seed, for the world of an asker."""

    def __init__(self, asker: Any, seed: int) -> None:
        """Start with the *seed*."""
        self.asker = asker
        self.random = Random(seed)  # noqa: S311 - examples, no secrets

    def value(self, depth: int = 0) -> Any:
        """Make any JSON value."""
        kind = self.random.randrange(9 if depth < 3 else 6)
        if kind < 3:
            return self.random.choice(TEXTS)
        if kind == 3:
            return self.random.choice((0, -1, 5, 2**31, 2**63, 10**30, -(2**63)))
        if kind == 4:
            return self.random.choice((None, True, False))
        if kind == 5:
            return self.random.choice((0.0, 1.5, -1e300, 1e18))
        values = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return values if kind < 8 else dict(zip(TEXTS, values, strict=False))

    def fields(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Make a JSON object of some of these names."""
        chosen = self.random.sample(names, self.random.randrange(5))
        found = {name: self.value() for name in chosen}
        for name in found:
            if self.random.random() < 0.4:
                found[name] = [self.random.choice(TEXTS) for _ in range(3)]
        if "token" in found:
            found["token"] = self.advertising_token()
        return found

    def flip(self, data: bytes) -> bytes:
        """Change, cut or lengthen bytes, or leave them as they are."""
        how = self.random.randrange(6)
        if how == 0 and data:
            at = self.random.randrange(len(data))
            return data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
        if how == 1:
            return data[: self.random.randrange(len(data) + 1)]
        return data + b"\xff" if how == 2 else data

    def number(self, bits: int) -> int:
        """Make a signed number of so many bits."""
        top = 1 << (bits - 1)
        return self.random.choice((0, 1, -1, top - 1, -top, self.random.randrange(top)))

    def advertising_token(self) -> str:
        """Forge an advertising token, with the operator's own keys."""
        keys = self.asker.data.keys
        kind = type_byte(self.asker.data.scope, IdentityType.PHONE)
        token = AdvertisingToken(
            version=self.random.choice((2, 3, 4)),
            scope=self.asker.data.scope,
            identity_type=IdentityType.PHONE,
            master_key_id=self.random.choice(keys).id,
            site_key_id=self.random.choice(keys).id,
            expires_ms=self.number(64),
            created_ms=self.number(64),
            site_id=self.number(32),
            privacy_bits=self.number(32),
            established_ms=self.number(64),
            refreshed_ms=self.number(64),
            raw_uid=b64encode(bytes((kind,)) + bytes(32)).decode(),
        )
        key_of = {key.id: key for key in keys}.get
        size = 16 if token.version == 2 else 12
        text = seal_token(token, key_of, master_iv=bytes(size), site_iv=bytes(size))
        return self.flip(text.encode()).decode("latin-1")

    def refresh_body(self) -> bytes:
        """Forge a refresh token, with the operator's own keys, in a wrapper or not."""
        key = self.random.choice(self.asker.data.keys)
        version = self.random.choice((2, 3))
        token = RefreshToken(
            version=version,
            scope=self.random.choice((*IdentityScope,)),
            identity_type=self.random.choice((*IdentityType,)),
            expires_ms=self.number(64) >> 1,
            created_ms=self.number(64),
            site_id=self.number(32),
            privacy_bits=self.number(32),
            established_ms=self.number(64),
            first_level_hash=bytes(
                self.random.choice((0, 2, 3, 31, 32, 33, 34, 35, 90))
            ),
        )
        text = encrypt_refresh_token(token, key, iv=IV + b"cdef"[: 4 * (version == 2)])
        if self.random.random() < 0.5:
            try:
                text = wrap_refresh_token(
                    text, bytes(32), key, scope=token.scope, iv=IV
                )
            except RefusedError:
                return self.forged_wrapper(key)
        return self.flip(text.encode())

    def forged_wrapper(self, key: Any) -> bytes:
        """Seal any JSON as a wrapper of the right length."""
        names = ("refresh_response_key", "refresh_token")
        text = json.dumps({name: self.value() for name in names})[:200]
        data = (text if self.random.random() < 0.8 else "[]").encode().ljust(258)
        head = bytes(1) + key.id.to_bytes(4)
        return b64encode(head + key.seal_gcm(IV, data))

    def sealed_body(self, *, binary: bool) -> bytes:
        """Seal a request, rightly or not quite."""
        text = self.flip(json.dumps(self.fields(FIELDS)).encode())
        depth = self.random.choice((0, 0, 0, 0, 1_000))
        text = b'{"email":%b%b}' % (b"[" * depth, b"]" * depth) if depth else text
        sealed = AesGcmEnvelope().seal(
            text,
            key=self.asker.secret("everything"),
            now_ms=self.asker.now_ms,
            nonce=NONCE,
            iv=IV,
        )
        sealed = sealed if self.random.random() < 0.9 else self.flip(sealed)
        return sealed if binary else b64encode(sealed)

    def client_side_body(self) -> bytes:
        """Make a request of a browser, of which some fields are wrong."""
        pair = self.asker.data.keypairs[0]
        private = self.asker.world.keypair(pair.subscription_id)[1]
        public = client_side.load_server_public_key(pair.public_key)
        cipher = client_side.shared_cipher(private, public)
        inner = self.flip(json.dumps(self.fields(FIELDS)).encode())
        payload = b64encode(cipher.encrypt(IV, inner, b"[5]")).decode()
        right = {
            "payload": payload,
            "iv": b64encode(IV).decode(),
            "public_key": pair.public_key[9:],
            "timestamp": 5,
            "subscription_id": pair.subscription_id,
        }
        wrong = self.fields(OUTER) if self.random.random() < 0.6 else {}
        return self.flip(json.dumps({**right, **wrong}).encode())

    def body(self, path: str, *, binary: bool) -> bytes:
        """Make a body for an endpoint, or one that was meant for another."""
        if self.random.random() < 0.1:
            return self.random.randbytes(self.random.randrange(500))
        if path.endswith("refresh"):
            return self.refresh_body()
        if path.endswith("client-generate"):
            return self.client_side_body()
        return self.sealed_body(binary=binary)

    def headers(self) -> dict[str, str]:
        """Make headers as aiohttp gives them."""
        headers = {
            "Content-Type": self.random.choice(KINDS[:2] * 10 + KINDS),
            "Origin": self.random.choice(
                ("http://localhost", "https://x\\@y", "\udc85", "url:ftp://a:-1", "[")
            ),
            "X-Amzn-Trace-Id": self.random.choice(("", "t", "\udce9")),
        }
        key = self.asker.data.credentials["everything"].api_key
        if self.random.random() < 0.95:
            end = self.random.choice(("", "", "", "\udce9", "\u00e9"))
            headers["Authorization"] = f"Bearer {key}{end}"
        return headers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("path", [*dispatch.PATHS, "/nowhere"])
async def test_every_answer_is_foreseen(
    asker: Any, path: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is one of those that are documented, and so is what the page shows."""
    garbage = Garbage(asker, seed)
    settings = {"client_side_token_generate_domain_name_check_enabled": seed % 2 == 0}
    asker.load(asker.data, **settings)
    for _ in range(60):
        headers = garbage.headers()
        binary = headers["Content-Type"] == "application/octet-stream"
        body = garbage.body(path, binary=binary)
        endpoint = dispatch.find("POST", path, asker.world.settings)
        if path == "/nowhere":
            continue
        assert not isinstance(endpoint, HttpReply)

        reply = asker.send(path, body, headers)

        assert reply.status in {200, 400, 401, 403, 500}
    assert not caplog.records


@pytest.mark.parametrize("seed", range(2))
async def test_over_http_as_well(
    base: Any, make_asker: Any, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With the console, which reads every call, and headers that go out again."""
    asker = make_asker(OperatorData.sample(base=base))
    garbage = Garbage(asker, seed)
    caplog.set_level(logging.WARNING)
    async with LocalOperator(asker.data, console=True) as operator:
        port = int(operator.url.rpartition(":")[2])
        for path in dispatch.PATHS:
            for _ in range(15):
                headers = garbage.headers()
                binary = headers["Content-Type"] == "application/octet-stream"
                await exchange(port, path, headers, garbage.body(path, binary=binary))
        count = len(operator.calls)
        assert count == 15 * len(dispatch.PATHS)
        statuses = {call.status for call in operator.calls}
        async with aiohttp.ClientSession(operator.url) as session:
            for what in ("updates/0", *(f"calls/{at + 1}" for at in range(count))):
                async with session.get(f"/_console/{what}") as shown:
                    assert shown.status == 200, what
    assert statuses <= {200, 400, 401, 403, 500}
    assert not caplog.records


async def exchange(port: int, path: str, headers: dict[str, str], body: bytes) -> None:
    """Send a request, and wait for its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode("utf-8", "surrogateescape") + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 ")
