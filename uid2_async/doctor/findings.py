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
class Finding:
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
    outcome: Outcome
    message: str
    hint: str = ""
    unauthorized: bool = False


def ok(check: CheckId, message: str) -> Finding:
    """Return a finding of a check that passed."""
    return Finding(check=check, outcome=Outcome.OK, message=message)


def warning(check: CheckId, message: str, hint: str) -> Finding:
    """Return a finding about something that works, but not as it should."""
    return Finding(check=check, outcome=Outcome.WARNING, message=message, hint=hint)


def failed(
    check: CheckId, message: str, hint: str, *, unauthorized: bool = False
) -> Finding:
    """Return a finding about something that does not work."""
    return Finding(
        check=check,
        outcome=Outcome.FAILED,
        message=message,
        hint=hint,
        unauthorized=unauthorized,
    )


def failed_call(check: CheckId, error: UID2Error) -> Finding:
    """Return a finding about a call that raised *error*."""
    status = error.status if isinstance(error, OperatorError) else 0
    where = [f"POST {error.endpoint}"] if error.endpoint else []
    where += [f"HTTP {status}"] if status else []
    where += [f"trace id {error.trace_id}"] if error.trace_id else []
    call = f" [{', '.join(where)}]" if where else ""
    return failed(
        check,
        f"{error.message}{call}",
        error.hint,
        unauthorized=isinstance(error, AuthError),
    )


def skipped(check: CheckId, message: str) -> Finding:
    """Return a finding of a check that was not run."""
    return Finding(check=check, outcome=Outcome.SKIPPED, message=message)


strip_tracebacks(globals())
