"""What a pasted value is, and what this operator's keys and salts say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from uid2_async.errors import InputError, TokenError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Email, EmailHash, Identity, Phone, PhoneHash
from uid2_async.operator.console.reading import refresh_fields
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.minting import (
    WRAPPED_CHARS,
    RefreshTokenError,
    open_refresh_token,
    unwrap_refresh_token,
)
from uid2_async.protocol.inspection import ValueKind, describe, inspect_value
from uid2_async.protocol.token_codec import CLIENT_SIDE_GENERATED, open_token
from uid2_async.protocol.wire import iso

__all__ = ["inspect", "look_up"]


_Opener: TypeAlias = Callable[[DataIndex, str, int], dict[str, Any]]


def inspect(index: DataIndex, value: str, *, now_ms: int) -> dict[str, Any]:
    """Describe *value*; tokens are opened and people looked up where that is possible.

    Returns:
        The fields of :func:`uid2_async.protocol.inspection.describe`, and with
        ``opened`` what only this operator can tell.
    """
    value = _unpacked(value)
    report = describe(inspect_value(value, now_ms=now_ms))
    text = value.strip()
    text = text if text.startswith("{") else unquote(text)
    parts = [name for name, part in report.items() if isinstance(part, dict)]
    if parts:
        tokens = IdentityTokens.from_json(text)
        for name in parts:
            _add_opened(report[name], getattr(tokens, name), index, now_ms)
    else:
        _add_opened(report, text, index, now_ms)
    return report


def _unpacked(value: str) -> str:
    """Take identity tokens out of the reply around them, as copied from a call."""
    try:
        body = json.loads(value)["body"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return value
    return json.dumps(body) if isinstance(body, dict) else value


def _add_opened(
    report: dict[str, Any], text: str, index: DataIndex, now_ms: int
) -> None:
    """Add what the operator itself knows to the report of one value."""
    for kind in report["kinds"]:
        opener = _OPENERS.get(kind)
        found = None if opener is None else opener(index, text, now_ms)
        if found:
            report["opened"] = {**report.get("opened", {}), **found}


def _open_token(index: DataIndex, text: str, now_ms: int) -> dict[str, Any]:
    """Open an advertising token."""
    try:
        token = open_token(text, index.keysets.key)
    except TokenError:
        return {"opened": "no: it is not sealed with keys of this sandbox"}
    created = token.created_ms
    return {
        "site_id": token.site_id,
        "established": iso(token.established_ms),
        **({} if created is None else {"created": iso(created)}),
        "expires": iso(token.expires_ms),
        "expired": token.expires_ms < now_ms,
        "client_side_generated": bool(token.privacy_bits & CLIENT_SIDE_GENERATED),
        "raw_uid": token.raw_uid,
    }


def _open_refresh(index: DataIndex, text: str, now_ms: int) -> dict[str, Any]:
    """Open a refresh token."""
    try:
        if len(text) == WRAPPED_CHARS:
            text, _ = unwrap_refresh_token(text, index.keysets.key)
        token = open_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        return {"opened": f"no: {error.reason.value}"}
    out = index.opt_outs.is_out_on_refresh(token.first_level_hash, token.identity_type)
    fields = refresh_fields(token)
    return {**fields, "expired": token.expires_ms < now_ms, "opted_out": out}


def _look_up_uid(index: DataIndex, text: str, _now_ms: int) -> dict[str, Any]:
    """Tell whether a raw UID is known to be opted out."""
    since = index.opt_outs.since_ms(text)
    return {} if since is None else {"opted_out_since": iso(since)}


def _reader(
    *makers: type[Email | Phone | EmailHash | PhoneHash],
) -> _Opener:
    """Make a reader of identities that looks each up; several where it is ambiguous."""

    def read(index: DataIndex, text: str, now_ms: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for maker in makers:
            fields = look_up(index, maker(text), now_ms=now_ms)
            prefix = f"as_{maker.kind}_" if len(makers) > 1 else ""
            found |= {f"{prefix}{name}": value for name, value in fields.items()}
        return found

    return read


def look_up(index: DataIndex, identity: Identity, *, now_ms: int) -> dict[str, Any]:
    """Say what the operator would map an identity to; empty where it is not valid."""
    try:
        flh = index.first_level_hash(identity)
    except InputError:
        return {}
    kind = identity.identity_type
    return {
        "raw_uid": index.buckets.raw_uid(flh, kind, now_ms),
        "opted_out": index.opt_outs.is_out(flh, kind),
    }


_OPENERS: Final[Mapping[str, _Opener]] = {
    ValueKind.ADVERTISING_TOKEN: _open_token,
    ValueKind.REFRESH_TOKEN: _open_refresh,
    ValueKind.RAW_UID: _look_up_uid,
    ValueKind.EMAIL: _reader(Email),
    ValueKind.PHONE: _reader(Phone),
    ValueKind.HASH: _reader(EmailHash, PhoneHash),
}
