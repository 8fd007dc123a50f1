"""From an HTTP request to its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from uid2_async.errors import EnvelopeError
from uid2_async.operator import Fault
from uid2_async.operator.http_messages import HttpReply
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


READ = "Required Parameter Missing"
GARBLED = "Invalid body: Body is not valid base64."
EMPTY = "Invalid body: Body is missing."
FAILED = "Internal Server Error"


def outcome(reply: HttpReply) -> str:
    """Tell what became of a map that names nobody."""
    if reply.content_type is None:
        assert reply.status in {400, 500}
        return reply.body.decode()
    return json.loads(reply.body)["message"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # Java's names and aliases, in any letter case.
        *((f"; charset={name}", READ) for name in ("UTF-8", "utf8", "latin1", "L9")),
        *((f";charset={name}", READ) for name in ("US-ASCII", "646", "cp1252", "GBK")),
        *((f";charset={name}", READ) for name in ("x-MacThai", "IBM-868", "CESU-8")),
        *((f";charset={name}", GARBLED) for name in ("utf-16", "UTF-32LE", "cp037")),
        *((f";charset={name}", GARBLED) for name in ("x-UTF-16LE-BOM", "ibm-1047")),
        # Names that Java does not know, most of which Python does.
        *((f";charset={name}", FAILED) for name in ("nope", "", "'utf-8'", "utf_8")),
        *((f";charset={name}", FAILED) for name in ("utf-7", "utf-8-sig", "hex")),
        *((f";charset={name}", FAILED) for name in ("idna", "punycode", "rot13")),
        *((f";charset={name}", FAILED) for name in ("unicode_escape", "latin-1")),
        *((f";charset={name}", FAILED) for name in ("mbcs", "undefined", "zip")),
        *((f";charset={name}", FAILED) for name in ("\u00e9", "\\", "utf-8 x")),
        # How a parameter is written.
        (";charset", FAILED),
        ("; charset= utf-8", FAILED),
        (';charset="', FAILED),
        (';x="', FAILED),
        (';q="', READ),
        (';charset="utf-8"', READ),
        (';charset="utf\\-8', READ),
        (';x=";charset=nope"', READ),
        (";charset=nope;charset=utf-8", READ),
        (";charset=utf-8;charset=nope", FAILED),
        (" ; charset=utf-8 ;x", READ),
        # Another name is another parameter.
        (";CHARSET=nope", READ),
        (";Charset=UTF-16BE", READ),
        (";charset =nope", READ),
        (";xcharset=nope", READ),
    ],
)
def test_the_charset_is_read_as_java_reads_it(
    asker: Any, parameters: str, expected: str
) -> None:
    """By a fixed table of Java's names, case-sensitive in its own (1.2)."""
    kind = f"text/plain{parameters}"
    # As aiohttp gives the bytes of a header.
    given = kind.encode("latin-1").decode("utf-8", "surrogateescape")

    found = outcome(asker.ask_raw(MAP, {}, **{"Content-Type": given}))

    assert found.startswith(expected)


def test_no_charset_matters_without_a_body(asker: Any) -> None:
    """What is not there is not decoded (docs/protocol.md 1.2)."""
    headers = {**asker.headers("everything"), "Content-Type": "text/plain;charset=nope"}

    assert outcome(asker.send(MAP, b"", headers)) == EMPTY


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("multipart/form-data", EMPTY),
        ("Multipart/Form-Data; boundary=x", EMPTY),
        ("multipart/form-data-x", EMPTY),
        ('multipart/form-data;boundary="x"', EMPTY),
        ("multipart/form-data; charset=nope", EMPTY),
        ("multipart/form-data; charset=utf-8; boundary=x", EMPTY),
        ("multipart/form-data;boundary", FAILED),
        ("multipart/form-data;boundary=", FAILED),
        ('multipart/form-data;boundary="', FAILED),
        ("multipart/form-data; boundary=x; charset=nope", FAILED),
        ("multipart/form-data; charset=nope; boundary=x", FAILED),
        ("multipart/mixed; boundary=x", READ),
        ("multipart/formdata", READ),
        ("application/x-www-form-urlencoded", READ),
        ("application/x-www-form-urlencoded; charset=nope", FAILED),
    ],
)
def test_a_multipart_body_is_none(asker: Any, kind: str, expected: str) -> None:
    """It is read as a form, of which nothing is left (docs/protocol.md 1.2)."""
    found = outcome(asker.ask_raw(MAP, {}, **{"Content-Type": kind}))

    assert found.startswith(expected)


def test_a_multipart_body_is_none_elsewhere_too(asker: Any) -> None:
    """Each endpoint says its own of a body that is not there (docs/protocol.md 1.2)."""
    kind = {"Content-Type": "multipart/form-data"}

    refresh = asker.send("/v2/token/refresh", b"AAAA", kind)
    generate = asker.send("/v2/token/client-generate", b"{}", kind)

    assert outcome(refresh) == "Error refreshing token"
    assert outcome(generate) == "json payload expected but not found"


TOO_LONG = b"a=" + b"b" * 8_193


@pytest.mark.parametrize(
    ("body", "is_bad"),
    [
        (b"&".join([b"a=b"] * 257), False),
        (b"&".join([b"a=b"] * 258), True),
        (b"&".join([b"a"] * 257), False),
        (b"&".join([b"a"] * 258), True),
        (b"&" * 1_000, False),
        (b"a" * 100_000, False),
        (b"a=" + b"b" * 8_192, False),
        (TOO_LONG, True),
        (b"a=b\n" + TOO_LONG, False),
        (b"a=b\r\n", False),
        (b"a=b\r", False),
        (b"a=b\rc", True),
        (b"=b", True),
        (b"%20=b", True),
        (b"+&", True),
        (b"%C2%A0=b", False),
        (b"%4=b", True),
        (b"%zz", False),
        (b"%zz&", True),
        (b"a=%zz", False),
        (b"a=%zz&", True),
        (b"a=%41&", False),
        (b"AQ==", False),
    ],
)
@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "MULTIPART/form-data"]
)
def test_a_form_can_have_faults(
    asker: Any, kind: str, body: bytes, *, is_bad: bool
) -> None:
    """Too many or too long fields, or bad escapes: a text before all else (1.2)."""
    reply = asker.send(MAP, body, {"Content-Type": kind, "X-Amzn-Trace-Id": "x"})

    assert (reply.status, reply.body == b"Bad Request") == (
        (400, True) if is_bad else (401, False)
    )
    assert ("X-Amzn-Trace-Id" in reply.headers) is not is_bad


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
