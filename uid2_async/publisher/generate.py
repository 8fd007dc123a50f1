"""Generate tokens at login, without letting the login fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs

from uid2_async._failures import fresh_error
from uid2_async._private import logger
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Monotonic, monotonic_of
from uid2_async.errors import BadRequestError, InputError, UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Identity, InsufficientConsent, OptedOut, as_identity
from uid2_async.protocol.tokens import generate_call

if TYPE_CHECKING:
    from uid2_async.client import UID2Client

__all__ = ["GenerateResult", "InvalidIdentity", "Unavailable", "try_generate"]

WEB_TIMEOUT: Final = 3.0
"""How long a page waits for the operator by default, in seconds, with retries."""

_PAUSE: Final = 5.0


@attrs.frozen
class InvalidIdentity:
    """Not a valid email address, phone number or hash. Nothing was sent.

    Attributes:
        error: Why it is not valid.
    """

    error: InputError


@attrs.frozen
class Unavailable:
    """There are no tokens now. Ask again on a later page.

    Attributes:
        error: Why there are none.
    """

    error: Exception


GenerateResult: TypeAlias = (
    IdentityTokens | OptedOut | InsufficientConsent | InvalidIdentity | Unavailable
)
"""The result of :func:`try_generate`. Store only tokens and opt-outs."""


async def try_generate(
    client: UID2Client,
    identity: Identity | str,
    *,
    tcf_consent_string: str | None = None,
    timeout: float = WEB_TIMEOUT,
) -> GenerateResult:
    """Generate tokens for one person, without ever raising an error.

    Use it for logins and pages, which must not fail or wait because of the operator. If
    the operator cannot be reached, is too slow or rejects the credentials, one warning
    is logged, without the identity. For the next 5 seconds, calls with the same client
    return Unavailable immediately. After that, one call at a time asks again, until one
    succeeds.

    Example:
        >>> reply = await try_generate(client, "user@example.com")
        >>> if isinstance(reply, IdentityTokens):
        ...     session = {"uid2": reply.to_dict()}

    Args:
        client: The client that asks the operator.
        identity: An email address, a phone number or a hash of one.
        tcf_consent_string: The TCF v2 consent string, which EUID operators check.
        timeout: How long the call may take, including retries, in seconds.

    Returns:
        Tokens; or OptedOut or InsufficientConsent; or InvalidIdentity or Unavailable,
        with the error.
    """
    breaker = _breakers.get(client)
    if breaker is None:
        breaker = _breakers[client] = _CircuitBreaker(monotonic_of(None, None))
    refusal = breaker.enter()
    try:
        if refusal is not None:
            # A mistyped identity must be corrected now, even without an operator.
            generate_call(as_identity(identity))
            return Unavailable(fresh_error(refusal))
        reply = await client.generate_token(
            identity, tcf_consent_string=tcf_consent_string, timeout=timeout
        )
    except InputError as error:
        return InvalidIdentity(fresh_error(error))
    except Exception as error:  # noqa: BLE001 - an error in a hook must not fail a login
        if not isinstance(error, UID2Error):  # the client logs its own
            logger.warning("No tokens generated: %s", type(error).__name__)
        if not isinstance(error, BadRequestError):  # of this one request only
            breaker.open(fresh_error(error))
        return Unavailable(fresh_error(error))
    finally:
        if refusal is None:
            breaker.leave()
    breaker.close()
    return reply


class _CircuitBreaker:
    """Blocks calls for a few seconds after a failure, then allows one at a time."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._now = monotonic
        self._error: Exception | None = None
        self._until = 0.0
        self._probing = False

    def enter(self) -> Exception | None:
        """Return None if the caller may make a call, or else the last error."""
        if self._error is None:
            return None
        if self._probing or self._now() < self._until:
            return self._error
        self._probing = True
        return None

    def leave(self) -> None:
        self._probing = False

    def open(self, error: Exception) -> None:
        """Block calls during the pause."""
        self._error, self._until = error, self._now() + _PAUSE

    def close(self) -> None:
        self._error = None


def close_circuit_breakers() -> None:
    """Reset the circuit breakers of all clients. For tests."""
    for breaker in list(_breakers.values()):
        breaker.close()


_breakers: Final[WeakKeyDictionary[UID2Client, _CircuitBreaker]] = WeakKeyDictionary()


strip_tracebacks(globals())
