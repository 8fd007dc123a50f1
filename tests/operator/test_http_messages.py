"""Request targets and CORS."""

from __future__ import annotations

import attrs
import pytest

from uid2_async.operator import dispatch, http_messages as operator_http_messages
from uid2_async.operator.data import OperatorSettings
from uid2_async.operator.http_messages import (
    HttpReply,
    HttpRequest,
    answer_preflight,
    cors_headers,
)
from uid2_async.protocol.mapping import STATUS_PATH

ASKED = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}


def early(method: str, path: str, headers: dict[str, str]) -> HttpReply | None:
    """Ask what is answered before any endpoint is looked for."""
    return answer_preflight(HttpRequest(method=method, path=path, headers=headers))


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
    assert reply == HttpReply(status=403, body=b"Forbidden")


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


SETTINGS = OperatorSettings()


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/v2/x", "/v2/x"),
        ("//v2///x/", "/v2/x"),
        ("/v2/x//", "/v2/x"),
        ("/", "/"),
        ("//", "/"),
    ],
)
def test_slashes_are_collapsed(path: str, clean: str) -> None:
    """One at the end is tolerated (docs/protocol.md 1.1)."""
    assert operator_http_messages.clean_path(path) == clean


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        (STATUS_PATH, "optout_status_api_enabled"),
        ("/v2/token/client-generate", "client_side_token_generate"),
    ],
)
def test_two_routes_can_be_switched_off(path: str, setting: str) -> None:
    """Then they do not exist (docs/protocol.md 1.9)."""
    off = attrs.evolve(SETTINGS, **{setting: False})
    found = dispatch.find("POST", path, off)

    assert not isinstance(dispatch.find("POST", path, SETTINGS), HttpReply)
    assert isinstance(found, HttpReply)
    assert found.status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v2/key/sharing", "POST"), ("POST", dispatch.HEALTH_PATH, "GET")],
)
def test_a_wrong_method_is_told_the_right_one(
    method: str, path: str, allowed: str
) -> None:
    """405 with Allow and nothing else (docs/protocol.md 1.9)."""
    assert dispatch.find(method, path, SETTINGS) == HttpReply(
        status=405, headers={"Allow": allowed}
    )
