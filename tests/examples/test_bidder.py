"""The example bidder: bid requests, opt-outs, an outage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from uid2_async import IdentityTokens, RetryPolicy, TokenFailure, UID2Client
from uid2_async.operator import Fault, LocalOperator
from uid2_async.publisher import add_openrtb_eid, to_openrtb_eid


@pytest.fixture
def example(load: Callable[[str], ModuleType]) -> Any:
    """Import the example."""
    return load("bidder")


@pytest.fixture
def make_client(operator: LocalOperator) -> Callable[[], UID2Client]:
    """Make clients of the operator."""
    return partial(
        UID2Client,
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        retry=RetryPolicy.never(),
    )


@pytest.fixture
async def bidder(
    example: Any, make_client: Callable[[], UID2Client]
) -> AsyncIterator[TestClient[Any, Any]]:
    """Run the service."""
    async with TestClient(TestServer(example.make_app(make_client))) as opened:
        yield opened


@pytest.fixture
async def tokens(make_client: Callable[[], UID2Client]) -> IdentityTokens:
    """Generate tokens for a person."""
    async with make_client() as client:
        generated = await client.generate_token("user@example.com")
    assert isinstance(generated, IdentityTokens)
    return generated


async def known(bidder: TestClient[Any, Any], bid_request: dict[str, Any]) -> bool:
    """Ask for a bid."""
    reply = await bidder.post("/bid", json=bid_request)
    answer = await reply.json()
    return answer["known"]


async def test_every_shape_of_bid_request(
    bidder: TestClient[Any, Any], tokens: IdentityTokens
) -> None:
    """OpenRTB 2.5, null objects and a second uid cost no bid and raise nothing."""
    second = to_openrtb_eid(tokens)
    second["user"]["eids"][0]["uids"].insert(0, {"id": "damaged"})

    assert await known(bidder, to_openrtb_eid(tokens, "2.5"))
    assert await known(bidder, second)
    assert not await known(bidder, {"user": None, "site": None, "app": None})


async def test_keys_serve_on_in_an_outage(
    bidder: TestClient[Any, Any],
    operator: LocalOperator,
    example: Any,
    tokens: IdentityTokens,
) -> None:
    """The health check reports it, and the bids continue."""
    operator.fail_next(Fault(status=503), times=9)
    assert bidder.app is not None
    await bidder.app[example.KEYS].ensure_fresh(0)

    assert await known(bidder, to_openrtb_eid(tokens))
    health = await bidder.get("/health")
    report = await health.json()
    assert (health.status, report["last_error"]) == (200, "ServerError")


async def test_without_any_keys_it_bids_for_nobody(
    example: Any,
    operator: LocalOperator,
    make_client: Callable[[], UID2Client],
    tokens: IdentityTokens,
) -> None:
    """It comes up, and health says that it is not ready."""
    operator.fail_next(Fault(status=503), times=9)
    async with TestClient(TestServer(example.make_app(make_client))) as bidder:
        assert not await known(bidder, to_openrtb_eid(tokens))
        assert (await bidder.get("/health")).status == 503


async def test_an_opt_out_ends_the_bids(
    bidder: TestClient[Any, Any], example: Any, tokens: IdentityTokens
) -> None:
    """The notice is answered with 200, one that cannot be read with 400."""
    assert bidder.app is not None
    raw_uid = bidder.app[example.BIDDER].identify(to_openrtb_eid(tokens))
    query = urlencode({"identity": raw_uid, "timestamp": 1_700_000_000})

    assert (await bidder.get(f"/optout?{query}")).status == 200
    assert (await bidder.get("/optout?identity=x")).status == 400
    assert not await known(bidder, to_openrtb_eid(tokens))


async def test_an_opt_out_ends_the_bids_by_other_tokens_too(
    bidder: TestClient[Any, Any],
    example: Any,
    make_client: Callable[[], UID2Client],
    tokens: IdentityTokens,
) -> None:
    """Who opted out by email is not bid on by phone."""
    async with make_client() as client:
        by_phone = await client.generate_token("+12345678901")
    assert isinstance(by_phone, IdentityTokens)
    assert bidder.app is not None
    opted_out = bidder.app[example.BIDDER].opted_out
    opted_out.add(bidder.app[example.BIDDER].identify(to_openrtb_eid(tokens)))

    both = add_openrtb_eid(to_openrtb_eid(tokens), by_phone)
    assert await known(bidder, to_openrtb_eid(by_phone))
    assert not await known(bidder, both)


async def test_a_refused_token_is_counted_with_what_to_do(
    bidder: TestClient[Any, Any], example: Any, tokens: IdentityTokens
) -> None:
    """A token that does not open is nobody's; every reason has an advice."""
    shorter = tokens.advertising_token[:-9]
    cut = msgspec.structs.replace(tokens, advertising_token=shorter)

    assert not await known(bidder, to_openrtb_eid(cut))
    assert not await known(bidder, {"site": {"domain": "example.com"}})
    report = await (await bidder.get("/health")).json()
    assert report["bid_requests"] == [
        "1 invalid payload. Not a token, or a damaged one: notify the seller.",
        "1 no token.",
    ]
    assert set(example.ADVICE) == set(TokenFailure)


def test_it_plays_without_credentials(run: Callable[..., Any]) -> None:
    """An outage and an opt-out are explained; no raw UID is printed."""
    done = run("bidder.py")

    assert done.returncode == 0, done.stderr
    assert "The keys still decrypt tokens: True" in done.stdout
    assert "Bids on a person who opted out: False" in done.stdout
    assert max(map(len, done.stdout.split())) < 30
