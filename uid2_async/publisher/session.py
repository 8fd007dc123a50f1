"""Identity tokens, or the mark that there must be none, as a session stores them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import system_clock
from uid2_async.identity_tokens import IdentityTokens, read_object
from uid2_async.models import OptedOut, ms_from_datetime

__all__ = ["OPT_OUT_KEPT", "from_session", "to_session"]

OPT_OUT_KEPT: Final = timedelta(hours=72)
"""How long an opt-out is remembered: as long as the official web SDK does."""


def to_session(
    identity: IdentityTokens | OptedOut, *, now: datetime | None = None
) -> dict[str, Any]:
    """Make a JSON object for the user's session, with times in ms.

    It holds everything that a refresh needs: keep it on the server, or in a cookie that
    is encrypted and HttpOnly.

    Args:
        identity: The tokens; or an opt-out, which becomes the web SDK's marker
            ``{"status": "optout", ...}``, good for 72 hours.
        now: When the 72 hours begin, as an aware datetime; now by default.

    Raises:
        InputError: If *now* is naive.
    """
    if isinstance(identity, IdentityTokens):
        return identity.to_dict()
    ends = ms_from_datetime((now or system_clock()) + OPT_OUT_KEPT)
    return {"status": "optout", "identity_expires": ends, "refresh_expires": ends}


def from_session(
    stored: Mapping[str, Any] | str | bytes | None, *, now: datetime | None = None
) -> IdentityTokens | OptedOut | None:
    """Read what :func:`to_session` or an official SDK stored.

    Args:
        stored: The object, or its JSON; None or empty if there is none.
        now: The time at which an opt-out is checked, as an aware datetime; now by
            default.

    Returns:
        The tokens, of whatever age and with unknown keys kept; or OptedOut, and then do
        not ask for this person; or None where nothing is stored or an opt-out is 72
        hours old.

    Raises:
        InputError: If it is damaged; the message names the field, never its value.
    """
    if not stored:
        return None
    fields = stored if isinstance(stored, Mapping) else read_object(stored)
    # First, so that an opt-out counts whatever else is stored with it.
    if fields.get("status") != "optout":
        return IdentityTokens.from_dict(fields)
    ends = fields.get("refresh_expires")
    ended = type(ends) is int and ends <= ms_from_datetime(now or system_clock())
    return None if ended else OptedOut()


strip_tracebacks(globals())
