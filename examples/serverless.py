"""A serverless function that opens tokens: AWS Lambda, Cloud Functions and the like.

    python examples/serverless.py

The platform calls `handler`. What is opened with the first call (a cold start) lives as
long as the execution environment, which is frozen between calls: one event loop, no
background task, and keys that are fetched only if they are older than an hour. The age
counts the time in which the environment was frozen. Settings come from the environment
(UID2_BASE_URL, UID2_API_KEY, UID2_SECRET_KEY, or _FILE for mounted secrets).
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

import attrs

from uid2_async import (
    BidstreamClient,
    BlockingClient,
    DecryptedToken,
    IdentityTokens,
    KeyStore,
    UID2Client,
    errors,
)
from uid2_async.operator import LocalOperator

MAX_AGE_SECONDS = 3_600
# Less than the function's own limit: a call that the platform ends tells nobody why.
TIMEOUT_SECONDS = 5.0


@attrs.frozen
class Environment:
    """What lives from one call to the next."""

    runner: asyncio.Runner
    client: UID2Client
    keys: KeyStore


@cache
def start() -> Environment:
    """Open what all calls share; nothing is sent yet."""
    client = UID2Client.from_env(timeout=TIMEOUT_SECONDS)
    return Environment(asyncio.Runner(), client, KeyStore(client.fetch_bidstream_keys))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - the platform's signature
    """Open the tokens of an event, and say how many opened."""
    here = start()
    try:
        ring = here.runner.run(here.keys.ensure_fresh(MAX_AGE_SECONDS))
    except errors.UID2Error as error:
        # Only a cold start during an outage: later calls go on with the keys they have.
        return {"statusCode": 503, "error": type(error).__name__}
    found = BidstreamClient(ring).decrypt_many(event["tokens"])
    opened = sum(isinstance(row, DecryptedToken) for row in found)
    return {"statusCode": 200, "opened": opened}


def stop() -> None:
    """Close it all; platforms do not ask for it, tests do."""
    here = start()
    here.runner.run(here.client.aclose())
    here.runner.close()
    start.cache_clear()


# --- as a play ------------------------------------------------------------------------


def play() -> None:
    """Do as the platform does: a cold start, and a call of the warm function."""
    with LocalOperator.in_thread() as operator:
        os.environ["UID2_BASE_URL"] = operator.url
        os.environ["UID2_API_KEY"] = operator.api_key
        os.environ["UID2_SECRET_KEY"] = operator.client_secret
        with BlockingClient.from_env() as publisher:
            tokens = publisher.generate_token("user@example.com")
        assert isinstance(tokens, IdentityTokens)
        event = {"tokens": [tokens.advertising_token, "no token"]}
        for name in ("cold", "warm"):
            print(name, handler(event, None))
        fetches = sum(call.path.startswith("/v2/key/") for call in operator.calls)
        print(f"The keys were fetched {fetches} time(s).")
        stop()


if __name__ == "__main__":
    play()
