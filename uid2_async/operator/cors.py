"""CORS as the real operator does it (docs/protocol.md 1.9)."""

from __future__ import annotations

from collections.abc import Mapping

from uid2_async.operator.exchange import Reply, Request
from uid2_async.protocol.tokens import VALIDATE_PATH

__all__ = ["answer_early", "cors_headers"]

_METHODS = "GET,POST,OPTIONS"
_HEADERS = (
    "X-UID2-Client-Version,Access-Control-Request-Method,"
    "Access-Control-Allow-Credentials,Access-Control-Allow-Origin,"
    "Access-Control-Allow-Headers,Content-Type"
)


# A line end of Java's regular expressions, on which the operator's pattern for origins
# does not match.
_NEXT_LINE = "\x85"


def answer_early(request: Request) -> Reply | None:
    """Answer a preflight request, or one with an impossible Origin; else give None.

    So it is with any method and path, whether there is such an endpoint or not.
    """
    origin = request.header("Origin")
    if origin is None:
        return None
    if not origin or _NEXT_LINE in origin:
        return Reply(status=403, body=b"Forbidden")
    asked = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or asked is None:
        return None
    # token/validate has a handler of its own, which allows one header more.
    extra = ",Authorization" if request.path == VALIDATE_PATH else ""
    return Reply(
        status=204,
        headers={
            "Access-Control-Allow-Origin": request.headers["Origin"],
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS + extra,
        },
    )


def cors_headers(path: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Make the headers of every answer but that to a preflight request."""
    # On token/validate two handlers run, and each adds its word.
    found = {"Vary": "origin,origin" if path == VALIDATE_PATH else "origin"}
    origin = headers.get("Origin")
    if origin:
        found["Access-Control-Allow-Origin"] = origin
    return found
