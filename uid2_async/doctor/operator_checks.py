"""Checks of what an operator answered: pure functions of the answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

from uid2_async._traceback import strip_tracebacks
from uid2_async.doctor.findings import (
    Check,
    Finding,
    failed,
    failure,
    ok,
    skipped,
    warning,
)
from uid2_async.doctor.operator_probes import Answer, Question
from uid2_async.errors import (
    AuthError,
    BadRequestError,
    ClockSkewError,
    EnvelopeError,
    InvalidTokenError,
    OperatorError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
    UID2Error,
)
from uid2_async.models import IdentityMap, IdentityScope, OptedOut, UnmappedReason
from uid2_async.protocol.keyring import KeyRing

__all__ = [
    "Role",
    "check_api_key",
    "check_client_secret",
    "check_clock",
    "check_keys",
    "check_roles",
    "check_test_identities",
    "find_roles",
]


class Role(StrEnum):
    """What an API key may do (docs/protocol.md 1.8)."""

    GENERATOR = "GENERATOR"
    MAPPER = "MAPPER"
    SHARER = "SHARER"
    ID_READER = "ID_READER"
    OPTOUT = "OPTOUT"


Answers = Mapping[Question, Answer]

_UNAUTHORIZED: Final = 401
_PORTAL: Final = "in the UID2 portal, or with whoever runs the operator"


def _permitted(answer: Answer | None) -> bool | None:
    """Tell whether an answer shows that the key may ask; None where it does not tell.

    The role is judged before envelope and content (docs/protocol.md 1.6), so that any
    objection to those shows that the role is there.
    """
    match answer.error if answer is not None else UID2Error():
        case None | EnvelopeError() | ProtocolError(unparseable_http=False):
            return True
        case AuthError(status=401) as error:
            # A missing role has no message; a missing service link has one.
            return error.message.startswith("The operator said")
        case OperatorError(status=400 | 500):
            return True
        case _:
            return None


def find_roles(answers: Answers) -> dict[Role, bool | None]:
    """Tell for each role whether the key has it; None where that remains open."""
    reads = _permitted(answers.get(Question.BIDSTREAM))
    shares = _permitted(answers.get(Question.SHARING))
    ring = answers.get(Question.SHARING, Answer()).value
    if isinstance(ring, KeyRing):
        # Only sharers are told how long their tokens may live (docs/protocol.md 6.1).
        shares = ring.max_sharing_lifetime_seconds is not None
    elif shares and reads is not False:
        shares = None
    return {
        Role.GENERATOR: _permitted(answers.get(Question.GENERATE)),
        Role.MAPPER: _permitted(answers.get(Question.MAP)),
        Role.SHARER: shares,
        Role.ID_READER: reads,
        Role.OPTOUT: _permitted(answers.get(Question.LOGOUT)),
    }


def check_api_key(answers: Answers) -> Finding:
    """Judge whether the operator accepts the API key for anything."""
    check = Check.API_KEY
    asked = [one for one in Question if one is not Question.REFRESH]
    if any(_permitted(answers.get(one)) for one in asked):
        return ok(check, "The operator accepts it.")
    trouble = _find_trouble(answers)
    if trouble is not None:
        return failure(check, trouble)
    if _is_known(answers.get(Question.REFRESH)):
        return failed(
            check,
            "The operator knows the key, but it is disabled or has no role.",
            f"Have it enabled, with the roles that you need, {_PORTAL}.",
            unauthorized=True,
        )
    return failed(
        check,
        "The operator does not know the key (HTTP 401).",
        "Check that all of it was copied, that it was made for this environment, and "
        f"that it has not been replaced, {_PORTAL}.",
        unauthorized=True,
    )


def _is_known(answer: Answer | None) -> bool:
    """Tell whether a refresh was refused as to a known caller (protocol.md 2.2)."""
    error = None if answer is None else answer.error
    return isinstance(error, InvalidTokenError) and error.code == "invalid_token"


def check_roles(answers: Answers, needed: Collection[Role]) -> Finding:
    """Judge which roles the key has.

    Args:
        answers: What the operator answered.
        needed: Those that it must have.
    """
    check = Check.ROLES
    roles = find_roles(answers)
    message = f"It has {_list(roles, has=True)}; it lacks {_list(roles, has=False)}."
    missing = [role for role in needed if roles[role] is False]
    if missing:
        return failed(
            check,
            f"{message} Needed: {', '.join(missing)}.",
            f"Have the role added to the key {_PORTAL}.",
            unauthorized=True,
        )
    unclear = [role for role, has in roles.items() if has is None]
    if not unclear:
        return ok(check, message)
    message = f"{message} Not to be told: {', '.join(unclear)}."
    trouble = _find_trouble(answers)
    if isinstance(trouble, TransportError | ServerError | RateLimitError):
        return failed(check, f"{message} {trouble.message}", trouble.hint)
    if {*needed} & {*unclear}:
        return failed(check, message, "Look at the checks below; then run this again.")
    if trouble is None:
        return warning(
            check, message, "Set right what fails below; then run this again."
        )
    return warning(check, message, "Update the operator, if it lacks these endpoints.")


def _find_trouble(answers: Answers) -> UID2Error | None:
    """Find the first error that tells nothing of a role."""
    for answer in answers.values():
        if answer.error is not None and _permitted(answer) is None:
            return answer.error
    return None


def _list(roles: Mapping[Role, bool | None], *, has: bool) -> str:
    """List the roles that are there, or that are not."""
    named = [role for role, found in roles.items() if found is has]
    return ", ".join(named) or "nothing"


def check_client_secret(answers: Answers) -> Finding:
    """Judge whether the client secret is that of the API key."""
    check = Check.CLIENT_SECRET
    errors = [
        one.error for question, one in answers.items() if question != Question.REFRESH
    ]
    for error in errors:
        fault = _find_secret_fault(error)
        if fault is not None:
            return fault
    if any(_was_opened(error) for error in errors):
        return ok(check, "It belongs to the API key.")
    for error in errors:
        if error is not None and not isinstance(error, AuthError):
            return failure(check, error)
    return skipped(check, "No call was let through that would tell.")


def _find_secret_fault(error: UID2Error | None) -> Finding | None:
    """Say what a call shows to be wrong about sealing or opening, or None."""
    check = Check.CLIENT_SECRET
    match error:
        case AuthError() if error.status != _UNAUTHORIZED:
            return failed(
                check,
                "It does not belong to the API key: the operator cannot open what is "
                "sealed with it.",
                "Copy both from the same place; a new key comes with a new secret.",
                unauthorized=True,
            )
        case EnvelopeError():
            return failure(check, error)
        case BadRequestError() if "Invalid body" in error.message:
            return failed(
                check,
                f"The request arrived changed. {error.message}",
                "Look for a gateway or proxy that rewrites what it forwards.",
            )
        case _:
            return None


def _was_opened(error: UID2Error | None) -> bool:
    """Tell whether the operator opened the request: what it judges after that.

    Its own failures are of that kind too (docs/protocol.md 1.6).
    """
    if isinstance(error, ServerError):
        return error.status == 500  # noqa: PLR2004 - an HTTP status reads best as its number
    if isinstance(error, ProtocolError):
        return not error.unparseable_http
    return error is None or isinstance(
        error, BadRequestError | ClockSkewError | InvalidTokenError
    )


_GOOD_SECONDS: Final = 10.0
_PROMISED_SECONDS: Final = 60.0
# docs/protocol.md 1.4
_REFUSED_BEHIND_SECONDS: Final = 120.0
_TAKEN_AHEAD_SECONDS: Final = 119.0


def check_clock(offset: float | None, *, refused: bool) -> Finding:
    """Judge this machine's clock by the operator's.

    Args:
        offset: By how many seconds this machine's is behind; None where that is open.
        refused: Whether the operator refused a request for its time.
    """
    check = Check.CLOCK
    if offset is None:
        if refused:
            return failed(check, "It is off by more than half an hour.", _SET_CLOCK)
        return ok(check, "Right to two minutes, or the operator would have said so.")
    side = "behind" if offset > 0 else "ahead of"
    message = f"This machine's is {abs(offset):.0f} s {side} the operator's."
    if refused or not -_TAKEN_AHEAD_SECONDS <= offset < _REFUSED_BEHIND_SECONDS:
        return failed(check, f"{message} Requests are refused. {_LIMITS}.", _SET_CLOCK)
    if abs(offset) >= _PROMISED_SECONDS:
        return warning(check, f"{message} {_LIMITS}.", _SET_CLOCK)
    if abs(offset) >= _GOOD_SECONDS:
        return warning(check, message, _SET_CLOCK)
    return ok(check, message)


_LIMITS: Final = (
    "Only 60 s is promised; operators refuse requests that are 120 s behind or more "
    "than 119 s ahead"
)


_SET_CLOCK: Final = "Set this machine's clock: let NTP run, and check the time zone."


def check_test_identities(answers: Answers) -> Finding:
    """Judge whether test identities answer as documented (docs/protocol.md 7)."""
    check = Check.TEST_IDENTITIES
    roles = find_roles(answers)
    if not (roles[Role.GENERATOR] or roles[Role.MAPPER]):
        return skipped(check, "They need the role GENERATOR or MAPPER.")
    wrong: list[str] = []
    if roles[Role.GENERATOR]:
        for question, what in _OPT_OUTS.items():
            if (error := answers[question].error) is not None:
                return failure(check, error)
            if not isinstance(answers[question].value, OptedOut):
                wrong.append(what)
    if roles[Role.MAPPER]:
        if (error := answers[Question.MAP].error) is not None:
            return failure(check, error)
        wrong += _misfits(answers[Question.MAP].value)
    if wrong:
        return failed(
            check,
            f"Not as documented: {', '.join(wrong)}.",
            "Tell who runs the operator: opt-outs may not be respected.",
        )
    return ok(check, "They answer as documented.")


_OPT_OUTS: Final = {
    Question.GENERATE: "optout@example.com got tokens",
    Question.REFRESH: "refresh-optout@example.com was not opted out on refresh",
}


def _misfits(found: IdentityMap) -> list[str]:
    """List which rows of the map of test identities are not as documented."""
    out, valid = found
    wrong = []
    if out.reason is not UnmappedReason.OPTED_OUT:
        wrong.append("optout@example.com was mapped")
    if valid.raw_uid is None:
        wrong.append("validate@example.com was not mapped")
    return wrong


def check_keys(answers: Answers, scope: IdentityScope, now_ms: int) -> Finding:
    """Judge whether keys can be had, and whether they hold.

    Args:
        answers: What the operator answered.
        scope: The scope that is expected.
        now_ms: The operator's time.
    """
    check = Check.KEYS
    roles = find_roles(answers)
    permitted = {
        question: answers[question]
        for question in (Question.SHARING, Question.BIDSTREAM)
        if _permitted(answers.get(question))
    }
    if not permitted:
        return skipped(check, "They need the role SHARER or ID_READER.")
    for answer in permitted.values():
        if isinstance(answer.error, ServerError):
            return failed(
                check,
                f"The operator cannot give out keys (HTTP {answer.error.status}).",
                "It may have no master key that holds: tell who runs the operator.",
            )
        if answer.error is not None:
            return failure(check, answer.error)
        fault = _find_fault(answer.value, scope, now_ms)
        if fault is not None:
            return fault
    message = " ".join(
        f"{question}: {len(answer.value.keys)} keys, "
        f"{_count_active(answer.value, now_ms)} of them active."
        for question, answer in permitted.items()
    )
    ring = permitted[Question.SHARING].value if roles[Role.SHARER] else None
    if ring is not None and ring.active_key(ring.default_keyset_id, now_ms) is None:
        return warning(
            check,
            f"{message} None is to encrypt with.",
            f"To share, have a keyset made for your site {_PORTAL}.",
        )
    return ok(check, message)


def _find_fault(ring: KeyRing, scope: IdentityScope, now_ms: int) -> Finding | None:
    """Say why nothing can be done with a ring, or None."""
    if ring.identity_scope is not scope:
        return failed(
            Check.KEYS,
            f"The operator serves {ring.identity_scope}, but the scope is {scope}.",
            f"Use the base URL of {scope}, or --scope {ring.identity_scope}.",
        )
    if not _count_active(ring, now_ms):
        return failed(
            Check.KEYS,
            f"Not one of {len(ring.keys)} keys is active now.",
            "Tell who runs the operator: it has stopped to get new keys.",
        )
    return None


def _count_active(ring: KeyRing, now_ms: int) -> int:
    """Count the keys that seal now."""
    return sum(key.is_active(now_ms) for key in ring.keys.values())


strip_tracebacks(globals())
