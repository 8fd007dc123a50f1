from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uid2_async.operator import client_side as origin_module
from uid2_async.operator.client_side import (
    MissingPublicSuffixListError,
    app_allowed,
    origin_allowed,
    registrable_domain,
)
from uid2_async.operator.java_json import JavaJsonError, parse_raw

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
    with pytest.raises(MissingPublicSuffixListError, match=r"uid2-async\[sandbox\]"):
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
