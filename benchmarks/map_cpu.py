"""Client CPU of a v3 map per identity: ours, the official SDK, and the bare minimum.

The reply comes from a canned function in the same process, so that neither network nor
operator counts: normalize, hash, write, seal; then open, read, align.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator

from uid2_client import IdentityMapV3Input, IdentityMapV3Response
from uid2_client.request_response_util import create_envelope, parse_response
from uid2_client.uid2_response import Uid2Response

from benchmarks import by_hand
from benchmarks.runner import Effort, Table, cpu_per_item, interleave
from uid2_async.protocol import identity
from uid2_async.protocol.envelope import AesGcmEnvelope, open_request, seal_reply

BATCH = 5_000
KEY = bytes(range(32))
EMAILS = [f"Customer.{number}@Example.com" for number in range(BATCH)]


def canned(nonce: bytes) -> bytes:
    """Seal a reply of 5,000 mapped rows for *nonce*."""
    return seal_reply(REPLY, key=KEY, now_ms=0, nonce=nonce, iv=bytes(12))


def _make_reply() -> bytes:
    uid = base64.b64encode(bytes(33)).decode()
    rows = [{"u": uid, "p": None, "r": 1_800_000_000}] * BATCH
    body = {"email_hash": rows, "phone": [], "phone_hash": [], "email": []}
    return json.dumps({"body": body, "status": "success"}).encode()


REPLY = _make_reply()


def ours() -> None:
    """Do what :meth:`UID2Client.map_identities` does around the request."""
    query = identity.prepare_map(EMAILS)
    envelope = AesGcmEnvelope()
    nonce = os.urandom(8)
    envelope.seal(
        identity.build_map_v3_request(query),
        key=KEY,
        now_ms=0,
        nonce=nonce,
        iv=os.urandom(12),
    )
    opened = envelope.open(canned(nonce), key=KEY, nonce=nonce)
    identity.parse_map_v3_reply(opened.payload, query)


def official() -> None:
    """Do the same with the official SDK."""
    import datetime as dt  # noqa: PLC0415 - what their call needs

    asked = IdentityMapV3Input.from_emails(EMAILS)
    payload = asked.get_identity_map_input_as_json_string().encode()
    sealed = create_envelope(KEY, dt.datetime.now(dt.UTC), payload)
    nonce = open_request(sealed.binary_envelope, KEY).nonce
    answer = Uid2Response.from_bytes(canned(nonce))
    IdentityMapV3Response(parse_response(KEY, answer, nonce), asked)


def floor() -> None:
    """Do the least that gives the same."""
    nonce = os.urandom(8)
    by_hand.seal(EMAILS, KEY, nonce)
    by_hand.read(canned(nonce), KEY)


def run(effort: Effort) -> Iterator[Table]:
    """Measure; the cost of making the canned reply is in all three."""
    subjects = {"floor": floor, "uid2_async": ours, "official SDK": official}
    measures = {name: cpu_per_item(one, BATCH) for name, one in subjects.items()}
    yield Table(
        title="Map of e-mails",
        unit="us of client CPU per identity",
        baseline="floor",
        ours=("uid2_async",),
        lines=interleave(measures, rounds=effort.pick(9, 31)),
    )
