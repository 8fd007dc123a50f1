"""Client CPU of a v3 map per identity: ours, the official SDK, and the bare minimum.

The reply comes from a canned function in the same process, so that neither network nor
operator counts: normalize, hash, write, seal; then open, read, align.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from uid2_client import IdentityMapV3Input, IdentityMapV3Response
from uid2_client.request_response_util import create_envelope, parse_response
from uid2_client.uid2_response import Uid2Response

from benchmarks import by_hand
from benchmarks.runner import Effort, Measure, Table, interleave
from uid2_async.models import EmailHash
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import mapping, wire
from uid2_async.protocol.envelope import AesGcmEnvelope

BATCH = 5_000
KEY = bytes(range(32))
# Half of them are of Gmail, which has rules of its own.
DOMAINS = ("Example.com", "gmail.com")
EMAILS = [f"Customer.{number}@{DOMAINS[number % 2]}" for number in range(BATCH)]
HASHES = [by_hand.hash_email(email) for email in EMAILS]
CALLS = 2


# What the operator's part has taken, which runs in the same process.
operator_seconds: list[float] = []


def canned(nonce: bytes) -> bytes:
    """Seal a reply of 5,000 mapped rows for *nonce*."""
    began = time.process_time()
    sealed = encrypt_reply(REPLY, key=KEY, now_ms=0, nonce=nonce, iv=bytes(12))
    operator_seconds.append(time.process_time() - began)
    return sealed


def _make_reply() -> bytes:
    uid = base64.b64encode(bytes(33)).decode()
    rows = [{"u": uid, "p": None, "r": 1_800_000_000}] * BATCH
    body = {"email_hash": rows, "phone": [], "phone_hash": [], "email": []}
    return json.dumps({"body": body, "status": "success"}).encode()


REPLY = _make_reply()


def ours(identities: Sequence[str | EmailHash]) -> None:
    """Do what :meth:`UID2Client.map_identities` does around the request."""
    query = mapping.prepare_map(identities)
    envelope = AesGcmEnvelope()
    nonce = os.urandom(8)
    envelope.seal(
        wire.encode(query.values),
        key=KEY,
        now_ms=0,
        nonce=nonce,
        iv=os.urandom(12),
    )
    opened = envelope.open(canned(nonce), key=KEY, nonce=nonce)
    mapping.align_map(query, mapping.parse_map_v3_rows(opened.payload, query.values))


def official(asked: IdentityMapV3Input) -> None:
    """Do the same with the official SDK."""
    payload = asked.get_identity_map_input_as_json_string().encode()
    sealed = create_envelope(KEY, datetime.now(UTC), payload)
    nonce = decrypt_request(sealed.binary_envelope, KEY).nonce
    answer = Uid2Response.from_bytes(canned(nonce))
    IdentityMapV3Response(parse_response(KEY, answer, nonce), asked)


def floor(hash_one: Callable[[str], str], texts: Sequence[str]) -> None:
    """Do the least that gives the same."""
    nonce = os.urandom(8)
    by_hand.seal([hash_one(text) for text in texts], KEY, nonce)
    by_hand.read(canned(nonce), KEY)


def client_cpu(function: Callable[[], None]) -> Measure:
    """Make a measurement of *function*'s CPU, in us per identity."""

    def measure() -> float:
        operator_seconds.clear()
        began = time.process_time()
        for _ in range(CALLS):
            function()
        seconds = time.process_time() - began - sum(operator_seconds)
        return seconds / (CALLS * BATCH) * 1e6

    return measure


def run(effort: Effort) -> Iterator[Table]:
    """Measure emails, then their hashes."""
    rounds = effort.pick(9, 25)
    yield Table(
        title="Map of emails",
        unit="us of client CPU per identity",
        baseline="floor",
        ours=("uid2_async",),
        lines=interleave(
            {
                "floor": client_cpu(lambda: floor(by_hand.hash_email, EMAILS)),
                "uid2_async": client_cpu(lambda: ours(EMAILS)),
                "official SDK": client_cpu(
                    lambda: official(IdentityMapV3Input.from_emails(EMAILS))
                ),
            },
            rounds=rounds,
        ),
    )
    yield Table(
        title="Map of hashes",
        unit="us of client CPU per identity",
        baseline="floor",
        ours=("uid2_async",),
        lines=interleave(
            {
                "floor": client_cpu(lambda: floor(str, HASHES)),
                "uid2_async": client_cpu(lambda: ours(list(map(EmailHash, HASHES)))),
                "official SDK": client_cpu(
                    lambda: official(IdentityMapV3Input.from_hashed_emails(HASHES))
                ),
            },
            rounds=rounds,
        ),
    )
