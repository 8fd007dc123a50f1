"""From an HTTP request to its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from uid2_async.errors import EnvelopeError
from uid2_async.operator import Fault
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import AesGcmEnvelope

GENERATE = "/v2/token/generate"
MAP = "/v3/identity/map"
NONCE = b"abcdefgh"
SOMEONE = {"email": "a@example.com"}


def open_reply(asker: Any, reply: Any) -> bytes:
    """Open a reply of text to the key that can do everything."""
    body = base64.decode(reply.body) or b""
    envelope = AesGcmEnvelope()
    return envelope.open(body, key=asker.secret("everything"), nonce=NONCE).payload


def test_a_missing_role_is_an_unknown_key(asker: Any) -> None:
    """The answers are the same (docs/protocol.md 1.8)."""
    missing = asker.ask_raw(GENERATE, SOMEONE, who="bidder")
    unknown = asker.ask_raw(GENERATE, SOMEONE, Authorization="Bearer x")

    assert missing.status == unknown.status == 401
    assert missing.body == unknown.body == b'{"status":"unauthorized"}'
    assert missing.content_type == "application/json"


def test_the_form_of_the_request_is_that_of_the_reply(asker: Any) -> None:
    """Raw bytes or base64 text (docs/protocol.md 1.5)."""
    text = asker.ask_raw(GENERATE, SOMEONE)
    binary = asker.ask_raw(GENERATE, SOMEONE, binary=True)

    assert text.content_type == "text/plain"
    assert binary.content_type == "application/octet-stream"
    assert base64.decode(text.body) is not None
    assert base64.decode(binary.body) is None


@pytest.mark.parametrize("charset", ["utf-16", "UTF-8", "latin-1", "no-such"])
def test_the_charset_of_a_text_is_honoured(asker: Any, charset: str) -> None:
    """A text in UTF-16 says so (docs/protocol.md 1.2)."""
    whole = {"Content-Type": f"text/plain; charset={charset}"}
    reply = asker.ask_raw(MAP, {}, **whole)
    known = "Required Parameter Missing" if charset != "utf-16" else "Invalid body"

    assert known in json.loads(reply.body)["message"]


def test_a_text_in_another_charset_is_read(asker: Any) -> None:
    """The bytes on the wire are not the base64 then."""
    token = "AA=="
    headers = {"Content-Type": "text/plain; charset=utf-16"}

    reply = asker.send("/v2/token/refresh", token.encode("utf-16"), headers)

    assert reply.status == 500


def test_the_trace_header_of_the_cloud_comes_back(asker: Any) -> None:
    """From every endpoint that knows API keys (docs/protocol.md 1.2)."""
    trace = {"X-Amzn-Trace-Id": "Root=1"}

    for reply in (
        asker.ask_raw(GENERATE, SOMEONE, **trace),
        asker.ask_raw(GENERATE, SOMEONE, Authorization="", **trace),
        asker.send("/v2/token/refresh", b"", trace),
    ):
        assert reply.headers == trace
    assert asker.send("/v2/token/client-generate", b"", trace).headers == {}


def test_a_wrong_nonce_is_sealed_all_the_same(asker: Any) -> None:
    """The key is right, and the reply answers another request."""
    reply = asker.ask_raw(GENERATE, SOMEONE, fault=Fault(wrong_nonce=True))

    with pytest.raises(EnvelopeError) as caught:
        open_reply(asker, reply)
    assert caught.value.foreign_nonce


def test_a_wrong_key_opens_nothing(asker: Any) -> None:
    """The reply is of the right form."""
    reply = asker.ask_raw(GENERATE, SOMEONE, fault=Fault(wrong_key=True))

    with pytest.raises(EnvelopeError) as caught:
        open_reply(asker, reply)
    assert not caught.value.foreign_nonce


def test_any_payload_can_be_sealed(asker: Any) -> None:
    """So that clients can be tested with what no operator says."""
    reply = asker.ask_raw(GENERATE, SOMEONE, fault=Fault(payload=b"{}"))

    assert open_reply(asker, reply) == b"{}"


def test_the_reply_tells_who_asked_about_how_many(asker: Any) -> None:
    """It is for the log of calls, and holds no value."""
    payload = {"email": ["a@example.com", "b@example.com"], "phone": ["+1"]}

    reply = asker.ask_raw(MAP, payload, who="advertiser")
    single = asker.ask_raw(GENERATE, {**SOMEONE, "a@b.c": 1, "policy": 1})

    assert (reply.client, reply.items, reply.keys) == (
        "advertiser",
        3,
        ("email", "phone"),
    )
    assert (single.items, single.keys) == (1, ("email", "policy"))
    assert "example.com" not in repr(reply)
    assert asker.ask_raw("/v2/key/sharing").items == 0
