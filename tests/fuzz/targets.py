"""What is fuzzed: everything that reads what others wrote.

Each target takes bytes. Only errors of this library may come out of it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uid2_async import BidstreamClient, SharingClient
from uid2_async.bulk.files import open_reader
from uid2_async.bulk.paths import FileFormatOptions, InputIdentity
from uid2_async.bulk.resume import Checkpoint, JobFolder
from uid2_async.errors import TokenError, UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Email, IdentityMap
from uid2_async.operator.envelope import encrypt_reply
from uid2_async.protocol import base64, mapping, tokens
from uid2_async.protocol.envelope import AesGcmEnvelope
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.wire import (
    error_from_reply,
    http_date_ms,
    parse_retry_after,
    read_body,
)

KEY = bytes(range(32))
NONCE = b"8 bytes."
PLACE = Path(tempfile.mkdtemp(prefix="uid2-fuzz-"))
INPUT = InputIdentity(name="in.csv", size=1, mtime_ns=1, digest="00")
ENVELOPE = AesGcmEnvelope()
QUERY = mapping.prepare_map([Email("a@example.com"), Email("b@example.com")])
UID = base64.encode_text(KEY)

KEYS_REPLY = (
    b'{"body":{"caller_site_id":11,"master_keyset_id":1,"default_keyset_id":99999,'
    b'"token_expiry_seconds":86400,"max_sharing_lifetime_seconds":86400,'
    b'"max_bidstream_lifetime_seconds":86400,"identity_scope":"UID2",'
    b'"allow_clock_skew_seconds":1800,"keys":['
    b'{"id":2,"keyset_id":1,"created":1700000000,"activates":1700000000,'
    b'"expires":2000000000,"secret":"%b"},'
    b'{"id":3,"keyset_id":99999,"created":1700000000,"activates":1700000000,'
    b'"expires":2000000000,"secret":"%b"}]},"status":"success"}'
) % (UID.encode(), UID.encode())
RING = KeyRing.from_json(KEYS_REPLY)
MAP_REPLY = (
    b'{"body":{"email_hash":[{"u":"%b","p":null,"r":1700000000},{"e":"optout"}]},'
    b'"status":"success"}'
) % UID.encode()
TOKENS_REPLY = (
    b'{"body":{"advertising_token":"a","refresh_token":"r","identity_expires":'
    b'1700000000000,"refresh_expires":1700000000000,"refresh_from":1700000000000,'
    b'"refresh_response_key":"%b"},"status":"success"}'
) % UID.encode()


def envelope(data: bytes) -> None:
    """Open a reply, with a head and without, as text and as bytes."""
    for nonce in (NONCE, None):
        with contextlib.suppress(UID2Error):
            ENVELOPE.open(data, key=KEY, nonce=nonce)
    base64.decode(data)
    # Whatever is sealed comes back, and with one bit changed it does not.
    whole = encrypt_reply(data, key=KEY, now_ms=1, nonce=NONCE, iv=bytes(12))
    assert ENVELOPE.open(whole, key=KEY, nonce=NONCE).payload == data


def replies(data: bytes) -> None:
    """Read the bytes as every reply that there is."""
    for parse in (
        lambda: mapping.align_map(QUERY, mapping.parse_map_v3_rows(data, QUERY.values)),
        lambda: mapping.parse_map_v2_reply(data, ["a", "b"]),
        lambda: tokens.parse_tokens_reply(data),
        lambda: tokens.parse_refresh_reply(data),
        lambda: read_body(data, bool),
        lambda: tokens.parse_logout_reply(data),
        lambda: mapping.parse_status_reply(data, ["a"]),
        lambda: mapping.buckets_call(datetime.now(UTC)).parse(data),
        lambda: KeyRing.from_json(data),
        lambda: IdentityTokens.from_json(data),
    ):
        with contextlib.suppress(UID2Error):
            found = parse()
            repr(found)
            if isinstance(found, IdentityMap):
                repr(list(found))


def refusals(data: bytes) -> None:
    """Read the bytes as the body of any status."""
    for status in (204, 302, 400, 401, 403, 413, 429, 500, 599):
        error = error_from_reply(status, {}, data, now_ms=0, secrets=["canary secret"])
        text = str(error)
        assert text.isprintable()
        assert len(text) < 1_000
        assert "canary secret" not in text


def headers(data: bytes) -> None:
    """Read the bytes as Retry-After and Date."""
    text = data.decode("latin-1")
    for found in (
        parse_retry_after(text, now_ms=0),
        parse_retry_after("Thu, 01 Jan 2026 00:00:09 GMT", date=text, now_ms=0),
    ):
        assert found is None or found >= 0
    http_date_ms(text)


def advertising_tokens(data: bytes) -> None:
    """Open the bytes as a token of any version."""
    text = data.decode("latin-1")
    clients = (BidstreamClient(RING), SharingClient(RING))
    for token in (text, base64.encode_text(data), base64.encode_url_text(data)):
        for client in clients:
            with contextlib.suppress(TokenError):
                client.decrypt(token)


def csv_file(data: bytes) -> None:
    """Read the bytes as a CSV file."""
    path = PLACE / "in.csv"
    path.write_bytes(data)
    with contextlib.suppress(UID2Error):
        reader = open_reader(path, FileFormatOptions())
        try:
            reader.select(range(len(reader.header)))
            more = True
            while more:
                while (chunk := reader.take(100)) is not None:
                    for index in range(len(reader.header)):
                        chunk.values(index)
                more = reader.load()
        finally:
            reader.close()


def job_log(data: bytes) -> None:
    """Read the bytes as the log of a job, and resume it."""
    folder = PLACE / "job"
    (folder / "log").write_bytes(data)
    checkpoint = Checkpoint(input=INPUT, rows=len(data))
    with contextlib.suppress(UID2Error):
        with _open_job(folder) as job:
            job.append(checkpoint)
        with _open_job(folder) as job:
            assert job.checkpoints[INPUT.name] == checkpoint


def _open_job(folder: Path) -> JobFolder:
    def terms(salt: str) -> dict[str, Any]:
        return {"target": "out.csv", "options": {}, "settings": salt}

    return JobFolder(folder, terms, now=datetime.now(UTC))


def _log_seed() -> bytes:
    folder = PLACE / "job"
    with _open_job(folder) as job:
        job.append(Checkpoint(input=INPUT, rows=10, output=100))
        job.append(Checkpoint(input=INPUT, rows=20, output=200, done=True))
    return (folder / "log").read_bytes()


def _token_seed() -> bytes:
    """Make a token of the built-in world."""
    token = SharingClient(RING).encrypt(UID, keyset_id=99999)
    return token.encode()


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "envelope": (
        envelope,
        [encrypt_reply(b"{}", key=KEY, now_ms=1, nonce=NONCE, iv=bytes(12)), b"AAAA"],
    ),
    "replies": (replies, [MAP_REPLY, TOKENS_REPLY, KEYS_REPLY]),
    "refusals": (
        refusals,
        [b'{"status":"client_error","message":"canary secret"}', b"<html>"],
    ),
    "headers": (
        headers,
        [b"120", b"Thu, 01 Jan 2026 00:00:09 GMT", b"Thursday, 01-Jan-26 00:00:09 GMT"],
    ),
    "tokens": (advertising_tokens, [_token_seed()]),
    "csv": (csv_file, [b'id,mail\n1,"a ""b"""\r\n2,x\n', b"\xef\xbb\xbfa;b\n1;2"]),
    "job_log": (job_log, [_log_seed()]),
}
"""What to fuzz, and what to begin with."""
