"""The result of each check."""

from __future__ import annotations

from enum import StrEnum

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import AuthError, OperatorError, UID2Error


class CheckId(StrEnum):
    """The checks, in order. The value is the name in the output."""

    SETTINGS = "settings"
    BASE_URL = "base URL"
    API_KEY_FORM = "API key form"
    CLIENT_SECRET_FORM = "client secret form"  # noqa: S105 - a name, not a secret
    DNS = "DNS"
    CONNECTION = "connection"
    TLS = "TLS"
    OPERATOR = "operator"
    API_KEY = "API key"
    ROLES = "roles"
    CLIENT_SECRET = "client secret"  # noqa: S105 - as above
    CLOCK = "clock"
    TEST_IDENTITIES = "test identities"
    KEYS = "keys"
    LATENCY = "latency"


class Outcome(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@attrs.frozen(kw_only=True)
class Verdict:
    """What one check found. It contains no key, secret, token or UID."""

    outcome: Outcome
    message: str
    hint: str = ""
    unauthorized: bool = False


@attrs.frozen(kw_only=True)
class Finding(Verdict):
    """The result of one check. It contains no key, secret, token or UID.

    Attributes:
        check: The check.
        outcome: The outcome of the check.
        message: What was found, as a sentence.
        hint: How to fix it, or an empty string.
        unauthorized: Whether the check failed because the key or secret was not
            accepted.
    """

    check: CheckId


def ok(message: str) -> Verdict:
    """Return that a check passed."""
    return Verdict(outcome=Outcome.OK, message=message)


def warning(message: str, hint: str) -> Verdict:
    """Return that something works, but not as it should."""
    return Verdict(outcome=Outcome.WARNING, message=message, hint=hint)


def failed(message: str, hint: str, *, unauthorized: bool = False) -> Verdict:
    """Return that something does not work."""
    return Verdict(
        outcome=Outcome.FAILED, message=message, hint=hint, unauthorized=unauthorized
    )


def failed_call(error: UID2Error) -> Verdict:
    """Return that a call raised *error*."""
    status = error.status if isinstance(error, OperatorError) else 0
    where = [f"POST {error.endpoint}"] if error.endpoint else []
    where += [f"HTTP {status}"] if status else []
    where += [f"trace id {error.trace_id}"] if error.trace_id else []
    call = f" [{', '.join(where)}]" if where else ""
    is_auth = isinstance(error, AuthError)
    return failed(f"{error.message}{call}", error.hint, unauthorized=is_auth)


def skipped(message: str) -> Verdict:
    """Return that a check was not run."""
    return Verdict(outcome=Outcome.SKIPPED, message=message)


strip_tracebacks(globals())
