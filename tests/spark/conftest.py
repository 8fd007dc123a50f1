"""Spark on this machine, and an operator in its driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from uid2_async.integrations.spark import local_session
from uid2_async.operator import LocalOperator

# As long as a request takes, others can be seen beside it.
DELAY_SECONDS = 0.3


@pytest.fixture(scope="session")
def operator() -> Iterator[LocalOperator]:
    """Run one operator for all sessions: workers inherit its address from Java."""
    with LocalOperator.in_thread() as running:
        yield running


@pytest.fixture(scope="module", params=[2, 4], ids="{}-tasks".format)
def spark(request: pytest.FixtureRequest, operator: LocalOperator) -> Iterator[Any]:
    """Open a session that runs 2 tasks at once, then one that runs 4."""
    with local_session(request.param) as session:
        session.sparkContext.setLogLevel("OFF")
        yield session
