"""CORS as the real operator does it (docs/protocol.md 1.9)."""

from __future__ import annotations

from collections.abc import Mapping

from uid2_async.operator.exchange import Reply
from uid2_async.protocol.tokens import VALIDATE_PATH

__all__ = ["cors_headers", "preflight"]

_METHODS = "GET,POST,OPTIONS"
_HEADERS = (
    "X-UID2-Client-Version,Access-Control-Request-Method,"
    "Access-Control-Allow-Credentials,Access-Control-Allow-Origin,"
    "Access-Control-Allow-Headers,Content-Type"
)


def preflight(method: str, path: str, headers: Mapping[str, str]) -> Reply | None:
    """Answer a preflight request, or return None where this is none."""
    origin = headers.get("Origin")
    asked = headers.get("Access-Control-Request-Method")
    if method != "OPTIONS" or not origin or asked is None:
        return None
    # token/validate has a handler of its own, which allows one header more.
    extra = ",Authorization" if path == VALIDATE_PATH else ""
    return Reply(
        status=204,
        headers={
            "Access-Control-Allow-Origin": origin,
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
