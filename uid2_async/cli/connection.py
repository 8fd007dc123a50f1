"""The client of a command: of the operator that the environment names, or a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from uid2_async.client import UID2Client
from uid2_async.models import IdentityScope

__all__ = ["connect"]

# A state and an unfinished job belong to one operator; the port of a sandbox changes.
_SANDBOX_URL: Final = "http://localhost"


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
    # The sandbox alone needs them.
    from uid2_async.operator import LocalOperator, OperatorData  # noqa: PLC0415 - above
    from uid2_async.transport import SessionPool  # noqa: PLC0415 - above

    async with (
        LocalOperator(OperatorData.sample(scope=scope)) as operator,
        SessionPool(operator.url) as pool,
        UID2Client(
            _SANDBOX_URL,
            api_key=operator.credentials["everything"].api_key,
            client_secret=operator.credentials["everything"].client_secret,
            scope=scope,
            transport=pool,
        ) as client,
    ):
        yield client
