"""Harmless calls to an operator, and what their outcomes say.

Nothing here changes anything or concerns a person: test identities are used, keys are
fetched, and a logout names nobody. The checks are pure functions of the outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

from uid2_async._call import Call
from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.clock import Clock
from uid2_async.doctor.findings import (
    CheckId,
    Finding,
    failed,
    failed_call,
    ok,
    skipped,
    warning,
)
from uid2_async.environment import Settings
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
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    Email,
    IdentityMap,
    IdentityScope,
    OptedOut,
    UnmappedReason,
    datetime_from_ms,
    ms_from_datetime,
)
from uid2_async.protocol import tokens
from uid2_async.protocol.envelope import AesGcmEnvelope, Opened
from uid2_async.protocol.keyring import BIDSTREAM_PATH, SHARING_PATH, KeyRing
from uid2_async.protocol.mapping import MAP_V3_PATH
from uid2_async.retry import RetryPolicy
from uid2_async.transport import SessionPool

OPTED_OUT: Final = "optout@example.com"


REFRESH_OPTED_OUT: Final = "refresh-optout@example.com"


VALID: Final = "validate@example.com"


class Endpoint(StrEnum):
    """The endpoints that are asked; all but the last need a role."""

    GENERATE = tokens.GENERATE_PATH
    MAP = MAP_V3_PATH
    SHARING = SHARING_PATH
    BIDSTREAM = BIDSTREAM_PATH
    LOGOUT = tokens.LOGOUT_PATH
    REFRESH = tokens.REFRESH_PATH


# No base64, so that no operator tries to decrypt it.
_NO_TOKEN: Final = b"not-a-token"


@attrs.frozen(kw_only=True)
class CallOutcome:
    """What became of one call.

    Attributes:
        value: What it returned; never shown.
        error: Why it returned nothing, or None.
    """

    value: Any = attrs.field(default=None, repr=False)
    error: UID2Error | None = None


class _ListeningEnvelope(AesGcmEnvelope):
    """The usual envelope, which hears the operator's clock."""

    def __init__(self) -> None:
        """Start without having heard anything."""
        self.server_ms: int | None = None

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> Opened:
        """Open a reply, and note the time in it."""
        opened = super().open(body, key=key, nonce=nonce)
        self.server_ms = opened.server_ms
        return opened


class OperatorProbe:
    """Asks an operator, one call at a time and without retries.

    Attributes:
        answers: What has been answered.
        seconds: How long each answered call took.
        offset: The operator's clock minus this machine's in seconds, where it is known.
        refused_clock: Whether the operator refused this machine's time.
    """

    def __init__(
        self, settings: Settings, pool: SessionPool, *, timeout: float, clock: Clock
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            settings: Checked settings.
            pool: What carries the calls; it is not closed here.
            timeout: How long each call may take, in seconds.
            clock: This machine's.
        """
        self.answers: dict[Endpoint, CallOutcome] = {}
        self.seconds: list[float] = []
        self.offset: float | None = None
        self.refused_clock: bool = False
        self._clock = clock
        self._shift_ms = 0
        self._envelope = _ListeningEnvelope()
        self._client = UID2Client(
            settings.base_url,
            api_key=settings.api_key,
            client_secret=settings.client_secret,
            scope=settings.scope,
            transport=pool,
            envelope=self._envelope,
            retry=RetryPolicy.never(),
            timeout=timeout,
            allow_http=settings.allow_http,
            clock=lambda: datetime_from_ms(self._now_ms() + self._shift_ms),
        )

    async def ask_for_roles(self) -> None:
        """Make a call for each role, and one that tells whether the key is known.

        Where one is not answered at all, the others are not made.
        """
        for question in Endpoint:
            await self._ask(question)
            error = self.answers[question].error
            if isinstance(error, TransportError):
                return
            self.refused_clock |= isinstance(error, ClockSkewError)

    async def find_offset(self, hint: float | None) -> None:
        """Find how far the clocks are apart, by trying times until one is accepted.

        Args:
            hint: What a ``Date`` header says of it, in seconds.
        """
        question = next(
            one
            for one, answer in self.answers.items()
            if isinstance(answer.error, ClockSkewError)
        )
        for shift in _shifts(hint):
            self._shift_ms = round(shift * 1000)
            await self._ask(question)
            error = self.answers[question].error
            if isinstance(error, TransportError):
                return
            if not isinstance(error, ClockSkewError):
                # A reply tells it exactly, a refusal for another reason about.
                self.offset = shift if self.offset is None else self.offset
                return

    async def ask_for_test_identities(self) -> None:
        """Refresh the tokens of a test identity that opts out in between."""
        made = await self._answer(_generate(self._client, REFRESH_OPTED_OUT))
        if isinstance(made.value, IdentityTokens):
            made = await self._answer(self._client.refresh_token(made.value))
        self.answers[Endpoint.REFRESH] = made

    async def _ask(self, question: Endpoint) -> None:
        """Make the call, and keep the answer."""
        self.answers[question] = await self._answer(_CALLS[question](self._client))

    async def _answer(self, call: Awaitable[object]) -> CallOutcome:
        """Await *call*; note how long it took, and what the operator's clock says."""
        now = asyncio.get_running_loop().time
        self._envelope.server_ms = None
        before_ms, started = self._now_ms(), now()
        try:
            answer = CallOutcome(value=await call)
        except UID2Error as error:
            answer = CallOutcome(error=error)
        if not isinstance(answer.error, TransportError):
            self.seconds.append(now() - started)
        server_ms = self._envelope.server_ms
        if server_ms is not None:
            middle_ms = (before_ms + self._now_ms()) / 2
            self.offset = (server_ms - middle_ms) / 1000
        return answer

    def _now_ms(self) -> int:
        return ms_from_datetime(self._clock())


def _generate(client: UID2Client, email: str) -> Awaitable[object]:
    """Generate without a consent string, and without the warning of that in EUID."""
    call = Call(
        path=tokens.GENERATE_PATH,
        payload=tokens.build_generate_request(Email(email)),
        parse=tokens.parse_tokens_reply,
    )
    return client.run_call(call)


def _logout_nobody(client: UID2Client) -> Awaitable[object]:
    """Ask for a logout without saying whose."""
    call = Call(path=tokens.LOGOUT_PATH, parse=tokens.parse_logout_reply)
    return client.run_call(call)


def _refresh_nothing(client: UID2Client) -> Awaitable[object]:
    """Refresh what is no token: only whom it knows does an operator tell so."""
    call = Call(
        path=tokens.REFRESH_PATH,
        payload=_NO_TOKEN,
        parse=tokens.parse_refresh_reply,
        bare=True,
        reply_key=b"",
    )
    return client.run_call(call)


_CALLS: Final[Mapping[Endpoint, Callable[[UID2Client], Awaitable[object]]]] = {
    Endpoint.GENERATE: lambda client: _generate(client, OPTED_OUT),
    Endpoint.MAP: lambda client: client.map_identities([OPTED_OUT, VALID]),
    Endpoint.SHARING: UID2Client.fetch_sharing_keys,
    Endpoint.BIDSTREAM: UID2Client.fetch_bidstream_keys,
    Endpoint.LOGOUT: _logout_nobody,
    Endpoint.REFRESH: _refresh_nothing,
}


# An operator takes times from 120 s ago to 119 s ahead (docs/protocol.md 1.4).
_SHIFT_SECONDS: Final = 200


_SHIFT_STEPS: Final = 9


_HOUR_SECONDS: Final = 3_600


_HOURS: Final = 14


def _shifts(hint: float | None) -> Iterator[float]:
    """List the offsets to try: half an hour in steps, and what wrong zones make."""
    if hint is not None:
        yield hint
    for step in range(1, _SHIFT_STEPS + 1):
        yield from (step * _SHIFT_SECONDS, -step * _SHIFT_SECONDS)
    for hour in range(1, _HOURS + 1):
        yield from (hour * _HOUR_SECONDS, -hour * _HOUR_SECONDS)


class Role(StrEnum):
    """What an API key may do (docs/protocol.md 1.8)."""

    GENERATOR = "GENERATOR"
    MAPPER = "MAPPER"
    SHARER = "SHARER"
    ID_READER = "ID_READER"
    OPTOUT = "OPTOUT"


CallOutcomes = Mapping[Endpoint, CallOutcome]


_UNAUTHORIZED: Final = 401


_PORTAL: Final = "in the UID2 portal, or with whoever runs the operator"


def _permitted(answer: CallOutcome | None) -> bool | None:
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


def find_roles(answers: CallOutcomes) -> dict[Role, bool | None]:
    """Tell for each role whether the key has it; None where that remains open."""
    reads = _permitted(answers.get(Endpoint.BIDSTREAM))
    shares = _permitted(answers.get(Endpoint.SHARING))
    ring = answers.get(Endpoint.SHARING, CallOutcome()).value
    if isinstance(ring, KeyRing):
        # Only sharers are told how long their tokens may live (docs/protocol.md 6.1).
        shares = ring.max_sharing_lifetime_seconds is not None
    elif shares and reads is not False:
        shares = None
    return {
        Role.GENERATOR: _permitted(answers.get(Endpoint.GENERATE)),
        Role.MAPPER: _permitted(answers.get(Endpoint.MAP)),
        Role.SHARER: shares,
        Role.ID_READER: reads,
        Role.OPTOUT: _permitted(answers.get(Endpoint.LOGOUT)),
    }


def check_api_key(answers: CallOutcomes) -> Finding:
    """Judge whether the operator accepts the API key for anything."""
    check = CheckId.API_KEY
    asked = [one for one in Endpoint if one is not Endpoint.REFRESH]
    if any(_permitted(answers.get(one)) for one in asked):
        return ok(check, "The operator accepts it.")
    trouble = _find_inconclusive(answers)
    if trouble is not None:
        return failed_call(check, trouble)
    if _is_known(answers.get(Endpoint.REFRESH)):
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


def _is_known(answer: CallOutcome | None) -> bool:
    """Tell whether a refresh was refused as to a known caller (protocol.md 2.2)."""
    error = None if answer is None else answer.error
    return isinstance(error, InvalidTokenError) and error.code == "invalid_token"


def check_roles(answers: CallOutcomes, needed: Collection[Role]) -> Finding:
    """Judge which roles the key has.

    Args:
        answers: What the operator answered.
        needed: Those that it must have.
    """
    check = CheckId.ROLES
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
    trouble = _find_inconclusive(answers)
    if isinstance(trouble, TransportError | ServerError | RateLimitError):
        return failed(check, f"{message} {trouble.message}", trouble.hint)
    if {*needed} & {*unclear}:
        return failed(check, message, "Look at the checks below; then run this again.")
    if trouble is None:
        return warning(
            check, message, "Set right what fails below; then run this again."
        )
    return warning(check, message, "Update the operator, if it lacks these endpoints.")


def _find_inconclusive(answers: CallOutcomes) -> UID2Error | None:
    """Find the first error that tells nothing of a role."""
    for answer in answers.values():
        if answer.error is not None and _permitted(answer) is None:
            return answer.error
    return None


def _list(roles: Mapping[Role, bool | None], *, has: bool) -> str:
    """List the roles that are there, or that are not."""
    named = [role for role, found in roles.items() if found is has]
    return ", ".join(named) or "nothing"


def check_client_secret(answers: CallOutcomes) -> Finding:
    """Judge whether the client secret is that of the API key."""
    check = CheckId.CLIENT_SECRET
    errors = [
        one.error for question, one in answers.items() if question != Endpoint.REFRESH
    ]
    for error in errors:
        fault = _find_secret_fault(error)
        if fault is not None:
            return fault
    if any(_was_opened(error) for error in errors):
        return ok(check, "It belongs to the API key.")
    for error in errors:
        if error is not None and not isinstance(error, AuthError):
            return failed_call(check, error)
    return skipped(check, "No call was let through that would tell.")


def _find_secret_fault(error: UID2Error | None) -> Finding | None:
    """Say what a call shows to be wrong about sealing or opening, or None."""
    check = CheckId.CLIENT_SECRET
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
            return failed_call(check, error)
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
    check = CheckId.CLOCK
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


def check_test_identities(answers: CallOutcomes) -> Finding:
    """Judge whether test identities answer as documented (docs/protocol.md 7)."""
    check = CheckId.TEST_IDENTITIES
    roles = find_roles(answers)
    if not (roles[Role.GENERATOR] or roles[Role.MAPPER]):
        return skipped(check, "They need the role GENERATOR or MAPPER.")
    wrong: list[str] = []
    if roles[Role.GENERATOR]:
        for question, what in _OPT_OUTS.items():
            if (error := answers[question].error) is not None:
                return failed_call(check, error)
            if not isinstance(answers[question].value, OptedOut):
                wrong.append(what)
    if roles[Role.MAPPER]:
        if (error := answers[Endpoint.MAP].error) is not None:
            return failed_call(check, error)
        wrong += _wrong_rows(answers[Endpoint.MAP].value)
    if wrong:
        return failed(
            check,
            f"Not as documented: {', '.join(wrong)}.",
            "Tell who runs the operator: opt-outs may not be respected.",
        )
    return ok(check, "They answer as documented.")


_OPT_OUTS: Final = {
    Endpoint.GENERATE: "optout@example.com got tokens",
    Endpoint.REFRESH: "refresh-optout@example.com was not opted out on refresh",
}


def _wrong_rows(found: IdentityMap) -> list[str]:
    """List which rows of the map of test identities are not as documented."""
    out, valid = (row.result() for row in found.wire_rows)
    wrong = []
    if getattr(out, "reason", None) is not UnmappedReason.OPTED_OUT:
        wrong.append("optout@example.com was mapped")
    if getattr(valid, "raw_uid", None) is None:
        wrong.append("validate@example.com was not mapped")
    return wrong


def check_keys(answers: CallOutcomes, scope: IdentityScope, now_ms: int) -> Finding:
    """Judge whether keys can be had, and whether they hold.

    Args:
        answers: What the operator answered.
        scope: The scope that is expected.
        now_ms: The operator's time.
    """
    check = CheckId.KEYS
    roles = find_roles(answers)
    permitted = {
        question: answers[question]
        for question in (Endpoint.SHARING, Endpoint.BIDSTREAM)
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
            return failed_call(check, answer.error)
        fault = _find_fault(answer.value, scope, now_ms)
        if fault is not None:
            return fault
    message = " ".join(
        f"{question}: {len(answer.value.keys)} keys, "
        f"{_count_active(answer.value, now_ms)} of them active."
        for question, answer in permitted.items()
    )
    ring = permitted[Endpoint.SHARING].value if roles[Role.SHARER] else None
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
            CheckId.KEYS,
            f"The operator serves {ring.identity_scope}, but the scope is {scope}.",
            f"Use the base URL of {scope}, or --scope {ring.identity_scope}.",
        )
    if not _count_active(ring, now_ms):
        return failed(
            CheckId.KEYS,
            f"Not one of {len(ring.keys)} keys is active now.",
            "Tell who runs the operator: it has stopped to get new keys.",
        )
    return None


def _count_active(ring: KeyRing, now_ms: int) -> int:
    """Count the keys that seal now."""
    return sum(key.is_active(now_ms) for key in ring.keys.values())


strip_tracebacks(globals())
