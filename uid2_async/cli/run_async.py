"""Running a coroutine as a program: Ctrl-C and SIGTERM let it clean up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from uid2_async.cli.failure import ExitCode

__all__ = ["run_async"]

T = TypeVar("T")


def run_async(job: Coroutine[Any, Any, T]) -> T:
    """Run *job* to its end.

    Raises:
        KeyboardInterrupt: If Ctrl-C cancelled it.
        SystemExit: If SIGTERM did.
    """
    terminated = False

    async def run() -> T:
        task = asyncio.ensure_future(job)

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        # Windows has no such handlers, nor has a thread that is not the main one.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not terminated:
            raise
    raise SystemExit(ExitCode.TERMINATED)
