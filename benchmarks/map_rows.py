"""Client CPU of mapping 5,000 emails and reading every row of the result.

As :mod:`benchmarks.map_cpu`, but each row's raw UID and refresh time are read too, as a
program does that stores them. The rows share 30 refresh times, since the salts of their
buckets rotate on certain days. Floor: hash, write and seal, with nothing read.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from uid2_client import IdentityMapV3Input, IdentityMapV3Response
from uid2_client.request_response_util import create_envelope, parse_response
from uid2_client.uid2_response import Uid2Response

from benchmarks.runner import Effort, Measure, Table, interleave
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import mapping, wire
from uid2_async.protocol.envelope import AesGcmEnvelope

BATCH = 5_000
CALLS = 2
KEY = bytes(range(32))
EMAILS = [f"customer.{number}@example.com" for number in range(BATCH)]
_UID = base64.b64encode(bytes(33)).decode()
_DAY = 86_400
REPLY = json.dumps(
    {
        "body": {
            "email_hash": [
                {"u": _UID, "p": None, "r": 1_800_000_000 + number % 30 * _DAY}
                for number in range(BATCH)
            ],
            "email": [],
            "phone": [],
            "phone_hash": [],
        },
        "status": "success",
    }
).encode()


class Canned:
    """Seals the reply in this process, and knows the CPU seconds that it took."""

    def __init__(self) -> None:
        """Start the count."""
        self.seconds = 0.0

    def answer(self, nonce: bytes) -> bytes:
        """Seal the reply for *nonce*."""
        began = time.process_time()
        sealed = encrypt_reply(REPLY, key=KEY, now_ms=0, nonce=nonce, iv=bytes(12))
        self.seconds += time.process_time() - began
        return sealed


canned = Canned()


def ours() -> None:
    """Map and read with uid2_async."""
    query = mapping.prepare_map(EMAILS)
    envelope = AesGcmEnvelope()
    nonce = os.urandom(8)
    payload = wire.encode(query.values)
    envelope.seal(payload, key=KEY, now_ms=0, nonce=nonce, iv=os.urandom(12))
    opened = envelope.open(canned.answer(nonce), key=KEY, nonce=nonce)
    found = mapping.align_map(
        query, mapping.parse_map_v3_rows(opened.payload, query.values)
    )
    rows = [(row.raw_uid, row.refresh_from) for row in found]
    assert len(rows) == BATCH


def official() -> None:
    """Map and read with the official SDK."""
    asked = IdentityMapV3Input.from_emails(EMAILS)
    payload = asked.get_identity_map_input_as_json_string().encode()
    sealed = create_envelope(KEY, datetime.now(UTC), payload)
    nonce = decrypt_request(sealed.binary_envelope, KEY).nonce
    answer = Uid2Response.from_bytes(canned.answer(nonce))
    found = IdentityMapV3Response(parse_response(KEY, answer, nonce), asked)
    mapped = found.mapped_identities.values()
    rows = [(row.current_raw_uid, row.refresh_from) for row in mapped]
    assert len(rows) == BATCH


def floor() -> None:
    """Hash, write JSON and seal; nothing is checked, opened or read."""
    hashes = [
        base64.b64encode(sha256(email.encode()).digest()).decode() for email in EMAILS
    ]
    payload = msgspec.json.encode({"email_hash": hashes})
    AESGCM(KEY).encrypt(os.urandom(12), payload, None)


def client_cpu(function: Callable[[], None]) -> Measure:
    """Make a measurement of *function*'s CPU, in us per identity."""

    def measure() -> float:
        before = canned.seconds
        began = time.process_time()
        for _ in range(CALLS):
            function()
        seconds = time.process_time() - began - (canned.seconds - before)
        return seconds / (CALLS * BATCH) * 1e6

    return measure


def run(effort: Effort) -> Iterator[Table]:
    """Measure."""
    functions = {"floor": floor, "uid2_async": ours, "official SDK": official}
    yield Table(
        title="Map emails and read every row",
        unit="us of client CPU per identity",
        baseline="floor",
        ours=("uid2_async",),
        lines=interleave(
            {name: client_cpu(function) for name, function in functions.items()},
            rounds=effort.pick(9, 25),
        ),
    )
