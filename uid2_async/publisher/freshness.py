"""The result of a check or refresh of identity tokens."""

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
"""The result of a refresh. None if there was none, or another process runs it."""

# Errors that another refresh of the same tokens cannot fix.
_DEADLY: Final = (ExpiredTokenError, InvalidTokenError)
_UNREFRESHABLE: Final = (BadRequestError, InputError)


@attrs.frozen(kw_only=True)
class Freshness:
    """The result of :meth:`TokenRefresher.ensure_fresh`.

    Attributes:
        tokens: The tokens to store, or None if the state is DEAD or OPTED_OUT. Store
            tokens that are EXPIRED_REFRESHABLE, but do not use them.
        state: The state of *tokens*. If it is DEAD, generate new tokens. If it is
            OPTED_OUT, do not.
        changed: Whether the session must be updated, because *tokens* differ from those
            that were passed.
        error: Why a due refresh failed, or None.
    """

    tokens: IdentityTokens | None
    state: TokenState
    changed: bool
    error: UID2Error | None = None

    @property
    def advertising_token(self) -> str | None:
        """The token to send to the bidstream, or None if none is usable now."""
        if self.tokens is None or not self.state.usable:
            return None
        return self.tokens.advertising_token


def report(
    given: IdentityTokens, held: IdentityTokens, outcome: Outcome, now: datetime
) -> Freshness:
    """Return the result of a refresh.

    Args:
        given: The caller's tokens.
        held: The latest tokens that were obtained for *given*.
        outcome: The result of refreshing *held*.
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
