"""A job ends by itself, by Ctrl-C or by SIGTERM, and cleans up in each case."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from uid2_async.cli.connection import run_async


async def wait_after(number: signal.Signals, cleaned: list[str]) -> None:
    """Send *number* to this process and wait for what comes of it."""
    try:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
    finally:
        cleaned.append("up")


def test_result() -> None:
    """The job's result is handed on."""

    async def job() -> int:
        return 7

    assert run_async(job()) == 7


def test_sigterm() -> None:
    """SIGTERM cancels the job and ends the program with 143."""
    cleaned: list[str] = []
    with pytest.raises(SystemExit) as caught:
        run_async(wait_after(signal.SIGTERM, cleaned))

    assert caught.value.code == 143
    assert cleaned == ["up"]


def test_sigint() -> None:
    """Ctrl-C cancels the job and interrupts the program."""
    cleaned: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_async(wait_after(signal.SIGINT, cleaned))

    assert cleaned == ["up"]


def test_cancelled_by_itself() -> None:
    """A job that is cancelled without a signal stays cancelled."""

    async def job() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_async(job())


def test_in_a_thread() -> None:
    """Where signals cannot be handled, the job runs all the same."""
    results: list[int] = []

    async def job() -> int:
        return 7

    thread = threading.Thread(target=lambda: results.append(run_async(job())))
    thread.start()
    thread.join(30)

    assert results == [7]
