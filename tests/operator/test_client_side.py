"""token/client-generate and the Origin check (docs/protocol.md 2.10)."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

from uid2_async.errors import EnvelopeError
from uid2_async.models import Email
from uid2_async.operator import Fault, client_side as origin_module
from uid2_async.operator.client_side import (
    app_allowed,
    origin_allowed,
    registrable_domain,
)
from uid2_async.operator.java import JavaJsonError, parse_raw
from uid2_async.protocol import client_side
from uid2_async.protocol.base64 import encode_text
from uid2_async.protocol.token_codec import open_token

CLIENT_KEY = derive_private_key(77, SECP256R1())
IV = b"0123456789ab"
ORIGIN = "http://localhost:3000"


def ask(
    asker: Any,
    *,
    origin: str | None = ORIGIN,
    inner: dict[str, Any] | None = None,
    app_name: str | None = None,
    fault: Fault | None = None,
) -> tuple[int, Any]:
    """Ask for a token from a browser, and give the status and the opened JSON."""
    pair = asker.data.keypairs[0]
    cipher = client_side.shared_cipher(
        CLIENT_KEY, client_side.load_server_public_key(pair.public_key)
    )
    body = client_side.build_client_generate_request(
        Email("a@example.com"),
        subscription_id=pair.subscription_id,
        client_key=CLIENT_KEY,
        cipher=cipher,
        now_ms=1,
        iv=IV,
        app_name=app_name,
    )
    if inner is not None:
        sealed = cipher.encrypt(IV, json.dumps(inner).encode(), b"[1]")
        body = json.dumps({**json.loads(body), "payload": encode_text(sealed)}).encode()
    headers = {} if origin is None else {"Origin": origin}
    reply = asker.send(client_side.CLIENT_GENERATE_PATH, body, headers, fault)
    if reply.status != 200:
        return reply.status, json.loads(reply.body)
    assert reply.content_type is None
    opened = client_side.open_client_generate_reply(reply.body, cipher)
    return 200, json.loads(opened)


def test_a_browser_gets_a_token_of_its_site(asker: Any) -> None:
    """The privacy bits say that it was client-side (docs/protocol.md 2.10)."""
    status, reply = ask(asker)

    token = open_token(reply["body"]["advertising_token"], asker.world.keysets.key)
    assert status == 200
    assert (token.site_id, token.privacy_bits) == (101, 3)


def test_the_token_is_refreshed_like_any_other(asker: Any) -> None:
    """Refresh is the same for both ways (docs/protocol.md 2.10)."""
    body = ask(asker)[1]["body"]

    status, reply = asker.refresh(body["refresh_token"], body["refresh_response_key"])

    token = open_token(reply["body"]["advertising_token"], asker.world.keysets.key)
    assert (status, token.privacy_bits) == (200, 3)


@pytest.mark.parametrize("origin", [None, "https://example.net", "nonsense"])
def test_a_foreign_origin_is_refused(asker: Any, origin: str | None) -> None:
    """Only the site's own pages may ask (docs/protocol.md 2.10)."""
    assert ask(asker, origin=origin) == (
        403,
        {"message": "unexpected http origin", "status": "invalid_http_origin"},
    )


def test_an_app_is_known_by_its_name(asker: Any) -> None:
    """An app name counts in place of the origin (docs/protocol.md 2.10)."""
    assert ask(asker, origin=None, app_name="COM.example.App")[0] == 200
    assert ask(asker, app_name="other") == (
        403,
        {"message": "unexpected app name", "status": "invalid_app_name"},
    )


def test_the_origin_may_be_left_unchecked(make_asker: Any) -> None:
    """It is a setting of the operator (docs/protocol.md 2.10)."""
    asker = make_asker(client_side_token_generate_domain_name_check_enabled=False)

    assert ask(asker, origin=None)[0] == 200


def test_a_reply_can_be_sealed_with_a_wrong_key(asker: Any) -> None:
    """So that clients can be tested with it."""
    with pytest.raises(EnvelopeError):
        ask(asker, fault=Fault(wrong_key=True))


def test_a_disabled_subscription_is_unauthorized(asker: Any) -> None:
    """The message says no more (docs/protocol.md 2.10)."""
    pair = attrs.evolve(asker.data.keypairs[0], disabled=True)
    asker.load(attrs.evolve(asker.data, keypairs=(pair,)))

    assert ask(asker) == (401, {"message": "Unauthorized", "status": "unauthorized"})


def test_an_unknown_subscription_is_refused(asker: Any) -> None:
    """The subscription names the key pair (docs/protocol.md 2.10)."""
    reply = asker.send(client_side.CLIENT_GENERATE_PATH, b"{}", {})

    assert json.loads(reply.body)["message"] == "bad subscription_id"


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({}, "please provide exactly one of: email_hash, phone_hash"),
        ({"email": "a@b.c"}, "please provide exactly one of: email_hash, phone_hash"),
        (
            {"email_hash": "x", "phone_hash": "y"},
            "please provide exactly one of: email_hash, phone_hash",
        ),
        ({"phone_hash": "x"}, "Invalid Identifier"),
    ],
)
def test_exactly_one_hash_is_needed(
    asker: Any, inner: dict[str, Any], message: str
) -> None:
    """DII as it is does not count (docs/protocol.md 2.10)."""
    assert ask(asker, inner=inner) == (
        400,
        {"message": message, "status": "client_error"},
    )


def test_without_phone_support_there_is_one_hash(make_asker: Any) -> None:
    """The messages leave phones out (docs/protocol.md 2.10)."""
    asker = make_asker(enable_phone_support=False)

    with_phone = ask(asker, inner={"phone_hash": "x"})[1]["message"]
    without = ask(asker, inner={})[1]["message"]

    assert with_phone == "phone support not enabled"
    assert without == "please provide email_hash"


def test_people_who_opted_out_get_no_token(asker: Any) -> None:
    """As with every other way (docs/protocol.md 7)."""
    asker.ask("/v2/token/logout", {"email": "a@example.com"})

    assert ask(asker) == (200, {"status": "optout"})


def test_without_an_active_key_there_is_no_token(asker: Any) -> None:
    """The message is that of generate (docs/protocol.md 2.10)."""
    asker.load(attrs.evolve(asker.data, keys=()))

    assert ask(asker) == (
        500,
        {"message": "No active encryption key available", "status": "unknown"},
    )


CONFORMANCE = Path(__file__).parents[1] / "conformance"


@pytest.mark.parametrize(
    ("origin", "domain"),
    [
        ("https://www.example.org", "example.org"),
        ("https://example.org", "example.org"),
        ("https://a.b.news.example.com", "example.com"),
        ("https://a.b.co.uk", "b.co.uk"),
        ("https://x.github.io", "x.github.io"),
        ("https://www.ck", "www.ck"),
        ("HTTPS://WWW.Example.ORG:8443", "example.org"),
        ("http://example.org:", "example.org"),
        ("http://example.org:-1", "example.org"),
        ("http://example.org:+99999", "example.org"),
        ("http://example.org.", "example.org"),
        ("http://user:word@example.org", "example.org"),
        ("http://@example.org", "example.org"),
        ("http://example.org/path?query#part", "example.org"),
        ("http://example.org?@other.org", "example.org"),
        ("http://example.org#@other.org", "example.org"),
        ("http://example.org/@other.org:x", "example.org"),
        ("ftp://example.org", "example.org"),
        ("file://example.org", "example.org"),
        ("http://a_b.org", "a_b.org"),
        ("http://\u00e9.org", "\u00e9.org"),
        ("http://www\u3002example\uff0eorg", "example.org"),
        ("url:https://example.org", "example.org"),
        ("URL:HTTPS://example.org", "example.org"),
        (" \t https://example.org \x01", "example.org"),
        ("jrt://example.org", "example.org"),
        ("https://a b:c@example.org", "example.org"),
        ("https://example.org/\\@other.com", "example.org"),
        (f"https://example.org:{'0' * 60}80", "example.org"),
        ("https://example.org:-00001", "example.org"),
        ("https://a.xn--p1ai", "a.xn--p1ai"),
        (f"http://{'a' * 63}.org", f"{'a' * 63}.org"),
        ("http://localhost", "localhost"),
        ("http://LOCALHOST:3000", "localhost"),
        ("http://localhost.", "localhost"),
        ("http://a.localhost", "localhost"),
    ],
)
def test_registrable_domain(origin: str, domain: str) -> None:
    """A public suffix and one label, in lower case, whatever stands around the host."""
    assert registrable_domain(origin) == domain


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "example.org",
        "//example.org",
        "https:example.org",
        "https:///example.org",
        "https://",
        "ws://example.org",
        "chrome-extension://abc",
        "http\u017f://example.org",
        "https://co.uk",
        "https://github.io",
        "https://a.ck",
        "https://evil.example",
        "http://a.b.localhost",
        "http://127.0.0.1",
        "http://1.2.3.x4",
        "http://[::1]",
        "http://[::1]:80",
        "http://u@v@example.org",
        "http://example.org:x",
        "http://example.org:+",
        f"http://example.org:{'9' * 5_000}",
        "http://example.org:-2",
        "http://example.org:2147483648",
        "http://example.org:80:90",
        "http://example.org..",
        "http://a..org",
        "http://.example.org",
        "http://-a.org",
        "http://a-.org",
        "http://_a.org",
        "http://*.org",
        "http://exa mple.org",
        "http://example.org\\x",
        "https://other.com\\@example.org",
        "https://other.com\x7f@example.org",
        "https://other.com\t@example.org",
        "https://other.com[]@example.org",
        "https:////example.org",
        "url:url:https://example.org",
        "url: https://example.org",
        "url:",
        "#https://example.org",
        "https://?example.org",
        "jar:https://example.org!/",
        "mailto:a@example.org",
        # U+3002 in UTF-8, with each byte taken for one character.
        "https://example\u00e3\u0080\u0082org",
        "\u00a0https://example.org",
        f"http://{'a' * 64}.org",
        f"http://{'a.' * 126}org",
        f"http://{'aaa.' * 63}org",
    ],
)
def test_no_registrable_domain(origin: str) -> None:
    """No URL, an address, a bare suffix or an unlisted one: there is no such domain."""
    assert registrable_domain(origin) is None


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://www.example.org", True),
        ("http://sub.localhost", True),
        ("https://news.example.com", False),
        ("https://other.org", False),
        ("null", False),
        (None, False),
    ],
)
def test_origin_allowed(origin: str | None, *, allowed: bool) -> None:
    """The registrable domain must be listed itself; a deeper entry never matches."""
    domains = ["example.org", "localhost", "news.example.com"]
    assert origin_allowed(origin, domains) is allowed


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("com.example.News", True),
        ("COM.EXAMPLE.NEWS", True),
        ("com.example.new\u017f", True),
        ("com.example.New", False),
        ("com.example.Newz", False),
        ("", False),
    ],
)
def test_app_allowed(name: str, *, allowed: bool) -> None:
    """App names are compared whole, whatever the case, as equalsIgnoreCase does."""
    assert app_allowed(name, ["1234567", "com.example.News"]) is allowed


@pytest.fixture
def no_suffix_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the package away, and what was loaded from it."""
    monkeypatch.setitem(sys.modules, "publicsuffixlist", None)
    origin_module._suffix_list.cache_clear()
    yield
    origin_module._suffix_list.cache_clear()


def test_without_the_package(no_suffix_list: None) -> None:
    """Only what needs the list fails without it, and says how to install it."""
    assert registrable_domain("http://a.localhost:8080") == "localhost"
    assert registrable_domain("http://127.0.0.1") is None
    with pytest.raises(ImportError, match=r"uid2-async\[sandbox\]"):
        registrable_domain("https://example.org")


def _judged_cases(scope: str) -> Iterator[tuple[Any, bool]]:
    """Take the recorded calls in which the check was reached, and its outcome."""
    folder = CONFORMANCE / scope
    exchanges = json.loads((folder / "exchanges.json").read_text("utf-8"))
    for case in exchanges["cases"]:
        status = case["response"]["status"]
        if case["path"] == "/v2/token/client-generate" and status in {200, 400, 403}:
            yield case, status != 403


@pytest.mark.parametrize("scope", ["uid2", "euid"])
def test_recorded_calls(scope: str) -> None:
    """Every recorded client-generate call passes or fails the check as it did."""
    world = CONFORMANCE / scope / "world"
    pairs = json.loads((world / "client_side_keypairs.json").read_text("utf-8"))
    site_of = {pair["subscription_id"]: pair["site_id"] for pair in pairs}
    sites = json.loads((world / "sites.json").read_text("utf-8"))
    site_by_id = {site["id"]: site for site in sites}
    counts = {True: 0, False: 0}
    for case, passed in _judged_cases(scope):
        body = _read_body(case)
        if body.get("subscription_id") not in site_of:
            continue
        site = site_by_id[site_of[body["subscription_id"]]]
        if "app_name" in body:
            allowed = app_allowed(body["app_name"], site["app_names"])
        else:
            allowed = origin_allowed(
                case["headers"].get("Origin"), site["domain_names"]
            )
        assert allowed is passed, case["id"]
        counts[passed] += 1
    assert counts == {True: 25, False: 5}


def _read_body(case: Any) -> dict[str, Any]:
    """Read the body of a recorded call; empty where it is no object."""
    try:
        body = parse_raw(base64.b64decode(case["body_b64"] or ""))
    except JavaJsonError:
        return {}
    return body if isinstance(body, dict) else {}
