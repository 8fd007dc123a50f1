"""Keeping tokens fresh, against the embedded operator; nothing here sleeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from traceback import walk_tb
from typing import Any

import pytest
from msgspec.structs import replace

from uid2_async import (
    Freshness,
    IdentityTokens,
    OptedOut,
    RetryPolicy,
    TokenRefresher,
    TokenState,
    UID2Client,
    errors,
)
from uid2_async.operator import Fault, LocalOperator
from virtual_time import VirtualLoop, run_virtual

REFRESH = "/v2/token/refresh"
# The lifetimes of the built-in world, in seconds.
DUE = 3_600
EXPIRED = 259_200
DEAD = 2_592_000
DOWN = Fault(status=503)

Make = Callable[..., TokenRefresher]


@pytest.fixture
def hasty(client: UID2Client) -> UID2Client:
    """Give a client that tries once, so that one fault is one failure."""
    return client.with_options(retry=RetryPolicy.never())


@pytest.fixture
async def make(hasty: UID2Client, operator: LocalOperator) -> AsyncIterator[Make]:
    """Make refreshers that follow the operator's clock and never wait for jitter."""
    made = []

    def monotonic() -> float:
        return operator.now.timestamp()

    def make_one(**options: Any) -> TokenRefresher:
        defaults = {
            "clock": lambda: operator.now,
            "monotonic": monotonic,
            "_random": lambda: 0.0,
        }
        made.append(TokenRefresher(hasty, **(defaults | options)))
        return made[-1]

    yield make_one
    for refresher in made:
        await refresher.aclose()


@pytest.fixture
async def tokens(client: UID2Client, consent: str | None) -> IdentityTokens:
    """Generate tokens, and put another SDK's key beside them."""
    generated = await client.generate_token(
        "user@example.com", tcf_consent_string=consent
    )
    assert isinstance(generated, IdentityTokens)
    return replace(generated, extra={"private": {"x": 1}})


def refreshes(operator: LocalOperator) -> int:
    """Count the refresh requests that arrived."""
    return sum(call.path == REFRESH for call in operator.calls)


async def test_fresh_tokens_are_left_alone(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Before they are due, the same tokens come back without a request."""
    found = await make().ensure_fresh(tokens)

    assert found == Freshness(tokens=tokens, state=TokenState.FRESH, changed=False)
    assert found.tokens is tokens
    assert found.advertising_token == tokens.advertising_token
    assert refreshes(operator) == 0


async def test_due_tokens_are_refreshed_and_keep_unknown_keys(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """New tokens must be stored, together with what others stored with the old ones."""
    operator.advance(DUE)

    found = await make().ensure_fresh(tokens)

    assert (found.state, found.changed, found.error) == (TokenState.FRESH, True, None)
    assert found.tokens is not None
    assert found.tokens.refresh_token != tokens.refresh_token
    assert found.tokens.extra == {"private": {"x": 1}}
    assert refreshes(operator) == 1


async def test_expired_tokens_are_refreshed(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """As long as the refresh token lives, there are new tokens."""
    operator.advance(EXPIRED)

    found = await make().ensure_fresh(tokens)

    assert found.state is TokenState.FRESH
    assert found.changed


async def test_two_hundred_at_once_make_one_request(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """However many requests ask about one identity, the operator sees one."""
    refresher = make()
    operator.advance(DUE)

    found = await asyncio.gather(*(refresher.ensure_fresh(tokens) for _ in range(200)))

    assert refreshes(operator) == 1
    assert len({one.advertising_token for one in found}) == 1
    assert all(one.changed for one in found)


async def test_late_requests_with_the_old_session_share_the_result(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Who still sends the old session gets the new tokens, without a request."""
    refresher = make()
    operator.advance(DUE)
    first = await refresher.ensure_fresh(tokens)

    assert await refresher.ensure_fresh(tokens) == first
    assert refreshes(operator) == 1
    operator.advance(DUE)
    assert first.tokens is not None
    second = await refresher.ensure_fresh(first.tokens)
    assert await refresher.ensure_fresh(tokens) == second
    assert refreshes(operator) == 2


async def test_different_identities_are_refreshed_side_by_side(
    client: UID2Client,
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    consent: str | None,
) -> None:
    """One refresh at a time is meant for each identity."""
    other = await client.generate_token("+12345678901", tcf_consent_string=consent)
    assert isinstance(other, IdentityTokens)
    operator.advance(DUE)
    refresher = make()

    await asyncio.gather(refresher.ensure_fresh(tokens), refresher.ensure_fresh(other))

    assert refreshes(operator) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (DOWN, errors.ServerError),
        (Fault(drop=True), errors.ConnectError),
        (Fault(status=429), errors.RateLimitError),
        (Fault(status=200, body=b"canary"), errors.EnvelopeError),
    ],
)
async def test_usable_tokens_outlive_an_outage_and_the_error_is_in_sight(
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    fault: Fault,
    error: type[errors.UID2Error],
) -> None:
    """The old tokens are served while they are valid; the error holds no token."""
    operator.advance(DUE)
    operator.fail_next(fault, path=REFRESH)

    found = await make().ensure_fresh(tokens)

    assert found.tokens is tokens
    assert (found.state, found.changed) == (TokenState.DUE, False)
    assert found.advertising_token == tokens.advertising_token
    assert type(found.error) is error
    assert found.error.__traceback__ is None
    assert tokens.advertising_token not in repr(found)


async def test_an_unreachable_operator_is_not_asked_on_each_page(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """After a failure there is a pause; then it is tried again."""
    refresher = make(pause=5)
    operator.advance(DUE)
    operator.fail_next(DOWN, path=REFRESH)

    first = await refresher.ensure_fresh(tokens)
    operator.advance(4)
    again = await refresher.ensure_fresh(tokens)

    assert str(again.error) == str(first.error)
    assert again.error is not first.error is not None
    assert refreshes(operator) == 1
    operator.advance(1)
    assert (await refresher.ensure_fresh(tokens)).error is None
    assert refreshes(operator) == 2


async def test_expired_tokens_in_an_outage_are_held_and_not_used(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Keep them, since a later refresh may succeed; until then there is no token."""
    operator.advance(EXPIRED)
    operator.fail_next(DOWN, path=REFRESH)

    found = await make().ensure_fresh(tokens)

    assert found.tokens is tokens
    assert found.state is TokenState.EXPIRED_REFRESHABLE
    assert found.advertising_token is None
    assert isinstance(found.error, errors.ServerError)


async def test_an_opt_out_is_remembered_for_72_hours(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Nothing must be kept, and nobody is asked again."""
    refresher = make()
    operator.opt_out("user@example.com")
    operator.advance(DUE)
    out = Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=True)

    assert await refresher.ensure_fresh(tokens) == out
    operator.advance(71 * 3_600)
    assert await refresher.ensure_fresh(tokens) == out
    assert out.advertising_token is None
    assert refreshes(operator) == 1
    assert "remembered=1" in repr(refresher)
    operator.advance(3_600)
    assert await refresher.ensure_fresh(tokens) == out
    assert refreshes(operator) == 2


async def test_the_memory_is_bounded(
    client: UID2Client,
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    consent: str | None,
) -> None:
    """Of many opt-outs the latest are remembered."""
    refresher = make(remember=1)
    other = await client.generate_token("other@example.com", tcf_consent_string=consent)
    assert isinstance(other, IdentityTokens)
    operator.opt_out("user@example.com")
    operator.opt_out("other@example.com")
    operator.advance(DUE)

    for held in (tokens, other, other, tokens):
        found = await refresher.ensure_fresh(held)
        assert found.state is TokenState.OPTED_OUT

    assert refreshes(operator) == 3


async def test_dead_tokens_are_to_be_generated_anew(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """When the refresh token has ended, the operator is not asked."""
    operator.advance(DEAD)

    found = await make().ensure_fresh(tokens)

    assert found == Freshness(tokens=None, state=TokenState.DEAD, changed=True)
    assert refreshes(operator) == 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"status":"expired_token"}', errors.ExpiredTokenError),
        (b'{"status":"invalid_token"}', errors.InvalidTokenError),
        (b'{"status":"error"}', errors.InvalidTokenError),
    ],
)
async def test_tokens_that_the_operator_refuses_are_dead(
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    body: bytes,
    error: type[errors.UID2Error],
) -> None:
    """Tokens that the operator does not know must be generated again, with a reason."""
    operator.advance(DUE)
    operator.fail_next(Fault(status=400, body=body), path=REFRESH)

    found = await make().ensure_fresh(tokens)

    assert (found.tokens, found.state) == (None, TokenState.DEAD)
    assert found.changed
    assert type(found.error) is error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"refresh_response_key": None}, errors.InputError),
        ({"refresh_token": "x" * 388}, errors.BadRequestError),
        ({"refresh_token": "\ud800"}, errors.InputError),
    ],
)
async def test_damaged_tokens_live_as_long_as_they_are_usable(
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    change: dict[str, Any],
    error: type[errors.UID2Error],
) -> None:
    """What no refresh can mend is served to its end, and dead from then on."""
    damaged = replace(tokens, **change)
    refresher = make()

    operator.advance(DUE)
    due = await refresher.ensure_fresh(damaged)
    operator.advance(EXPIRED - DUE)
    expired = await refresher.ensure_fresh(damaged)

    assert (due.tokens, due.state) == (damaged, TokenState.DUE)
    assert (expired.tokens, expired.state) == (None, TokenState.DEAD)
    assert type(due.error) is type(expired.error) is error


async def test_a_cancelled_waiter_leaves_the_refresh_to_the_others(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """One browser that goes away costs the others nothing."""
    refresher = make()
    operator.advance(DUE)
    waiters = [asyncio.ensure_future(refresher.ensure_fresh(tokens)) for _ in range(3)]
    await asyncio.sleep(0)

    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert [type(one) for one in results[1:]] == [Freshness, Freshness]
    assert refreshes(operator) == 1


async def test_a_refresh_whose_waiters_all_went_away_still_counts(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """The next page view finds its result."""
    refresher = make()
    operator.advance(DUE)
    waiter = asyncio.ensure_future(refresher.ensure_fresh(tokens))
    await asyncio.sleep(0)

    waiter.cancel()
    await asyncio.wait({waiter})

    assert (await refresher.ensure_fresh(tokens)).changed
    assert refreshes(operator) == 1


async def test_jitter_spreads_what_is_due(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Tokens that are due are refreshed at their own moment, up to jitter later."""
    drawn = iter([0.5, 0.5])
    refresher = make(jitter=60, margin=0, _random=lambda: next(drawn))

    operator.advance(DUE + 20)
    waiting = await refresher.ensure_fresh(tokens)
    operator.advance(20)
    refreshed = await refresher.ensure_fresh(tokens)

    assert (waiting.state, waiting.changed) == (TokenState.DUE, False)
    assert waiting.error is None
    assert refreshed.changed
    assert refreshes(operator) == 1


async def test_jitter_leaves_time_to_refresh(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """It takes at most a tenth of the time in which a refresh is due."""
    refresher = make(jitter=10**9, margin=0, _random=lambda: 1.0)

    operator.advance(DUE + (EXPIRED - DUE) / 10 - 1)
    assert not (await refresher.ensure_fresh(tokens)).changed
    operator.advance(2)
    assert (await refresher.ensure_fresh(tokens)).changed


async def test_the_real_jitter_is_random(
    client: UID2Client, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Without options it is drawn, and well over after a minute."""
    async with TokenRefresher(client, clock=lambda: operator.now) as refresher:
        operator.advance(DUE + 60)
        assert (await refresher.ensure_fresh(tokens)).changed


async def test_the_real_clock_is_used_without_another(
    hasty: UID2Client, tokens: IdentityTokens
) -> None:
    """The system's clock says that new tokens are fresh."""
    async with TokenRefresher(hasty) as refresher:
        found = await refresher.ensure_fresh(tokens)

    assert found.state is TokenState.FRESH


async def test_a_doubtful_clock_only_shortens_a_life(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Tokens are expired for us by the margin before they are for the world."""
    refresher = make(margin=10)
    operator.advance(EXPIRED - 9)
    operator.fail_next(DOWN, path=REFRESH)

    found = await refresher.ensure_fresh(tokens)

    assert found.state is TokenState.EXPIRED_REFRESHABLE


def reply_of(tokens: IdentityTokens, **change: Any) -> bytes:
    """Make the reply that gives *tokens* out."""
    body = tokens.to_dict() | change
    return json.dumps({"status": "success", "body": body}).encode()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["advertising_token", "refresh_token"], "repeats the current tokens"),
        (["advertising_token"], "repeats the current tokens"),
        (["refresh_token"], "repeats the current tokens"),
    ],
)
async def test_a_reply_that_repeats_the_held_tokens_is_refused(
    make: Make,
    tokens: IdentityTokens,
    operator: LocalOperator,
    kept: list[str],
    message: str,
) -> None:
    """A refresh reply has no nonce: what is held already is no news."""
    operator.advance(DUE)
    later = int((operator.now + timedelta(hours=2)).timestamp() * 1000)
    change = {"advertising_token": "new", "refresh_token": "new"}
    change = {name: text for name, text in change.items() if name not in kept}
    times = {"identity_expires": later, "refresh_expires": later, "refresh_from": later}
    short = replace(tokens, refresh_token="x", refresh_response_key=None)
    operator.fail_next(
        Fault(status=200, body=reply_of(short, **times, **change)), path=REFRESH
    )

    found = await make().ensure_fresh(short)

    assert isinstance(found.error, errors.ProtocolError)
    assert message in found.error.message
    assert found.error.endpoint == REFRESH
    assert (found.tokens, found.changed) == (short, False)


async def test_a_reply_that_has_expired_is_refused(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Tokens that ended before they came are an old reply played again."""
    operator.advance(DUE)
    short = replace(tokens, refresh_token="x", refresh_response_key=None)
    past = int(operator.now.timestamp() * 1000) - 1
    reply = reply_of(
        short, advertising_token="new", refresh_token="new", identity_expires=past
    )
    operator.fail_next(Fault(status=200, body=reply), path=REFRESH)

    found = await make().ensure_fresh(short)

    assert isinstance(found.error, errors.ProtocolError)
    assert found.error.path == "body.identity_expires"
    assert found.tokens is short


async def test_a_reply_that_repeats_older_tokens_is_refused(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """What was refreshed before does not come back, and nothing goes in circles."""
    first = replace(tokens, refresh_token="1", refresh_response_key=None)
    refresher = make()
    late = int((operator.now + timedelta(days=9)).timestamp() * 1000)
    times = {"identity_expires": late, "refresh_expires": late}
    for name in ("2", "1"):
        reply = reply_of(first, **times, advertising_token=name, refresh_token=name)
        operator.fail_next(Fault(status=200, body=reply), path=REFRESH)
    operator.advance(DUE)

    second = await refresher.ensure_fresh(first)
    operator.advance(60)
    third = await refresher.ensure_fresh(first)

    assert second.tokens is not None
    assert second.tokens.refresh_token == "2"
    assert third.tokens == second.tokens
    assert third.error is not None
    assert "repeats earlier tokens" in third.error.message


async def test_an_earlier_expiry_alone_is_fine(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Lifetimes are the operator's to change."""
    operator.advance(DUE)
    short = replace(tokens, refresh_token="x", refresh_response_key=None)
    soon = int(operator.now.timestamp() * 1000) + 60_000
    reply = reply_of(
        short, advertising_token="new", refresh_token="new", identity_expires=soon
    )
    operator.fail_next(Fault(status=200, body=reply), path=REFRESH)

    found = await make().ensure_fresh(short)

    assert found.changed
    assert found.error is None


async def test_the_lock_goes_around_each_refresh(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """It is asked for by a digest that gives no token away, and once for all."""
    seen: list[str] = []

    @asynccontextmanager
    async def lock(digest: str) -> AsyncIterator[None]:
        seen.append(digest)
        yield
        seen.append("left")

    refresher = make(lock=lock)
    await refresher.ensure_fresh(tokens)
    operator.advance(DUE)
    await asyncio.gather(*(refresher.ensure_fresh(tokens) for _ in range(3)))

    assert seen[1:] == ["left"]
    assert len(seen[0]) == 64
    assert seen[0] not in tokens.refresh_token


async def test_a_lock_makes_several_processes_refresh_once(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Who comes second keeps the usable tokens, and refreshes those that are not."""
    taken: set[str] = set()

    @asynccontextmanager
    async def first_of_all(digest: str) -> AsyncIterator[bool]:
        won = digest not in taken
        taken.add(digest)
        yield won

    workers = [make(lock=first_of_all) for _ in range(3)]
    operator.advance(DUE)
    found = [await worker.ensure_fresh(tokens) for worker in workers]

    assert [one.changed for one in found] == [True, False, False]
    assert found[1] == Freshness(tokens=tokens, state=TokenState.DUE, changed=False)
    assert refreshes(operator) == 1
    operator.advance(EXPIRED - DUE)
    assert (await workers[1].ensure_fresh(tokens)).state is TokenState.FRESH


async def test_errors_of_the_lock_are_its_owners(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """What is no error of ours is not hidden, and hurts nobody for long."""
    broken = [True]

    @asynccontextmanager
    async def lock(digest: str) -> AsyncIterator[None]:
        if broken.pop():
            raise ConnectionError("the store is away")
        yield

    refresher = make(lock=lock)
    operator.advance(DUE)
    with pytest.raises(ConnectionError, match="the store is away"):
        await refresher.ensure_fresh(tokens)
    broken.append(False)
    assert (await refresher.ensure_fresh(tokens)).changed


async def test_in_the_background_nobody_waits(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Usable tokens come at once; the next call has the new ones."""
    ended = asyncio.Event()

    @asynccontextmanager
    async def lock(digest: str) -> AsyncIterator[None]:
        yield
        ended.set()

    refresher = make(background=True, lock=lock)
    operator.advance(DUE)

    at_once = await refresher.ensure_fresh(tokens)
    assert (at_once.state, at_once.changed) == (TokenState.DUE, False)
    assert refreshes(operator) == 0
    assert "running=1" in repr(refresher)
    await ended.wait()
    later = await refresher.ensure_fresh(tokens)

    assert (later.state, later.changed) == (TokenState.FRESH, True)
    assert refreshes(operator) == 1


async def test_in_the_background_expired_tokens_are_waited_for(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """There is nothing to serve meanwhile."""
    operator.advance(EXPIRED)

    assert (await make(background=True).ensure_fresh(tokens)).changed


async def test_no_task_is_left_behind(
    make: Make, tokens: IdentityTokens, operator: LocalOperator
) -> None:
    """Leaving the block ends refreshes; waiters get an error, and are not canceled."""
    before = asyncio.all_tasks()
    operator.advance(DUE)
    async with make() as refresher:
        waiter = asyncio.ensure_future(refresher.ensure_fresh(tokens))
        await asyncio.sleep(0)

    found = await waiter
    await refresher.aclose()

    assert asyncio.all_tasks() == before
    assert "running=0" in repr(refresher)
    assert found.tokens is tokens
    assert isinstance(found.error, errors.TransportError)
    with pytest.raises(RuntimeError, match="closed"):
        await refresher.ensure_fresh(tokens)


async def test_a_client_that_cannot_be_used_is_no_outage(
    operator: LocalOperator, tokens: IdentityTokens, hasty: UID2Client
) -> None:
    """A mistake in the program is raised, not shown as a passing error."""

    class Elsewhere:
        async def send(self, request: object) -> object:
            raise errors.ClientLoopError("The client runs in another event loop.")

        async def aclose(self) -> None: ...

    client = UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        transport=Elsewhere(),  # type: ignore[arg-type] # never answers
    )
    operator.advance(DUE)
    async with client, TokenRefresher(client, clock=lambda: operator.now) as refresher:
        operator.advance(60)
        with pytest.raises(errors.ClientLoopError):
            await refresher.ensure_fresh(tokens)


START = datetime(2026, 1, 1, tzinfo=UTC)


def make_tokens(number: int, *, due: datetime, expires: datetime) -> IdentityTokens:
    """Make tokens that differ by their number."""
    return IdentityTokens(
        advertising_token=f"advertising {number}",
        refresh_token=f"refresh {number}",
        refresh_response_key=None,
        identity_expires=expires,
        refresh_from=due,
        refresh_expires=expires + timedelta(days=30),
    )


class ScriptedClient:
    """A client that refreshes as a test says, at the time of the loop."""

    clock_skew = 0.0

    def __init__(self, answer: Callable[[int, datetime], Any]) -> None:
        """Return or raise what *answer* gives for the number of the request."""
        self.requests = 0
        self.wall_is_off = timedelta()
        self._answer = answer

    def now(self) -> datetime:
        """Tell the time, as the wall clock is set."""
        passed = timedelta(seconds=asyncio.get_running_loop().time())
        return START + passed + self.wall_is_off

    async def refresh_token(self, held: IdentityTokens, *, timeout: float) -> Any:
        """Refresh tokens."""
        self.requests += 1
        await asyncio.sleep(0.05)
        found = self._answer(self.requests, self.now())
        if isinstance(found, BaseException):
            raise found
        return found

    def refresher(self, **options: Any) -> TokenRefresher:
        """Make a refresher that goes by this client's clock, and by the loop's."""
        client: Any = self
        settings: dict[str, Any] = {"clock": self.now, "_random": lambda: 0.0}
        return TokenRefresher(client, **(settings | options))


def due_tokens() -> IdentityTokens:
    """Make tokens that are due for the next 30 days."""
    return make_tokens(0, due=START, expires=START + timedelta(days=30))


def due_at_once(number: int, now: datetime) -> IdentityTokens:
    """Refresh to tokens that were due an hour ago, and are valid for three days."""
    hour = timedelta(hours=1)
    return make_tokens(number, due=now - hour, expires=now + 72 * hour)


def soon_due(number: int, now: datetime) -> IdentityTokens:
    """Refresh to tokens that are due in a second."""
    second = timedelta(seconds=1)
    return make_tokens(number, due=now + second, expires=now + 7_200 * second)


def short_lived(number: int, now: datetime) -> IdentityTokens:
    """Refresh to tokens that have expired ten seconds later."""
    second = timedelta(seconds=1)
    return make_tokens(number, due=now, expires=now + 10 * second)


def expired(number: int, now: datetime) -> IdentityTokens:
    """Refresh to tokens that have expired."""
    return make_tokens(number, due=START, expires=now - timedelta(seconds=1))


def down(number: int, now: datetime) -> errors.UID2Error:
    """Refuse."""
    return errors.ServerError("down")


def stray(number: int, now: datetime) -> BaseException:
    """Cancel nobody in particular."""
    return asyncio.CancelledError()


async def view(refresher: TokenRefresher, pages: int) -> list[Freshness]:
    """View so many pages in an hour, each with the session that the first one had."""
    found = []
    for _ in range(pages):
        found.append(await refresher.ensure_fresh(due_tokens()))
        await asyncio.sleep(3_600 / pages)
    return found


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        (due_at_once, 55, 61),
        (soon_due, 55, 61),
        (short_lived, 500, 721),
        (expired, 55, 64),
        (down, 55, 64),
        (stray, 55, 64),
    ],
)
def test_page_views_do_not_set_the_rate_of_refreshes(
    answer: Any, least: int, most: int, *, background: bool
) -> None:
    """2,000 in an hour: one refresh a minute, or five seconds for short lives."""

    async def main() -> int:
        client = ScriptedClient(answer)
        async with client.refresher(background=background) as refresher:
            await view(refresher, 2_000)
        return client.requests

    assert least <= run_virtual(main()) <= most


def test_tokens_that_live_as_usual_are_refreshed_when_they_are_due() -> None:
    """The bound is none for an operator whose tokens are due after a minute."""

    def minutely(number: int, now: datetime) -> IdentityTokens:
        minute = timedelta(minutes=1.2)
        return make_tokens(number, due=now + minute, expires=now + 2 * minute)

    async def main() -> int:
        client = ScriptedClient(minutely)
        async with client.refresher(_random=lambda: 0.0, margin=0) as refresher:
            for one in await view(refresher, 2_000):
                assert one.state.usable
        return client.requests

    assert 48 <= run_virtual(main()) <= 51


def test_each_person_has_a_rate_of_their_own() -> None:
    """One person's tokens resting keep nobody else's from being refreshed."""

    async def main() -> int:
        client = ScriptedClient(due_at_once)
        async with client.refresher() as refresher:
            for number in range(100):
                held = replace(due_tokens(), refresh_token=f"of {number}")
                assert (await refresher.ensure_fresh(held)).changed
        return client.requests

    assert run_virtual(main()) == 100


def test_the_pause_doubles_and_ends_with_a_success() -> None:
    """5, 10, 20, 40, 60 and 60 s; the next failure pauses for 5 s again."""
    at: list[float] = []

    def answer(number: int, now: datetime) -> Any:
        at.append(asyncio.get_running_loop().time())
        return soon_due(number, now) if number == 8 else down(number, now)

    async def main() -> None:
        client = ScriptedClient(answer)
        async with client.refresher() as refresher:
            while len(at) < 10:
                await refresher.ensure_fresh(due_tokens())
                await asyncio.sleep(0.1)

    run_virtual(main())

    pauses = [later - sooner for sooner, later in pairwise(at)]
    assert pauses[:7] == pytest.approx([5, 10, 20, 40, 60, 60, 60], abs=0.3)
    assert pauses[8] == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("days", [-40, -1, 1, 20])
@pytest.mark.parametrize("fails", [True, False])
def test_a_wall_clock_that_is_set_changes_no_pause(days: int, *, fails: bool) -> None:
    """What was noted ends after its time, no sooner and no later."""
    held = make_tokens(
        0, due=START - timedelta(days=90), expires=START + timedelta(days=90)
    )

    async def main() -> None:
        client = ScriptedClient(lambda *_: down(0, START) if fails else OptedOut())
        async with client.refresher() as refresher:
            await refresher.ensure_fresh(held)
            client.wall_is_off = timedelta(days=days)
            length = 5 if fails else 72 * 3_600
            await asyncio.sleep(length - 1)
            await refresher.ensure_fresh(held)
            assert client.requests == 1
            client.wall_is_off = timedelta()
            await asyncio.sleep(2)
            await refresher.ensure_fresh(held)
            assert client.requests == 2

    run_virtual(main())


@pytest.mark.parametrize("cut", ["run", "loop"])
@pytest.mark.parametrize("background", [False, True])
def test_a_loop_that_is_cut_off_in_a_refresh_holds_up_no_other(
    cut: str, *, background: bool
) -> None:
    """The next loop makes a refresh of its own, and closing waits for nothing."""
    kept: list[Any] = []
    began = asyncio.Event()

    class Hanging(ScriptedClient):
        async def refresh_token(self, *args: Any, **options: Any) -> Any:
            if self.requests == 0:
                self.requests += 1
                began.set()
                await asyncio.Event().wait()
            return await super().refresh_token(*args, **options)

    client = Hanging(due_at_once)
    refresher = client.refresher(background=background)

    async def first() -> None:
        kept.append(asyncio.create_task(refresher.ensure_fresh(due_tokens())))
        await began.wait()

    async def then() -> None:
        async with asyncio.timeout(60):
            found = await refresher.ensure_fresh(due_tokens())
            if background:
                await asyncio.sleep(1)
                found = await refresher.ensure_fresh(due_tokens())
            assert found.changed
            assert client.requests == 2
            await refresher.aclose()

    if cut == "run":
        run_virtual(first())
    else:
        loop = VirtualLoop()
        loop.run_until_complete(first())
        kept += asyncio.all_tasks(loop)
        for task in kept:
            task._log_destroy_pending = False
        loop.close()
    run_virtual(then())


@pytest.mark.parametrize("raised", [False, True])
async def test_waiters_share_no_error_object(*, raised: bool) -> None:
    """Neither one that is returned, nor one that is raised, nor its frames."""

    @asynccontextmanager
    async def broken(digest: str) -> AsyncIterator[None]:
        canary = "of the lock"
        raise ConnectionError(canary)
        yield

    async def wait(refresher: TokenRefresher, number: int) -> BaseException | None:
        mine = f"waiter {number}"
        try:
            return (await refresher.ensure_fresh(due_tokens())).error
        except ConnectionError as error:
            assert mine
            return error

    client = ScriptedClient(down)
    client.now = lambda: START + timedelta(seconds=9)  # type: ignore[method-assign] # it stands still
    refresher = client.refresher(lock=broken if raised else None)
    found = await asyncio.gather(*(wait(refresher, n) for n in range(1_000)))
    if not raised:
        found += [await wait(refresher, 1_000)]

    assert len({id(error) for error in found}) == len(found)
    for number, error in enumerate(found):
        assert error is not None
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        assert len(frames) == (2 if raised else 0)
        names = {name for frame in frames[1:] for name in frame.f_locals}
        assert not names & {"mine", "canary"}
        assert not frames or frames[0].f_locals["number"] == number


@pytest.mark.parametrize("error", [GeneratorExit, BaseException, KeyError])
async def test_a_refresh_that_ends_in_the_background_is_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it; the next page view tries again, or says why not."""

    @asynccontextmanager
    async def broken(digest: str) -> AsyncIterator[None]:
        raise error
        yield

    client = ScriptedClient(down)
    client.now = lambda: START + timedelta(seconds=100)  # type: ignore[method-assign] # it stands still
    async with client.refresher(lock=broken, background=True) as refresher:
        assert (await refresher.ensure_fresh(due_tokens())).state is TokenState.DUE
        for _ in range(3):
            await asyncio.sleep(0)
        assert "running=0" in repr(refresher)
        if error is GeneratorExit:
            found = await refresher.ensure_fresh(due_tokens())
            assert "GeneratorExit" in str(found.error)
        else:
            assert f"failed with {error.__name__}" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"remember": 0},
        {"jitter": -1},
        {"pause": -1},
        {"margin": -1},
        {"margin": float("nan")},
    ],
)
def test_wrong_options_are_refused(make: Make, options: dict[str, float]) -> None:
    """A negative margin would lengthen the life of tokens."""
    with pytest.raises(errors.ConfigError):
        make(**options)
