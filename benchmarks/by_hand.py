"""The floor: what a job costs where it is written out, with no API and no checks.

Whoever would not use a library might write this, for lists of emails that are known to
be good and an operator that never fails.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TypeVar

import aiohttp
import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.models import MapRow

T = TypeVar("T")


class _Body(msgspec.Struct):
    email_hash: list[MapRow]


class _Reply(msgspec.Struct):
    body: _Body


_reply = msgspec.json.Decoder(_Reply)


def hash_email(email: str) -> str:
    """Normalize and hash an email address that is known to be good."""
    local, _, domain = email.lower().partition("@")
    local = local.replace(" ", "")
    domain = domain.rstrip()
    if domain == "gmail.com":
        local = local.partition("+")[0].replace(".", "")
    digest = sha256(f"{local}@{domain}".encode()).digest()
    return base64.b64encode(digest).decode()


def envelope(payload: bytes, key: bytes, nonce: bytes) -> bytes:
    """Seal a request of this moment."""
    iv = os.urandom(12)
    head = int(time.time() * 1000).to_bytes(8, "big") + nonce
    return b"\x01" + iv + AESGCM(key).encrypt(iv, head + payload, None)


def seal(hashes: list[str], key: bytes, nonce: bytes) -> bytes:
    """Make the request for a map of *hashes*."""
    return envelope(msgspec.json.encode({"email_hash": hashes}), key, nonce)


def read(sealed: bytes, key: bytes) -> list[MapRow]:
    """Read the reply."""
    opened = AESGCM(key).decrypt(sealed[:12], sealed[12:], None)
    return _reply.decode(opened[16:]).body.email_hash


async def map_rows(
    url: str,
    batches: Iterator[list[T]],
    *,
    email_of: Callable[[T], str],
    write: Callable[[list[T], list[MapRow]], None],
    api_key: str,
    key: bytes,
    in_flight: int = 20,
) -> None:
    """Map *batches* of rows, *in_flight* at once, and write them as they come."""
    headers = {
        "Authorization": f"Bearer {api_key}",
        "Content-Type": "application/octet-stream",
    }

    async def work() -> None:
        for batch in batches:
            hashes = [hash_email(email_of(row)) for row in batch]
            sealed = seal(hashes, key, os.urandom(8))
            async with session.post("/v3/identity/map", data=sealed) as reply:
                write(batch, read(await reply.read(), key))

    async with aiohttp.ClientSession(url, headers=headers) as session:
        await asyncio.gather(*(work() for _ in range(in_flight)))


async def map_all(
    url: str, batches: Iterator[list[str]], *, api_key: str, key: bytes, in_flight: int
) -> int:
    """Map *batches* of emails, *in_flight* at once, and count the answers."""
    rows = 0

    def count(_batch: list[str], found: list[MapRow]) -> None:
        nonlocal rows
        rows += len(found)

    await map_rows(
        url,
        batches,
        email_of=str,
        write=count,
        api_key=api_key,
        key=key,
        in_flight=in_flight,
    )
    return rows
