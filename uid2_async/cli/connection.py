"""The client of a command: of the operator that the environment names, or a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from uid2_async.client import UID2Client
from uid2_async.hooks import CallFinished, Event
from uid2_async.models import IdentityScope

__all__ = ["RequestCount", "connect"]


class RequestCount:
    """A hook that counts requests, repeated ones too.

    Attributes:
        requests: How many have been sent.
    """

    def __init__(self) -> None:
        """Start at none."""
        self.requests: int = 0

    def __call__(self, event: Event) -> None:
        """Take notice of *event*."""
        if isinstance(event, CallFinished):
            self.requests += event.attempts


@asynccontextmanager
async def connect(scope: IdentityScope, *, sandbox: bool) -> AsyncIterator[UID2Client]:
    """Make a client, and with *sandbox* an embedded operator that lives as long.

    Args:
        scope: UID2 or EUID.
        sandbox: Whether to ignore the environment and start an operator.

    Raises:
        ConfigError: If the environment does not name an operator.
    """
    if not sandbox:
        async with UID2Client.from_env(scope) as client:
            yield client
        return
    from uid2_async.operator import LocalOperator, OperatorData  # noqa: PLC0415 - for the sandbox alone

    async with LocalOperator(OperatorData.sample(scope=scope)) as operator:
        credentials = operator.credentials["everything"]
        async with UID2Client(
            operator.url,
            api_key=credentials.api_key,
            client_secret=credentials.client_secret,
            scope=scope,
        ) as client:
            yield client
