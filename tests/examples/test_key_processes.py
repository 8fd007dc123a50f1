"""Keys where processes come and go: workers, and a serverless function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from uid2_async import BlockingClient, IdentityTokens
from uid2_async.operator import Fault, LocalOperator
from uid2_async.testing import ManualClock

HOUR = 3_600.0


def test_three_workers_share_one_fetch(run: Callable[..., Any]) -> None:
    """Under load and in an outage all tokens open, and the operator is left alone."""
    done = run("key_workers.py")

    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\d+) workers decrypted ([\d,]+)", done.stdout) == [
        ("3", "60,000")
    ]
    assert "asked for keys 1 time(s)" in done.stdout


def test_the_serverless_function_plays(run: Callable[..., Any]) -> None:
    """Without credentials, as every example."""
    done = run("serverless.py")

    assert done.returncode == 0, done.stderr
    assert "fetched 1 time(s)" in done.stdout


@pytest.fixture
def function(
    load: Callable[[str], ModuleType], uid2_env: LocalOperator
) -> Iterator[ModuleType]:
    """Deploy the function where the environment names an operator."""
    module = load("serverless")
    yield module
    module.stop()


def fetches(operator: LocalOperator) -> list[int]:
    """List the answers to requests for keys."""
    return [call.status for call in operator.calls if call.path.startswith("/v2/key/")]


def test_cold_and_warm_calls(
    function: ModuleType, uid2_env: LocalOperator, uid2_clock: ManualClock
) -> None:
    """A cold start fetches, a warm call does not, and one after hours of frost does."""
    with BlockingClient.from_env() as publisher:
        tokens = publisher.generate_token("user@example.com")
    assert isinstance(tokens, IdentityTokens)
    event = {"tokens": [tokens.advertising_token, "no token"]}
    good = {"statusCode": 200, "opened": 1}

    assert function.handler(event, None) == good
    assert function.handler(event, None) == good
    assert fetches(uid2_env) == [200]
    uid2_clock.advance(2 * HOUR)
    assert function.handler(event, None) == good
    assert fetches(uid2_env) == [200, 200]
    uid2_clock.advance(2 * HOUR)
    uid2_env.fail_next(Fault(status=401), times=9)
    assert function.handler(event, None) == good  # with the keys it has


def test_a_cold_start_in_an_outage(
    function: ModuleType, uid2_env: LocalOperator, uid2_clock: ManualClock
) -> None:
    """It says so, does not ask again at once, and recovers."""
    uid2_env.fail_next(Fault(status=401), times=1)
    for _ in range(2):
        reply = function.handler({"tokens": []}, None)
        assert reply == {"statusCode": 503, "error": "AuthError"}
    assert fetches(uid2_env) == [401]
    uid2_clock.advance(60)
    assert function.handler({"tokens": []}, None)["statusCode"] == 200
