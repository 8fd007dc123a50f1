"""A small suite against whatever operator the environment names (``nox -s live``)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from uid2_async import (
    IdentityScope,
    IdentityTokens,
    MappedUID,
    OptedOut,
    UID2Client,
    errors,
)

SCOPES = [
    scope
    for scope in IdentityScope
    if {f"{scope}_BASE_URL", f"{scope}_ENV"} & os.environ.keys()
]

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not SCOPES,
        reason="UID2_BASE_URL, UID2_ENV and their EUID_ twins are not set",
    ),
]


@pytest.fixture(params=SCOPES)
async def live(request: pytest.FixtureRequest) -> AsyncIterator[UID2Client]:
    """Connect as the environment says."""
    async with UID2Client.from_env(request.param) as client:
        yield client


def skip_without_role(error: errors.AuthError) -> NoReturn:
    """A key seldom has every role; what it cannot do is not a failure."""
    pytest.skip(f"the API key may not call {error.endpoint}")


async def test_a_test_identity_gets_a_token(live: UID2Client) -> None:
    """validate@example.com is never opted out, and its token is its own."""
    try:
        tokens = await live.generate_token("validate@example.com")
        assert isinstance(tokens, IdentityTokens)
        assert isinstance(await live.refresh_token(tokens), IdentityTokens)
        assert await live.generate_token("optout@example.com") == OptedOut()
        leaving = await live.generate_token("refresh-optout@example.com")
        assert isinstance(leaving, IdentityTokens)
        assert await live.refresh_token(leaving) == OptedOut()
    except errors.AuthError as error:
        skip_without_role(error)


async def test_identities_are_mapped(live: UID2Client) -> None:
    """One mapped, one opted out, one invalid."""
    try:
        found = await live.map_identities(
            ["validate@example.com", "optout@example.com", "invalid"]
        )
    except errors.AuthError as error:
        skip_without_role(error)
    assert [isinstance(row, MappedUID) for row in found] == [True, False, False]


async def test_keys_are_fetched(live: UID2Client) -> None:
    """The key ring opens, and is of this scope."""
    try:
        ring = await live.fetch_sharing_keys()
    except errors.AuthError as error:
        skip_without_role(error)
    assert ring.identity_scope is live.scope
