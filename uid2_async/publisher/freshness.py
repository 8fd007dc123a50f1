"""What a publisher learns about held tokens, and what follows from it."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import (
    BadRequestError,
    ExpiredTokenError,
    InputError,
    InvalidTokenError,
    UID2Error,
)
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.models import OptedOut

__all__ = ["Freshness", "Outcome", "report"]

Outcome: TypeAlias = IdentityTokens | OptedOut | UID2Error | None
"""What a refresh gave; None where there was none, or another process makes it."""

# What another refresh of the same tokens cannot mend.
_DEADLY: Final = (ExpiredTokenError, InvalidTokenError)
_UNREFRESHABLE: Final = (BadRequestError, InputError)


@attrs.frozen(kw_only=True)
class Freshness:
    """What :meth:`TokenRefresher.ensure_fresh` found.

    Attributes:
        tokens: The tokens to keep from now on; None if there are none to keep: the
            state is DEAD or OPTED_OUT. Keep tokens that are EXPIRED_REFRESHABLE, but
            do not use them.
        state: Of *tokens*. If DEAD, generate new tokens; if OPTED_OUT, do not.
        changed: Whether the session must be written, since *tokens* are not those that
            were given.
        error: Why a refresh that was due gave nothing, or None.
    """

    tokens: IdentityTokens | None
    state: TokenState
    changed: bool
    error: UID2Error | None = None

    @property
    def advertising_token(self) -> str | None:
        """What may go into the bid stream now, or None."""
        if self.tokens is None or not self.state.usable:
            return None
        return self.tokens.advertising_token


def report(
    given: IdentityTokens, held: IdentityTokens, outcome: Outcome, now: datetime
) -> Freshness:
    """Return the result of a refresh.

    Args:
        given: What the caller holds.
        held: The latest that became of it.
        outcome: What the refresh of *held* gave.
        now: The time of the check, as an aware datetime.
    """
    error = outcome if isinstance(outcome, UID2Error) else None
    if isinstance(outcome, OptedOut):
        return Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=True)
    if isinstance(outcome, IdentityTokens):
        held = outcome
    state = held.state(now)
    if isinstance(error, _DEADLY) or (
        isinstance(error, _UNREFRESHABLE) and not state.usable
    ):
        state = TokenState.DEAD
    if state is TokenState.DEAD:
        return Freshness(tokens=None, state=state, changed=True, error=error)
    return Freshness(tokens=held, state=state, changed=held is not given, error=error)


strip_tracebacks(globals())
