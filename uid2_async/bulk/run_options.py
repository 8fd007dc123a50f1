"""How a job on files is run; none of it changes what comes out."""

from __future__ import annotations

import asyncio
import os
import random as _random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.job import JobOptions
from uid2_async.bulk.job_summary import FileProgress
from uid2_async.bulk.resume.private_files import DISK, Disk
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError

__all__ = ["RunOptions", "now"]


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a job on files is run.

    Attributes:
        batch_size: How many identities one request carries; the client's max_batch_size
            by default.
        concurrency: How many batches are in flight at most.
        dedupe_window: How many distinct identities are remembered without a state.
        stall_timeout: After how many seconds without any success the job ends.
        job_dir: Where the job keeps what it needs to be resumed; beside the output by
            default.
        restart: Whether an unfinished job is discarded.
        force: Whether an output that exists may be replaced.
        stop: Ends the job in order when it is set.
        on_progress: Told how far the job is.
        clock: Tells the time, aware.
        sleep: Waits for some seconds.
        random: Gives floats in [0, 1).
        disk: The calls of the operating system that may fail.
    """

    batch_size: int | None = None
    concurrency: int = 20
    dedupe_window: int = 100_000
    stall_timeout: float = 120.0
    job_dir: str | os.PathLike[str] | None = None
    restart: bool = False
    force: bool = False
    stop: asyncio.Event | None = None
    on_progress: Callable[[FileProgress], object] | None = None
    clock: Callable[[], datetime] = now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = _random.random
    disk: Disk = DISK

    def job_options(self, client: UID2Client) -> JobOptions:
        """Make the settings of the job itself.

        Raises:
            ConfigError: If one is not above zero.
        """
        size = client.max_batch_size if self.batch_size is None else self.batch_size
        numbers = (size, self.concurrency, self.dedupe_window, self.stall_timeout)
        if min(numbers) <= 0:
            raise ConfigError("The options of a job must be above zero.")
        return JobOptions(
            client=client,
            batch_size=size,
            concurrency=self.concurrency,
            dedupe_window=self.dedupe_window,
            stall_timeout=self.stall_timeout,
            sleep=self.sleep,
            random=self.random,
        )


strip_tracebacks(globals())
