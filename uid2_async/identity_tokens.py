"""Identity tokens: what a publisher holds for one person, and how far it has aged.

Instants are aware UTC datetimes inside and ms at the edge. No repr shows a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import attrs
import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import datetime_from_ms, ms_from_datetime

__all__ = ["IdentityTokens", "TokenState", "read_object"]


class TokenState(StrEnum):
    """The state of identity tokens, which says what may be done with them."""

    FRESH = "fresh"
    """Use them."""

    DUE = "due"
    """Use them, and refresh them."""

    EXPIRED_REFRESHABLE = "expired, refreshable"
    """Do not use them; a refresh gives new ones."""

    DEAD = "dead"
    """Drop them; only a new token/generate helps."""

    OPTED_OUT = "opted out"
    """Drop them and do not ask again; :meth:`IdentityTokens.state` never says it, since
    only the operator knows."""

    @property
    def usable(self) -> bool:
        """Whether the advertising token may go into the bid stream."""
        return self in {TokenState.FRESH, TokenState.DUE}


def _no_extra() -> Mapping[str, Any]:
    return MappingProxyType({})


@attrs.frozen(kw_only=True)
class IdentityTokens:
    """The tokens of a person, from token/generate or token/refresh.

    Source: docs/protocol.md 2.1.

    Example:
        >>> stored = tokens.to_json()
        >>> IdentityTokens.from_json(stored) == tokens
        True

    Attributes:
        advertising_token: The token for bid requests.
        refresh_token: The token for token/refresh; 388 characters from current
            operators.
        refresh_response_key: Base64 of the key that decrypts the next refresh reply;
            None from operators without encryption.
        identity_expires: When the advertising token expires.
        refresh_from: From when on it should be refreshed.
        refresh_expires: When the refresh token expires.
        extra: Further keys of the JSON from which they were read, unchanged.
    """

    advertising_token: str = attrs.field(repr=False)
    refresh_token: str = attrs.field(repr=False)
    refresh_response_key: str | None = attrs.field(repr=False)
    identity_expires: datetime
    refresh_from: datetime
    refresh_expires: datetime
    extra: Mapping[str, Any] = attrs.field(factory=_no_extra, repr=False, hash=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> IdentityTokens:
        """Read the JSON object that :meth:`to_json` writes and every UID2 SDK stores.

        Args:
            text: A JSON object with times in ms; keys that are not known are kept.

        Raises:
            InputError: If it is no JSON object, or a field is missing or of the wrong
                type; the message names the field, never its value.
        """
        return cls.from_dict(read_object(text))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> IdentityTokens:
        """Read the same object as a mapping, as :meth:`to_dict` makes it.

        Args:
            fields: The object, with times in ms; keys that are not known are kept.

        Raises:
            InputError: As for :meth:`from_json`.
        """
        if not isinstance(fields, Mapping):
            raise _no_object()
        rest = dict(fields)
        key = rest.pop("refresh_response_key", None)
        if not isinstance(key, str | None):
            raise InputError("Identity tokens: refresh_response_key is not a str.")
        return cls(
            advertising_token=_take(rest, "advertising_token", str),
            refresh_token=_take(rest, "refresh_token", str),
            refresh_response_key=key,
            identity_expires=_take_time(rest, "identity_expires"),
            refresh_from=_take_time(rest, "refresh_from"),
            refresh_expires=_take_time(rest, "refresh_expires"),
            extra=MappingProxyType(rest),
        )

    def to_json(self) -> str:
        """Write a JSON object with times in ms, in the order of the operator's reply.

        It holds tokens: keep it where only the user's own session can read it.
        """
        return msgspec.json.encode(self.to_dict()).decode()

    def to_dict(self) -> dict[str, Any]:
        """Return the object that :meth:`to_json` writes, including the tokens."""
        fields: dict[str, Any] = {
            "advertising_token": self.advertising_token,
            "refresh_token": self.refresh_token,
            "identity_expires": ms_from_datetime(self.identity_expires),
            "refresh_expires": ms_from_datetime(self.refresh_expires),
            "refresh_from": ms_from_datetime(self.refresh_from),
        }
        if self.refresh_response_key is not None:
            fields["refresh_response_key"] = self.refresh_response_key
        return fields | dict(self.extra)

    def state(self, now: datetime) -> TokenState:
        """Return their state. At the very time of an expiry they count as expired.

        Args:
            now: An aware datetime. Where a clock may be off, pass a later time rather
                than an earlier one: no doubt may make a token live longer.

        Returns:
            Any state but OPTED_OUT.

        Raises:
            InputError: If *now* is naive.
        """
        # Refuses a naive one, which could not be compared.
        ms_from_datetime(now)
        if now >= self.refresh_expires:
            return TokenState.DEAD
        if now >= self.identity_expires:
            return TokenState.EXPIRED_REFRESHABLE
        if now >= self.refresh_from:
            return TokenState.DUE
        return TokenState.FRESH


def read_object(text: str | bytes) -> dict[str, Any]:
    """Decode a JSON object that anybody may have sent, keeping it out of errors.

    Raises:
        InputError: If it is something else, of another type, or not UTF-8.
    """
    # Frameworks decode cookies to str with lone surrogates, which UTF-8 cannot encode.
    refusals = (msgspec.MsgspecError, RecursionError, TypeError, UnicodeError)
    with suppress(*refusals):
        return msgspec.json.decode(text, type=dict[str, Any])
    raise _no_object()


def _no_object() -> InputError:
    """Return the error for what is not a JSON object."""
    return InputError(
        "Identity tokens are not a JSON object.",
        hint="Pass the result of to_json(), to_dict(), to_session() or to_cookie().",
    )


def _take(fields: dict[str, Any], name: str, kind: type) -> Any:
    """Take the field *name* out of *fields*, which must be of *kind* exactly."""
    value = fields.pop(name, None)
    if type(value) is not kind:
        what = "missing" if value is None else f"no {kind.__name__}"
        raise InputError(f"Identity tokens: {name} is {what}.")
    return value


def _take_time(fields: dict[str, Any], name: str) -> datetime:
    """Take an instant in ms out of *fields*."""
    try:
        return datetime_from_ms(_take(fields, name, int))
    except OverflowError:
        pass
    raise InputError(f"Identity tokens: {name} is not a time in milliseconds.")


strip_tracebacks(globals())
