"""An operator in a thread, and how an application finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from uid2_async import IdentityScope, TokenRefresher, UID2Client
from uid2_async.operator import LocalOperator, OperatorData


@pytest.fixture
def operator(scope: IdentityScope) -> Iterator[LocalOperator]:
    """Run an operator for the test client, which has its own loop."""
    with LocalOperator.in_thread(OperatorData.sample(scope=scope)) as running:
        yield running


@pytest.fixture
def settings(operator: LocalOperator) -> dict[str, Callable[..., Any]]:
    """Make client and refresher go by the operator's clock."""

    def now() -> Any:
        return operator.now

    def make_client() -> UID2Client:
        return UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            scope=operator.data.scope,
            clock=now,
        )

    def make_refresher(client: UID2Client) -> TokenRefresher:
        return TokenRefresher(client, clock=now)

    return {"make_client": make_client, "make_refresher": make_refresher}


@pytest.fixture
def refreshes(operator: LocalOperator) -> Callable[[], int]:
    """Count the refreshes that the operator was asked for."""
    return lambda: sum(call.path == "/v2/token/refresh" for call in operator.calls)
