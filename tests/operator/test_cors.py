"""CORS."""

from __future__ import annotations

import pytest

from uid2_async.operator.cors import cors_headers, preflight

ASKED = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


def test_a_preflight_is_answered_for_any_path() -> None:
    """Before it is looked for (docs/protocol.md 1.6)."""
    reply = preflight("OPTIONS", "/nowhere", ASKED)

    assert reply is not None
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Authorization" not in reply.headers["Access-Control-Allow-Headers"]


def test_validate_allows_one_header_more() -> None:
    """It has a handler of its own (docs/protocol.md 1.9)."""
    reply = preflight("OPTIONS", "/v2/token/validate", ASKED)

    assert reply is not None
    assert reply.headers["Access-Control-Allow-Headers"].endswith(",Authorization")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", ASKED),
        ("OPTIONS", {"Origin": "https://a.example"}),
        ("OPTIONS", {**ASKED, "Origin": ""}),
        ("OPTIONS", {"Access-Control-Request-Method": "POST"}),
    ],
)
def test_anything_else_is_no_preflight(method: str, headers: dict[str, str]) -> None:
    """It needs the method and both headers (docs/protocol.md 1.9)."""
    assert preflight(method, "/v2/token/generate", headers) is None


def test_the_origin_comes_back_as_sent() -> None:
    """An empty one counts as none (docs/protocol.md 1.9)."""
    assert cors_headers("/x", {"Origin": "any Thing"}) == {
        "Vary": "origin",
        "Access-Control-Allow-Origin": "any Thing",
    }
    assert cors_headers("/x", {"Origin": ""}) == {"Vary": "origin"}
    assert cors_headers("/v2/token/validate", {}) == {"Vary": "origin,origin"}
