"""The operator that a command calls, and how a coroutine runs as a program."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from uid2_async import operator
from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.options import SandboxOption, ScopeOption
from uid2_async.cli.output import print_message
from uid2_async.models import IdentityScope

if TYPE_CHECKING:
    from uid2_async.client import UID2Client

T = TypeVar("T")

# A state and an unfinished job belong to one operator, but a sandbox changes ports.
_SANDBOX_URL: Final = "http://localhost"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@attrs.frozen(kw_only=True)
class Connection:
    """Which operator to call. Each field is an option."""

    sandbox: SandboxOption = False
    scope: ScopeOption = IdentityScope.UID2

    @asynccontextmanager
    async def client(self) -> AsyncIterator[UID2Client]:
        """Open a client, and a sandbox for as long as it if one is requested."""
        # Without aiohttp, --help takes half the time.
        from uid2_async.client import UID2Client  # noqa: PLC0415 - above
        from uid2_async.transport import SessionPool  # noqa: PLC0415 - above

        if not self.sandbox:
            async with UID2Client.from_env(self.scope) as client:
                yield client
            return
        data = operator.OperatorData.sample(scope=self.scope)
        async with (
            operator.LocalOperator(data) as local,
            SessionPool(local.url) as pool,
            UID2Client(
                _SANDBOX_URL,
                api_key=local.credentials["everything"].api_key,
                client_secret=local.credentials["everything"].client_secret,
                scope=self.scope,
                transport=pool,
            ) as client,
        ):
            yield client

    def ask(self, call: Callable[[UID2Client], Coroutine[Any, Any, T]]) -> T:
        """Run *call* with a client."""

        async def run() -> T:
            async with self.client() as client:
                return await call(client)

        return run_async(run())


def run_async(
    job: Coroutine[Any, Any, T],
    *,
    on_stop: Callable[[signal.Signals], object] | None = None,
) -> T:
    """Run *job* to its end.

    The first SIGINT or SIGTERM calls *on_stop*, so that the job can stop cleanly; the
    second signal cancels it. Without *on_stop*, the first signal cancels. A canceled
    job raises KeyboardInterrupt or SystemExit.
    """
    cancelled_by: list[signal.Signals] = []

    async def run() -> T:
        task = asyncio.ensure_future(job)
        loop = asyncio.get_running_loop()

        def cancel(number: signal.Signals) -> None:
            cancelled_by.append(number)
            task.cancel()

        def stop(number: signal.Signals) -> None:
            assert on_stop is not None  # noqa: S101 - else this is no handler
            print_message(
                "warning", "Stopping cleanly. Press Ctrl-C again to stop immediately."
            )
            for one in _SIGNALS:
                loop.add_signal_handler(one, cancel, one)
            on_stop(number)

        # Neither Windows nor a thread other than the main one supports these handlers.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for one in _SIGNALS:
                loop.add_signal_handler(one, stop if on_stop else cancel, one)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not cancelled_by:
            raise
    if signal.SIGTERM in cancelled_by:
        raise SystemExit(ExitCode.TERMINATED)
    raise KeyboardInterrupt
