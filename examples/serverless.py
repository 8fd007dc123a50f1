"""A serverless function that decrypts tokens, for AWS Lambda and similar platforms.

    python examples/serverless.py

The platform calls `handler`. What the first call opens (a cold start) lives as long as
the execution environment, which is frozen between calls. Therefore there is one event
loop, no background task, and keys that are fetched only if they are older than an hour.
Their age includes the time in which the environment was frozen. Settings come from the
environment (UID2_BASE_URL, UID2_API_KEY, UID2_SECRET_KEY, or _FILE for mounted
secrets).
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
# Shorter than the function's own limit: a call that the platform ends has no error.
TIMEOUT_SECONDS = 5.0


@attrs.frozen
class Environment:
    """What is kept from one call to the next."""

    runner: asyncio.Runner
    client: UID2Client
    keys: KeyStore


@cache
def start() -> Environment:
    """Create what all calls share. Nothing is sent yet."""
    client = UID2Client.from_env(timeout=TIMEOUT_SECONDS)
    return Environment(asyncio.Runner(), client, KeyStore(client.fetch_bidstream_keys))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - the platform's signature
    """Decrypt the tokens of an event, and return how many were decrypted."""
    here = start()
    try:
        ring = here.runner.run(here.keys.ensure_fresh(MAX_AGE_SECONDS))
    except errors.UID2Error as error:
        # Only a cold start during an outage fails. Later calls use the existing keys.
        return {"statusCode": 503, "error": type(error).__name__}
    found = BidstreamClient(ring).decrypt_many(event["tokens"])
    opened = sum(isinstance(row, DecryptedToken) for row in found)
    return {"statusCode": 200, "opened": opened}


def stop() -> None:
    """Close everything. Platforms do not call this, but tests do."""
    here = start()
    here.runner.run(here.client.aclose())
    here.runner.close()
    start.cache_clear()


# --- the demonstration ----------------------------------------------------------------


def demo() -> None:
    """Do what the platform does: a cold start, and a call of the warm function."""
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
    demo()
