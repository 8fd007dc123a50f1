"""CORS."""

from __future__ import annotations

import pytest

from uid2_async.operator.http_messages import Reply, Request, answer_early, cors_headers

ASKED = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


def early(method: str, path: str, headers: dict[str, str]) -> Reply | None:
    """Ask what is answered before any endpoint is looked for."""
    return answer_early(Request(method=method, path=path, headers=headers))


def test_a_preflight_is_answered_for_any_path() -> None:
    """Before it is looked for (docs/protocol.md 1.6)."""
    reply = early("OPTIONS", "/nowhere", ASKED)

    assert reply is not None
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Authorization" not in reply.headers["Access-Control-Allow-Headers"]


def test_validate_allows_one_header_more() -> None:
    """It has a handler of its own (docs/protocol.md 1.9)."""
    reply = early("OPTIONS", "/v2/token/validate", ASKED)

    assert reply is not None
    assert reply.headers["Access-Control-Allow-Headers"].endswith(",Authorization")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", ASKED),
        ("OPTIONS", {"Origin": "https://a.example"}),
        ("OPTIONS", {"Access-Control-Request-Method": "POST"}),
    ],
)
def test_anything_else_is_no_preflight(method: str, headers: dict[str, str]) -> None:
    """It needs the method and both headers (docs/protocol.md 1.9)."""
    assert early(method, "/v2/token/generate", headers) is None


@pytest.mark.parametrize("path", ["/v2/token/generate", "/nowhere", "/ops/healthcheck"])
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize("origin", ["", "a\u0085b", "\udc85"])
def test_an_impossible_origin_is_forbidden(method: str, path: str, origin: str) -> None:
    """The operator's pattern wants one character, and no line end (1.9).

    The last one is how aiohttp gives the byte 0x85 by itself.
    """
    reply = early(method, path, {**ASKED, "Origin": origin})

    if origin == "a\u0085b":
        # In UTF-8 these are two characters to the operator, of which one is a line end.
        assert origin.encode() == b"a\xc2\x85b"
    assert reply == Reply(status=403, body=b"Forbidden")


@pytest.mark.parametrize("origin", ["x", "null", "a\tb", "\u00e9", "\u2028"])
def test_any_other_origin_goes(origin: str) -> None:
    """Whether it is one or not (docs/protocol.md 1.9)."""
    assert early("POST", "/x", {"Origin": origin}) is None


def test_the_origin_comes_back_as_sent() -> None:
    """Every answer says that it hangs on the Origin (docs/protocol.md 1.9)."""
    assert cors_headers("/x", {"Origin": "any Thing"}) == {
        "Vary": "origin",
        "Access-Control-Allow-Origin": "any Thing",
    }
    assert cors_headers("/v2/token/validate", {}) == {"Vary": "origin,origin"}
