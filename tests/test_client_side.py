"""Generation as browsers and apps do it, against the embedded operator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from uid2_async import (
    ClientSideClient,
    Email,
    EmailHash,
    IdentityScope,
    IdentityTokens,
    OptedOut,
    Phone,
    RetryPolicy,
    SessionPool,
    errors,
)
from uid2_async.hooks import CallFinished, Event, IdentitiesAnswered
from uid2_async.operator import Fault, LocalOperator, OperatorData
from uid2_async.protocol.client_side import CLIENT_GENERATE_PATH
from uid2_async.protocol.token_codec import open_token
from uid2_async.protocol.tokens import REFRESH_PATH
from uid2_async.transport import Reply, Request

PAGE = "https://www.example.com"
APP = "com.example.app"
HASH = "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="


@pytest.fixture(params=IdentityScope, ids=str)
async def operator(request: pytest.FixtureRequest) -> AsyncIterator[LocalOperator]:
    """Run an operator of either scope."""
    async with LocalOperator(OperatorData.sample(scope=request.param)) as running:
        yield running


@pytest.fixture
async def connect(
    operator: LocalOperator,
) -> AsyncIterator[Callable[..., ClientSideClient]]:
    """Make clients of the sample subscription; they are closed in the end."""
    opened: list[ClientSideClient] = []

    def make(**change: Any) -> ClientSideClient:
        pair = operator.data.keypairs[0]
        options: dict[str, Any] = {
            "subscription_id": pair.subscription_id,
            "server_public_key": pair.public_key,
            "retry": RetryPolicy(_random=lambda: 0.0),
            "clock": lambda: operator.now,
        }
        if "app_name" not in change:
            options["origin"] = PAGE
        opened.append(ClientSideClient(operator.url, **options | change))
        return opened[-1]

    yield make
    for client in opened:
        await client.aclose()


def read(operator: LocalOperator, tokens: object) -> Any:
    """Open the advertising token with the operator's own keys."""
    assert isinstance(tokens, IdentityTokens)
    keys = {key.id: key for key in operator.data.keys}
    return open_token(tokens.advertising_token, keys.get, strict=True)


@pytest.mark.parametrize(
    "home", [{"origin": PAGE}, {"origin": "http://localhost:3000"}, {"app_name": APP}]
)
@pytest.mark.parametrize("who", ["user@example.com", Phone("+12345678901")])
async def test_a_page_and_an_app_get_tokens(
    operator: LocalOperator,
    connect: Callable[..., ClientSideClient],
    home: dict[str, str],
    who: Any,
) -> None:
    """They are client-side ones of the subscription's site."""
    tokens = await connect(**home).generate_token(who)

    token = read(operator, tokens)
    assert (token.site_id, token.privacy_bits) == (operator.data.keypairs[0].site_id, 3)
    assert token.scope is operator.data.scope
    assert token.identity_type == ("phone" if isinstance(who, Phone) else "email")


async def test_tokens_are_refreshed_without_an_api_key(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """As often as one likes, and the identity stays established."""
    client = connect()
    first = await client.generate_token("user@example.com")
    assert isinstance(first, IdentityTokens)
    operator.advance(60)
    second = await client.refresh_token(first)
    assert isinstance(second, IdentityTokens)
    third = await client.refresh_token(second)

    opened = [read(operator, one) for one in (first, second, third)]
    assert len({one.established_ms for one in opened}) == 1
    assert opened[1].created_ms >= opened[0].created_ms + 60_000
    assert [call.path for call in operator.calls] == [
        CLIENT_GENERATE_PATH,
        *[REFRESH_PATH] * 2,
    ]


async def test_an_opt_out_is_an_answer(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """At generation, and later at refresh."""
    client = connect()
    tokens = await client.generate_token("user@example.com")
    assert isinstance(tokens, IdentityTokens)
    operator.opt_out("user@example.com")

    assert await client.generate_token("user@example.com") == OptedOut()
    assert await client.refresh_token(tokens) == OptedOut()


async def test_a_refresh_token_that_is_too_old_is_refused(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """The caller generates new tokens."""
    client = connect()
    tokens = await client.generate_token("user@example.com")
    assert isinstance(tokens, IdentityTokens)
    operator.advance(timedelta(days=400).total_seconds())

    with pytest.raises(errors.InvalidTokenError):
        await client.refresh_token(tokens)


@pytest.mark.parametrize(
    ("home", "code", "hint"),
    [
        ({"origin": "https://example.net"}, "invalid_http_origin", "origin="),
        ({"app_name": "com.example.other"}, "invalid_app_name", "app_name="),
    ],
)
async def test_a_foreign_home_is_refused_with_advice(
    connect: Callable[..., ClientSideClient], home: dict[str, str], code: str, hint: str
) -> None:
    """403 says which of the two it was, and is not repeated."""
    with pytest.raises(errors.AuthError) as caught:
        await connect(**home).generate_token("user@example.com")

    assert (caught.value.status, caught.value.code) == (403, code)
    assert caught.value.hint.startswith(hint)
    assert caught.value.attempts == 1
    assert caught.value.endpoint == CLIENT_GENERATE_PATH


async def test_an_unknown_subscription_is_refused(
    connect: Callable[..., ClientSideClient],
) -> None:
    """The operator's words are passed on."""
    with pytest.raises(errors.BadRequestError, match="bad subscription_id"):
        await connect(subscription_id="unknown").generate_token("user@example.com")


async def test_another_subscriptions_key_is_refused(
    connect: Callable[..., ClientSideClient],
) -> None:
    """The payload cannot be opened with it."""
    other = OperatorData.sample(seed=7).keypairs[0].public_key

    with pytest.raises(errors.BadRequestError, match="payload decryption failed"):
        await connect(server_public_key=other).generate_token("user@example.com")


async def test_an_invalid_identity_is_not_sent(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """And not shown; it takes no retry, no slot and no hook to say so."""
    events: list[Event] = []
    client = connect(hooks=[events.append])

    with pytest.raises(errors.InputError) as caught:
        await client.generate_token(Email("canary"))

    assert "canary" not in str(caught.value)
    assert operator.calls == events == []


async def test_a_failed_attempt_is_sealed_anew(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """Each has a key pair and an IV of its own; the identity is sent hashed."""
    pool = SessionPool(operator.url)
    sent: list[Request] = []

    class Spy:
        """Notes what goes through."""

        async def send(self, request: Request) -> Reply:
            """Note and pass on."""
            sent.append(request)
            return await pool.send(request)

        async def aclose(self) -> None:
            """Be left open by the client."""
            raise AssertionError

    operator.fail_next(Fault(status=503), times=2)
    events: list[Event] = []
    client = connect(transport=Spy(), hooks=[events.append])
    await client.generate_token(EmailHash(HASH))
    await client.aclose()
    await pool.aclose()

    bodies = [json.loads(request.body) for request in sent]
    assert len(bodies) == 3
    for name in ("public_key", "iv", "payload"):
        assert len({body[name] for body in bodies}) == 3
    assert all(request.headers["Origin"] == PAGE for request in sent)
    assert not any("Authorization" in request.headers for request in sent)
    assert HASH.encode() not in sent[0].body
    *_, finished, answered = events
    assert isinstance(finished, CallFinished)
    assert (finished.attempts, finished.error_type) == (3, None)
    assert isinstance(answered, IdentitiesAnswered)
    assert (answered.kind, answered.result, answered.count) == ("email", "token", 1)


async def test_an_app_sends_its_name_and_no_origin(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """The name stands in the authenticated part of the request."""
    await connect(app_name=APP).generate_token("user@example.com")

    assert [call.status for call in operator.calls] == [200]


@pytest.mark.parametrize("body", [b"", b"nonsense!", b"AAAA", b'{"status":"success"}'])
async def test_a_reply_that_does_not_open_is_no_answer(
    operator: LocalOperator, connect: Callable[..., ClientSideClient], body: bytes
) -> None:
    """Neither a portal's page nor a reply in the clear is taken."""
    operator.fail_next(Fault(status=200, body=body), times=4)

    with pytest.raises(errors.EnvelopeError):
        await connect().generate_token("user@example.com")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"app_name": None}, TypeError),
        ({"origin": PAGE, "app_name": APP}, TypeError),
        ({"session": object(), "transport": object()}, TypeError),
        ({"origin": ""}, errors.ConfigError),
        ({"origin": "https://a\r\nb"}, errors.ConfigError),
        ({"origin": "https://\u00e4.example"}, errors.ConfigError),
        ({"server_public_key": "UID2-X-L-canary"}, errors.ConfigError),
        ({"timeout": 0}, errors.ConfigError),
    ],
)
async def test_wrong_settings_are_refused_at_once(
    connect: Callable[..., ClientSideClient],
    change: dict[str, Any],
    kind: type[Exception],
) -> None:
    """Before anything is sent, and without showing a key."""
    with pytest.raises(kind) as caught:
        connect(**change)

    assert "canary" not in str(caught.value)


async def test_a_calls_own_time_counts(
    connect: Callable[..., ClientSideClient],
) -> None:
    """It is checked like the client's."""
    with pytest.raises(errors.ConfigError, match="timeout"):
        await connect().generate_token("user@example.com", timeout=-1)


async def test_a_block_closes_the_client(
    operator: LocalOperator, connect: Callable[..., ClientSideClient]
) -> None:
    """And the repr shows where it sends to, no more."""
    async with connect() as client:
        assert repr(client) == f"<ClientSideClient {operator.url}>"
        await client.generate_token("user@example.com", timeout=30)
    with pytest.raises(errors.ClientClosedError, match="closed"):
        await client.generate_token("user@example.com")


async def test_the_defaults_suffice(operator: LocalOperator) -> None:
    """Retry policy and clock need not be given."""
    pair = operator.data.keypairs[0]
    async with ClientSideClient(
        operator.url,
        subscription_id=pair.subscription_id,
        server_public_key=pair.public_key,
        origin=PAGE,
    ) as client:
        tokens = await client.generate_token("user@example.com")

    assert isinstance(tokens, IdentityTokens)
