"""Running a coroutine as a program: Ctrl-C and SIGTERM let it clean up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from uid2_async.cli.exit_codes import ExitCode
from uid2_async.cli.printing import print_message

__all__ = ["run_async"]

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_async(
    job: Coroutine[Any, Any, T],
    *,
    on_stop: Callable[[signal.Signals], object] | None = None,
) -> T:
    """Run *job* to its end.

    Args:
        job: What to run.
        on_stop: Called with the first SIGINT or SIGTERM, so that the job can stop
            cleanly; the second one cancels it. Without it the first one does.

    Raises:
        KeyboardInterrupt: If SIGINT cancelled it.
        SystemExit: If SIGTERM did.
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

        # Windows has no such handlers, nor has a thread that is not the main one.
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
