"""Identity tokens: what a publisher stores for one person, and their state.

Times are aware UTC datetimes in Python and ms in JSON. No repr contains a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final

import msgspec

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import datetime_from_ms, ms_from_datetime


class TokenState(StrEnum):
    """The state of identity tokens, which determines what to do with them."""

    FRESH = "fresh"
    """Use them."""

    DUE = "due"
    """Use them, and refresh them."""

    EXPIRED_REFRESHABLE = "expired, refreshable"
    """Do not use them. A refresh returns new ones."""

    DEAD = "dead"
    """Discard them. Only a new token/generate helps."""

    OPTED_OUT = "opted out"
    """Discard them and do not ask again.

    :meth:`IdentityTokens.state` never returns this, because only the operator knows it.
    """

    @property
    def usable(self) -> bool:
        """Whether the advertising token may be sent to the bidstream."""
        return self in {TokenState.FRESH, TokenState.DUE}


_NO_EXTRA: Final[Mapping[str, Any]] = MappingProxyType({})


class IdentityTokens(RedactedRepr, frozen=True, kw_only=True, weakref=True):
    """The result of token/generate and token/refresh (docs/protocol.md 2.1).

    Example:
        >>> stored = tokens.to_json()
        >>> IdentityTokens.from_json(stored) == tokens
        True

    Attributes:
        advertising_token: The token to send to the bidstream.
        refresh_token: The token for token/refresh. It has 388 characters from current
            operators.
        refresh_response_key: The key that decrypts the next refresh reply, in base64.
            None from operators that do not encrypt it.
        identity_expires: When the advertising token expires.
        refresh_from: When it should be refreshed.
        refresh_expires: When the refresh token expires.
        extra: Unknown keys of the JSON object that the tokens were read from.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = (
        "identity_expires",
        "refresh_from",
        "refresh_expires",
    )

    advertising_token: str
    refresh_token: str
    refresh_response_key: str | None
    identity_expires: datetime
    refresh_from: datetime
    refresh_expires: datetime
    extra: Mapping[str, Any] = _NO_EXTRA

    def __hash__(self) -> int:
        """Hash everything except *extra*, which can be of any type."""
        return hash((self.advertising_token, self.refresh_token, self.refresh_from))

    @classmethod
    def from_json(cls, text: str | bytes) -> IdentityTokens:
        """Parse the JSON object that :meth:`to_json` returns and every UID2 SDK stores.

        Args:
            text: A JSON object with times in ms since the Unix epoch. Unknown keys are
                preserved.

        Raises:
            InputError: If *text* is not a JSON object, or a field is missing or of the
                wrong type. The message contains the name of the field, but not its
                value.
        """
        return cls.from_dict(read_object(text))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> IdentityTokens:
        """Read the same object as a mapping, as returned by :meth:`to_dict`.

        Args:
            fields: The object, with times in ms since the Unix epoch. Unknown keys are
                preserved.

        Raises:
            InputError: As in :meth:`from_json`.
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
        """Return a JSON object with times in ms, in the order of the operator's reply.

        It contains tokens. Store it where only the user's own session can read it.
        """
        return msgspec.json.encode(self.to_dict()).decode()

    def to_dict(self) -> dict[str, Any]:
        """Return the object that :meth:`to_json` encodes. It contains tokens, too."""
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
        """Return their state. A time of expiry counts as expired.

        Args:
            now: An aware datetime. If a clock may be wrong, pass a later time rather
                than an earlier one, so that no token is used after its expiry.

        Returns:
            Any state except OPTED_OUT.

        Raises:
            InputError: If *now* is naive.
        """
        if now.tzinfo is None:
            ms_from_datetime(now)  # raises, because it cannot be compared
        if now >= self.refresh_expires:
            return TokenState.DEAD
        if now >= self.identity_expires:
            return TokenState.EXPIRED_REFRESHABLE
        if now >= self.refresh_from:
            return TokenState.DUE
        return TokenState.FRESH


def read_object(text: str | bytes) -> dict[str, Any]:
    """Decode a JSON object from an untrusted source, without quoting it in errors.

    Raises:
        InputError: If it is not a JSON object, not UTF-8, or neither str nor bytes.
    """
    # Frameworks decode cookies to str with lone surrogates, which UTF-8 cannot
    # encode.
    refusals = (msgspec.MsgspecError, RecursionError, TypeError, UnicodeError)
    with suppress(*refusals):
        return msgspec.json.decode(text, type=dict[str, Any])
    raise _no_object()


def _no_object() -> InputError:
    """Return the error for a value that is not a JSON object."""
    return InputError(
        "Identity tokens are not a JSON object.",
        hint="Pass the result of to_json(), to_dict(), to_session() or to_cookie().",
    )


def _take(fields: dict[str, Any], name: str, kind: type) -> Any:
    """Remove *name* from *fields* and return it. Its type must be exactly *kind*."""
    value = fields.pop(name, None)
    if type(value) is not kind:
        what = "missing" if value is None else f"not of type {kind.__name__}"
        raise InputError(f"Identity tokens: {name} is {what}.")
    return value


def _take_time(fields: dict[str, Any], name: str) -> datetime:
    """Remove a time in ms from *fields* and return it as a datetime."""
    try:
        return datetime_from_ms(_take(fields, name, int))
    except OverflowError:
        pass
    raise InputError(f"Identity tokens: {name} is not a time in ms.")


strip_tracebacks(globals())
