"""Harmless calls to an operator, and what their outcomes show.

The calls change no data and affect nobody. They use test identities, fetch keys, and
log out without an identity. The checks are pure functions of the outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

import attrs

from uid2_async._call import Call
from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.clock import Clock
from uid2_async.config import Settings
from uid2_async.doctor.findings import (
    Verdict,
    failed,
    failed_call,
    ok,
    skipped,
    warning,
)
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
    IdentityScope,
    OptedOut,
    UnmappedReason,
    datetime_from_ms,
    ms_from_datetime,
)
from uid2_async.protocol import tokens
from uid2_async.protocol.envelope import AesGcmEnvelope, OpenedReply
from uid2_async.protocol.keyring import BIDSTREAM_PATH, SHARING_PATH, KeyRing
from uid2_async.protocol.mapping import MAP_V3_PATH
from uid2_async.retry import RetryPolicy
from uid2_async.transport import SessionPool

# --- calls ----------------------------------------------------------------------------

OPTED_OUT: Final = "optout@example.com"
OPTED_OUT_ON_REFRESH: Final = "refresh-optout@example.com"
NEVER_OPTED_OUT: Final = "validate@example.com"


class ProbeEndpoint(StrEnum):
    """The endpoints to call. All but the last require a role."""

    GENERATE = tokens.GENERATE_PATH
    MAP = MAP_V3_PATH
    SHARING = SHARING_PATH
    BIDSTREAM = BIDSTREAM_PATH
    LOGOUT = tokens.LOGOUT_PATH
    REFRESH = tokens.REFRESH_PATH


# Not base64, so that no operator tries to decrypt it.
_NO_TOKEN: Final = b"not-a-token"


@attrs.frozen(kw_only=True)
class CallOutcome:
    """The outcome of one call.

    Attributes:
        value: The return value, which is never shown.
        error: The error that was raised, or None.
    """

    value: Any = attrs.field(default=None, repr=False)
    error: UID2Error | None = None


CallOutcomes: TypeAlias = Mapping[ProbeEndpoint, CallOutcome]


class _ListeningEnvelope(AesGcmEnvelope):
    """The standard envelope, which also records the operator's time in the last reply.

    :attr:`UID2Client.clock_skew` cannot be used, because it is 0 for an offset below 5
    s.
    """

    def __init__(self) -> None:
        self.server_ms: int | None = None

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> OpenedReply:
        """Decrypt a reply, and record its time."""
        opened = super().open(body, key=key, nonce=nonce)
        self.server_ms = opened.server_ms
        return opened


class OperatorProbe:
    """Calls an operator, one call at a time and without retries.

    Attributes:
        outcomes: The latest outcome of each endpoint.
        seconds: The duration of each call that got a reply, in seconds.
        offset: The operator's time minus this machine's in seconds, or None if unknown.
        refused_clock: Whether the operator rejected this machine's time.
    """

    def __init__(
        self, settings: Settings, pool: SessionPool, *, timeout: float, clock: Clock
    ) -> None:
        """Prepare the calls, without sending anything. *pool* is not closed here."""
        self.outcomes: dict[ProbeEndpoint, CallOutcome] = {}
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

    async def call_for_roles(self) -> None:
        """Make a call for each role, and one that shows whether the key is known.

        Stops after the first call without a reply.
        """
        for endpoint in ProbeEndpoint:
            await self._call(endpoint)
            error = self.outcomes[endpoint].error
            if isinstance(error, TransportError):
                return
            self.refused_clock |= isinstance(error, ClockSkewError)

    async def find_offset(self, hint: float | None) -> None:
        """Find the clock offset by trying different times until one is accepted.

        A ``Date`` header may give a *hint* in seconds.
        """
        endpoint = next(
            one
            for one, outcome in self.outcomes.items()
            if isinstance(outcome.error, ClockSkewError)
        )
        for shift in _shifts(hint):
            self._shift_ms = round(shift * 1000)
            await self._call(endpoint)
            error = self.outcomes[endpoint].error
            if isinstance(error, TransportError):
                return
            if not isinstance(error, ClockSkewError):
                # An encrypted reply contains the exact time. Any other accepted call
                # only bounds it.
                self.offset = shift if self.offset is None else self.offset
                return

    async def call_for_test_identities(self) -> None:
        """Refresh tokens of the test identity that is opted out only on refresh."""
        outcome = await self._run(_generate(self._client, OPTED_OUT_ON_REFRESH))
        if isinstance(outcome.value, IdentityTokens):
            outcome = await self._run(self._client.refresh_token(outcome.value))
        self.outcomes[ProbeEndpoint.REFRESH] = outcome

    async def _call(self, endpoint: ProbeEndpoint) -> None:
        self.outcomes[endpoint] = await self._run(_CALLS[endpoint](self._client))

    async def _run(self, call: Awaitable[object]) -> CallOutcome:
        """Await *call*, and record its duration and the operator's time."""
        now = asyncio.get_running_loop().time
        self._envelope.server_ms = None
        before_ms, started = self._now_ms(), now()
        try:
            outcome = CallOutcome(value=await call)
        except UID2Error as error:
            outcome = CallOutcome(error=error)
        if not isinstance(outcome.error, TransportError):
            self.seconds.append(now() - started)
        server_ms = self._envelope.server_ms
        if server_ms is not None:
            middle_ms = (before_ms + self._now_ms()) / 2
            self.offset = (server_ms - middle_ms) / 1000
        return outcome

    def _now_ms(self) -> int:
        return ms_from_datetime(self._clock())


def _generate(client: UID2Client, email: str) -> Awaitable[object]:
    """Generate a token without a consent string. EUID would warn about it."""
    call = Call(
        path=tokens.GENERATE_PATH,
        payload=tokens.build_generate_request(Email(email)),
        parse=tokens.parse_tokens_reply,
    )
    return client.run_call(call)


_CALLS: Final[Mapping[ProbeEndpoint, Callable[[UID2Client], Awaitable[object]]]] = {
    ProbeEndpoint.GENERATE: lambda client: _generate(client, OPTED_OUT),
    ProbeEndpoint.MAP: lambda client: client.map_identities(
        [OPTED_OUT, NEVER_OPTED_OUT]
    ),
    ProbeEndpoint.SHARING: UID2Client.fetch_sharing_keys,
    ProbeEndpoint.BIDSTREAM: UID2Client.fetch_bidstream_keys,
    # Without an identity, nobody is opted out.
    ProbeEndpoint.LOGOUT: lambda client: client.run_call(
        Call(path=tokens.LOGOUT_PATH, parse=tokens.parse_logout_reply)
    ),
    # The operator calls the token invalid only if the API key is valid.
    ProbeEndpoint.REFRESH: lambda client: client.run_call(
        Call(
            path=tokens.REFRESH_PATH,
            payload=_NO_TOKEN,
            parse=tokens.parse_refresh_reply,
            bare=True,
            reply_key=b"",
        )
    ),
}

# Operators accept times from 120 s ago to 119 s ahead (docs/protocol.md 1.4).
_SHIFT_SECONDS: Final = 200
_SHIFT_STEPS: Final = 9
_HOUR_SECONDS: Final = 3_600
_HOURS: Final = 14


def _shifts(hint: float | None) -> Iterator[float]:
    """Yield offsets to try: up to half an hour, then those of wrong time zones."""
    if hint is not None:
        yield hint
    for step in range(1, _SHIFT_STEPS + 1):
        yield from (step * _SHIFT_SECONDS, -step * _SHIFT_SECONDS)
    for hour in range(1, _HOURS + 1):
        yield from (hour * _HOUR_SECONDS, -hour * _HOUR_SECONDS)


# --- what the outcomes show -----------------------------------------------------------


class Role(StrEnum):
    """The roles of an API key (docs/protocol.md 1.8)."""

    GENERATOR = "GENERATOR"
    MAPPER = "MAPPER"
    SHARER = "SHARER"
    ID_READER = "ID_READER"
    OPTOUT = "OPTOUT"


_UNAUTHORIZED: Final = 401
_PORTAL: Final = "in the UID2 portal, or by the operator's administrator"


def _permitted(outcome: CallOutcome | None) -> bool | None:
    """Return whether the key may make the call, or None if that is unknown.

    The operator checks the role before the envelope and its content (docs/protocol.md
    1.6). An error about the envelope or the content therefore shows that the key has
    the role.
    """
    match outcome.error if outcome is not None else UID2Error():
        case None | EnvelopeError() | ProtocolError(unparseable_http=False):
            return True
        case AuthError(status=401) as error:
            # The error for a missing role has no message. The one for a missing link
            # has one.
            return error.message.startswith("The operator said")
        case OperatorError(status=400 | 500):
            return True
        case _:
            return None


def find_roles(outcomes: CallOutcomes) -> dict[Role, bool | None]:
    """Return for each role whether the key has it, or None if that is unknown."""
    reads = _permitted(outcomes.get(ProbeEndpoint.BIDSTREAM))
    shares = _permitted(outcomes.get(ProbeEndpoint.SHARING))
    ring = outcomes.get(ProbeEndpoint.SHARING, CallOutcome()).value
    if isinstance(ring, KeyRing):
        # Only the replies to sharers limit the lifetime of shared tokens
        # (docs/protocol.md 6.1).
        shares = ring.max_sharing_lifetime_seconds is not None
    elif shares and reads is not False:
        shares = None
    return {
        Role.GENERATOR: _permitted(outcomes.get(ProbeEndpoint.GENERATE)),
        Role.MAPPER: _permitted(outcomes.get(ProbeEndpoint.MAP)),
        Role.SHARER: shares,
        Role.ID_READER: reads,
        Role.OPTOUT: _permitted(outcomes.get(ProbeEndpoint.LOGOUT)),
    }


def check_api_key(outcomes: CallOutcomes) -> Verdict:
    """Check whether the operator accepts the API key for any endpoint."""
    asked = [one for one in ProbeEndpoint if one is not ProbeEndpoint.REFRESH]
    if any(_permitted(outcomes.get(one)) for one in asked):
        return ok("The operator accepts it.")
    trouble = _find_inconclusive(outcomes)
    if trouble is not None:
        return failed_call(trouble)
    refresh = outcomes.get(ProbeEndpoint.REFRESH, CallOutcome()).error
    # A refresh fails in this way only for a known key (docs/protocol.md 2.2).
    if isinstance(refresh, InvalidTokenError) and refresh.code == "invalid_token":
        return failed(
            "The operator knows the key, but it is disabled or has no role.",
            f"Have it enabled, with the roles that you need, {_PORTAL}.",
            unauthorized=True,
        )
    return failed(
        "The operator does not know the key (HTTP 401).",
        "Check that it was copied completely, is for this environment, and has not "
        f"been replaced, {_PORTAL}.",
        unauthorized=True,
    )


def check_roles(outcomes: CallOutcomes, needed: Collection[Role]) -> Verdict:
    """Check which roles the key has, and whether they include the *needed* ones."""
    roles = find_roles(outcomes)
    message = f"It has {_list(roles, has=True)}; it lacks {_list(roles, has=False)}."
    missing = [role for role in needed if roles[role] is False]
    if missing:
        return failed(
            f"{message} Needed: {', '.join(missing)}.",
            f"Have the role added to the key {_PORTAL}.",
            unauthorized=True,
        )
    unclear = [role for role, has in roles.items() if has is None]
    if not unclear:
        return ok(message)
    message = f"{message} Unknown: {', '.join(unclear)}."
    trouble = _find_inconclusive(outcomes)
    if isinstance(trouble, TransportError | ServerError | RateLimitError):
        return failed(f"{message} {trouble.message}", trouble.hint)
    if {*needed} & {*unclear}:
        return failed(message, "Fix the checks below, then run this again.")
    if trouble is None:
        return warning(message, "Fix the checks that fail below, then run this again.")
    return warning(message, "If the operator lacks these endpoints, update it.")


def _find_inconclusive(outcomes: CallOutcomes) -> UID2Error | None:
    """Return the first error that shows nothing about a role, or None."""
    for outcome in outcomes.values():
        if outcome.error is not None and _permitted(outcome) is None:
            return outcome.error
    return None


def _list(roles: Mapping[Role, bool | None], *, has: bool) -> str:
    named = [role for role, found in roles.items() if found is has]
    return ", ".join(named) or "nothing"


def check_client_secret(outcomes: CallOutcomes) -> Verdict:
    """Check whether the client secret belongs to the API key."""
    errors = [
        one.error
        for endpoint, one in outcomes.items()
        if endpoint != ProbeEndpoint.REFRESH
    ]
    for error in errors:
        match error:
            case AuthError() if error.status != _UNAUTHORIZED:
                return failed(
                    "It does not belong to the API key: the operator cannot decrypt "
                    "what is encrypted with it.",
                    "Copy both from the same place; a new key comes with a new secret.",
                    unauthorized=True,
                )
            case EnvelopeError():
                return failed_call(error)
            case BadRequestError() if "Invalid body" in error.message:
                return failed(
                    f"The request was changed in transit. {error.message}",
                    "Look for a gateway or proxy that rewrites request bodies.",
                )
            case _:
                pass
    if any(_was_opened(error) for error in errors):
        return ok("It belongs to the API key.")
    for error in errors:
        if error is not None and not isinstance(error, AuthError):
            return failed_call(error)
    return skipped("No call got far enough to check it.")


def _was_opened(error: UID2Error | None) -> bool:
    """Return whether the operator decrypted the request.

    It did if it rejected the content, or failed itself (docs/protocol.md 1.6).
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


def check_clock(offset: float | None, *, refused: bool) -> Verdict:
    """Compare this machine's clock with the operator's.

    Args:
        offset: Seconds by which this machine's clock is behind, or None if unknown.
        refused: Whether the operator rejected the time of a request.
    """
    if offset is None:
        if refused:
            return failed("It is off by more than half an hour.", _SET_CLOCK)
        return ok("Off by less than two minutes, since the operator accepts requests.")
    side = "behind" if offset > 0 else "ahead of"
    message = f"This machine's clock is {abs(offset):.0f} s {side} the operator's."
    if refused or not -_TAKEN_AHEAD_SECONDS <= offset < _REFUSED_BEHIND_SECONDS:
        return failed(f"{message} Requests are rejected. {_LIMITS}.", _SET_CLOCK)
    if abs(offset) >= _PROMISED_SECONDS:
        return warning(f"{message} {_LIMITS}.", _SET_CLOCK)
    if abs(offset) >= _GOOD_SECONDS:
        return warning(message, _SET_CLOCK)
    return ok(message)


_LIMITS: Final = (
    "Only 60 s is guaranteed; operators reject requests that are 120 s behind or "
    "more than 119 s ahead"
)

_SET_CLOCK: Final = "Set this machine's clock: enable NTP, and check the time zone."


def check_test_identities(outcomes: CallOutcomes) -> Verdict:
    """Check the replies for test identities (docs/protocol.md 7)."""
    roles = find_roles(outcomes)
    if not (roles[Role.GENERATOR] or roles[Role.MAPPER]):
        return skipped("They need the role GENERATOR or MAPPER.")
    wrong: list[str] = []
    if roles[Role.GENERATOR]:
        for endpoint, what in _OPT_OUTS.items():
            if (error := outcomes[endpoint].error) is not None:
                return failed_call(error)
            if not isinstance(outcomes[endpoint].value, OptedOut):
                wrong.append(what)
    if roles[Role.MAPPER]:
        if (error := outcomes[ProbeEndpoint.MAP].error) is not None:
            return failed_call(error)
        out, valid = outcomes[ProbeEndpoint.MAP].value
        is_wrong = {
            "optout@example.com was mapped": out.reason is not UnmappedReason.OPTED_OUT,
            "validate@example.com was not mapped": valid.raw_uid is None,
        }
        wrong += [what for what, is_so in is_wrong.items() if is_so]
    if wrong:
        return failed(
            f"Not as documented: {', '.join(wrong)}.",
            "Contact the operator's administrator: opt-outs may not be respected.",
        )
    return ok("The replies are as documented.")


_OPT_OUTS: Final = {
    ProbeEndpoint.GENERATE: "optout@example.com got tokens",
    ProbeEndpoint.REFRESH: "refresh-optout@example.com was not opted out on refresh",
}


def check_keys(outcomes: CallOutcomes, scope: IdentityScope, now_ms: int) -> Verdict:
    """Check whether the keys can be downloaded, and are active at *now_ms*."""
    roles = find_roles(outcomes)
    permitted = {
        endpoint: outcomes[endpoint]
        for endpoint in (ProbeEndpoint.SHARING, ProbeEndpoint.BIDSTREAM)
        if _permitted(outcomes.get(endpoint))
    }
    if not permitted:
        return skipped("They need the role SHARER or ID_READER.")
    for outcome in permitted.values():
        if isinstance(outcome.error, ServerError):
            return failed(
                f"The operator does not return keys (HTTP {outcome.error.status}).",
                "It may have no active master key. Ask the operator's administrator.",
            )
        if outcome.error is not None:
            return failed_call(outcome.error)
        fault = _find_fault(outcome.value, scope, now_ms)
        if fault is not None:
            return fault
    message = " ".join(
        f"{endpoint}: {len(outcome.value.keys)} keys, "
        f"{_count_active(outcome.value, now_ms)} of them active."
        for endpoint, outcome in permitted.items()
    )
    ring = permitted[ProbeEndpoint.SHARING].value if roles[Role.SHARER] else None
    if ring is not None and ring.active_key(ring.default_keyset_id, now_ms) is None:
        return warning(
            f"{message} None of them can encrypt.",
            f"To share, have a keyset created for your site {_PORTAL}.",
        )
    return ok(message)


def _find_fault(ring: KeyRing, scope: IdentityScope, now_ms: int) -> Verdict | None:
    """Return a finding about why a key ring is unusable, or None."""
    if ring.identity_scope is not scope:
        return failed(
            f"The operator serves {ring.identity_scope}, but the scope is {scope}.",
            f"Use the base URL of {scope}, or --scope {ring.identity_scope}.",
        )
    if not _count_active(ring, now_ms):
        return failed(
            f"None of {len(ring.keys)} keys is active now.",
            "Contact the operator's administrator: it no longer gets new keys.",
        )
    return None


def _count_active(ring: KeyRing, now_ms: int) -> int:
    return sum(key.is_active(now_ms) for key in ring.keys.values())


strip_tracebacks(globals())
