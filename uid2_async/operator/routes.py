"""Which path leads where, and who may go there (docs/protocol.md 2)."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from uid2_async.operator.endpoints import keys, maps, tokens
from uid2_async.operator.exchange import (
    Reply,
    bad_request,
    no_method,
    not_found,
    unrooted,
)
from uid2_async.operator.settings import Settings
from uid2_async.operator.world import Question, World
from uid2_async.protocol.buckets import BUCKETS_PATH
from uid2_async.protocol.client_side import CLIENT_GENERATE_PATH
from uid2_async.protocol.identity import MAP_V2_PATH, MAP_V3_PATH
from uid2_async.protocol.keys import (
    BIDSTREAM_PATH,
    LATEST_PATH,
    SHARING_PATH,
)
from uid2_async.protocol.optout import STATUS_PATH
from uid2_async.protocol.tokens import (
    GENERATE_PATH,
    LOGOUT_PATH,
    REFRESH_PATH,
    VALIDATE_PATH,
)

__all__ = [
    "HEALTH_PATH",
    "PATHS",
    "Endpoint",
    "Sealed",
    "clean_path",
    "find",
    "read_target",
]

HEALTH_PATH: Final = "/ops/healthcheck"

_ORIGIN = re.compile(r"[^/][^?]*?://[^/?]*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


@attrs.frozen
class Sealed:
    """An endpoint behind an API key, with sealed requests and replies.

    Attributes:
        handle: Turns an opened request into the reply's JSON.
        roles: Any one of them is enough.
    """

    handle: Callable[[World, Question], bytes]
    roles: frozenset[str]


Endpoint: TypeAlias = Sealed | str
"""A sealed endpoint, or the path of one of the three others."""


def _sealed(handle: Callable[[World, Question], bytes], *roles: str) -> Sealed:
    return Sealed(handle, frozenset(roles))


_SEALED: Final = {
    GENERATE_PATH: _sealed(tokens.generate, "GENERATOR"),
    VALIDATE_PATH: _sealed(tokens.validate, "GENERATOR"),
    LOGOUT_PATH: _sealed(tokens.log_out, "OPTOUT"),
    BUCKETS_PATH: _sealed(maps.buckets, "MAPPER"),
    MAP_V2_PATH: _sealed(maps.map_v2, "MAPPER"),
    MAP_V3_PATH: _sealed(maps.map_v3, "MAPPER"),
    STATUS_PATH: _sealed(maps.opt_out_status, "MAPPER", "SHARER", "ID_READER"),
    SHARING_PATH: _sealed(keys.sharing_keys, "SHARER", "ID_READER"),
    BIDSTREAM_PATH: _sealed(keys.bidstream_keys, "ID_READER"),
    LATEST_PATH: _sealed(keys.latest_keys, "ID_READER"),
}


PATHS: Final = (*_SEALED, REFRESH_PATH, CLIENT_GENERATE_PATH)
"""All that can be called by POST."""


def read_target(target: str) -> tuple[str, Reply | None]:
    """Read the target of a request: its path, and what is wrong with it.

    Args:
        target: What stands in the request line between method and version.

    Returns:
        The path, cleaned, and None; or the path as it is, and the refusal.
    """
    path = _ORIGIN.sub("", target, count=1) if target[:1] != "/" else target
    path = path.partition("?")[0] or ("/" if path != target else "")
    if path and path[0] != "/":
        return path, unrooted()
    if not path or _BAD_ESCAPE.search(path):
        return path, bad_request()
    return clean_path(path), None


def clean_path(path: str) -> str:
    """Decode what need not be escaped, and take out empty and dotted segments.

    So does RFC 3986 (6.2.2), except for empty segments and the slash at the end.
    """
    segments: list[str] = []
    for segment in _ESCAPE.sub(_unescape, path).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return "/" + "/".join(segments)


def _unescape(escape: re.Match[str]) -> str:
    """Decode one escape, if it stands for what need not be escaped."""
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0]


def find(method: str, path: str, settings: Settings) -> Endpoint | Reply:
    """Find the endpoint of a cleaned *path*, or answer 404 or 405."""
    if path == HEALTH_PATH:
        return path if method == "GET" else no_method("GET")
    endpoint = _endpoint(path, settings)
    if endpoint is None:
        return not_found()
    return endpoint if method == "POST" else no_method("POST")


def _endpoint(path: str, settings: Settings) -> Endpoint | None:
    """Find what *path* leads to with these settings."""
    if path == STATUS_PATH and not settings.optout_status_api_enabled:
        return None
    if path == CLIENT_GENERATE_PATH:
        return path if settings.client_side_token_generate else None
    return path if path == REFRESH_PATH else _SEALED.get(path)
