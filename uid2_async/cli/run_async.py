"""Running a coroutine as a program: Ctrl-C and SIGTERM let it clean up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from uid2_async.cli.failure import ExitCode, complain

__all__ = ["run_async"]

T = TypeVar("T")


def run_async(
    job: Coroutine[Any, Any, T], *, on_interrupt: Callable[[], object] | None = None
) -> T:
    """Run *job* to its end.

    Args:
        job: What to run.
        on_interrupt: What the first Ctrl-C calls, so that the job can end in order; the
            second one cancels it. Without it the first one does.

    Raises:
        KeyboardInterrupt: If Ctrl-C cancelled it.
        SystemExit: If SIGTERM did.
    """
    cancelled_by: list[signal.Signals] = []

    async def run() -> T:
        task = asyncio.ensure_future(job)
        loop = asyncio.get_running_loop()

        def cancel(number: signal.Signals) -> None:
            cancelled_by.append(number)
            task.cancel()

        def interrupt() -> None:
            assert on_interrupt is not None  # noqa: S101 - else this is no handler
            complain("Ending in order; press Ctrl-C again to stop at once.")
            loop.add_signal_handler(signal.SIGINT, cancel, signal.SIGINT)
            on_interrupt()

        # Windows has no such handlers, nor has a thread that is not the main one.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, cancel, signal.SIGTERM)
            if on_interrupt is not None:
                loop.add_signal_handler(signal.SIGINT, interrupt)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not cancelled_by:
            raise
    if signal.SIGTERM in cancelled_by:
        raise SystemExit(ExitCode.TERMINATED)
    raise KeyboardInterrupt
