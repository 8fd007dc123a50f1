"""What ``uid2 inspect`` prints: a report of plain fields, with opened tokens in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from uid2_async.cli.key_source import KeysKind, kind_of
from uid2_async.errors import KeysUnavailableError, TokenError, TokenFailure
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.protocol.inspection import ValueKind
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.token_codec import (
    CLIENT_SIDE_GENERATED,
    AdvertisingToken,
    open_token,
)
from uid2_async.protocol.token_rules import ClientType, try_decrypt
from uid2_async.protocol.wire import iso

__all__ = ["find_token", "lines", "open_token_into"]

_UNKNOWN: Final = "nothing known"
_TOKEN: Final = ValueKind.ADVERTISING_TOKEN.value
_CLIENTS: Final = {
    KeysKind.SHARING: ClientType.SHARING,
    KeysKind.BIDSTREAM: ClientType.BIDSTREAM,
}


def find_token(report: dict[str, Any], text: str) -> tuple[dict[str, Any], str] | None:
    """Find the advertising token in *text*: itself, or among identity tokens.

    Args:
        report: What :func:`uid2_async.protocol.inspection.describe` made of it.
        text: The value.

    Returns:
        The report of the token and the token, or None where there is none.
    """
    # No token has a percent sign of its own.
    token = unquote(text.strip())
    if "advertising_token" in report:
        report = report["advertising_token"]
        token = IdentityTokens.from_json(_json_of(text)).advertising_token
    return (report, token) if report["kinds"] == [_TOKEN] else None


def _json_of(text: str) -> str:
    """Decode the percent signs that a cookie has put into JSON."""
    text = text.strip()
    return text if text.startswith("{") else unquote(text)


def open_token_into(
    report: dict[str, Any],
    token: str,
    ring: KeyRing,
    *,
    now_ms: int,
    domain: str | None,
    show_uid: bool,
) -> None:
    """Open an advertising token, and add what it says to its report.

    What has expired, or is refused for another reason, is opened nonetheless where the
    keys allow it.

    Args:
        report: The report of the token.
        token: The token.
        ring: The keys.
        now_ms: The time in ms.
        domain: Where the token was seen.
        show_uid: Whether to add the raw UID.
    """
    report["status"] = _judge(token, ring, now_ms, domain)
    try:
        opened = open_token(token, ring.key)
    except TokenError:
        return
    report |= _describe_opened(opened, show_uid=show_uid)


def _judge(token: str, ring: KeyRing, now_ms: int, domain: str | None) -> str:
    """Say in a word how the holder of the keys fares with a token."""
    client = _CLIENTS[kind_of(ring)]
    try:
        found = try_decrypt(token, ring, now_ms, client, domain)
    except KeysUnavailableError:
        return "KEYS_NOT_SYNCED"
    return found.name if isinstance(found, TokenFailure) else "SUCCESS"


def _describe_opened(token: AdvertisingToken, *, show_uid: bool) -> dict[str, Any]:
    """Turn an opened token, judged or not, into fields."""
    created_ms = token.created_ms
    report = {
        "site_key_id": token.site_key_id,
        "site_id": token.site_id,
        "established": iso(token.established_ms),
        "created": None if created_ms is None else iso(created_ms),
        "expires": iso(token.expires_ms),
        "client_side_generated": bool(token.privacy_bits & CLIENT_SIDE_GENERATED),
        "raw_uid": token.raw_uid if show_uid else None,
    }
    return {name: value for name, value in report.items() if value is not None}


def lines(report: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Write a report as lines of ``name: value``; the notes come last."""
    yield f"{indent}what: {' or '.join(report['kinds']) or _UNKNOWN}"
    for name, value in report.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            yield f"{indent}{label}:"
            yield from lines(value, f"{indent}  ")
        elif isinstance(value, bool):
            yield f"{indent}{label}: {'yes' if value else 'no'}"
        elif not isinstance(value, list):
            yield f"{indent}{label}: {value}"
    for note in report["notes"]:
        yield f"{indent}note: {note}"
