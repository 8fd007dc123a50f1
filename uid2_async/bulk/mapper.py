"""BulkMapper: a stream of identities in, records out, in order, in constant memory."""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import Block
from uid2_async.bulk.feed import Feed, ItemFeed
from uid2_async.bulk.job import JobOptions, MapJob
from uid2_async.bulk.records import MapFailure, MapRecord, Progress
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError
from uid2_async.models import Identity, UnmappedReason

__all__ = ["BulkMapper", "Records"]

T = TypeVar("T")


class BulkMapper:
    """Maps any number of identities, many batches at once.

    It has no state between jobs: one mapper serves many, one after the other or at
    once.

    Example:
        >>> async with BulkMapper(client).map(emails) as records:
        ...     async for record in records:
        ...         print(record.result)
    """

    def __init__(
        self,
        client: UID2Client,
        *,
        batch_size: int | None = None,
        concurrency: int = 20,
        dedupe_window: int = 100_000,
        stall_timeout: float = 120.0,
        on_progress: Callable[[Progress], object] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """Keep the settings.

        Args:
            client: Who sends; its retry policy and time-out are for interactive calls
                and do not apply here.
            batch_size: How many identities one request carries; the client's
                max_batch_size by default.
            concurrency: How many batches are in flight at most.
            dedupe_window: How many distinct identities are remembered, so that each is
                asked about once.
            stall_timeout: After how many seconds without any success the job ends.
            on_progress: Told after each step of some hundred records.
            sleep: Waits for some seconds.
            random: Gives floats in [0, 1).

        Raises:
            ConfigError: If an option is not above zero.
        """
        size = client.max_batch_size if batch_size is None else batch_size
        if min(size, concurrency, dedupe_window, stall_timeout) <= 0:
            raise ConfigError("The options of BulkMapper must be above zero.")
        self._on_progress = on_progress
        self._options = JobOptions(
            client=client,
            batch_size=size,
            concurrency=concurrency,
            dedupe_window=dedupe_window,
            stall_timeout=stall_timeout,
            sleep=sleep,
            random=random,
        )

    @asynccontextmanager
    async def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        key: Callable[[T], Identity | str] | None = None,
    ) -> AsyncIterator[Records[T]]:
        """Map *items*; the block owns all that works for it.

        Leaving the block early, cancellation and an exception inside of it stop the
        work and leave nothing running; the exception comes out as it is. Batches that
        were in flight may have been answered by the operator all the same.

        Args:
            items: A sync or async iterable of any length; it is read as fast as the
                records are taken.
            key: Finds the identity of an item; without it, items are identities.

        Yields:
            An async iterator of records, one for each item, in order.
        """
        async with self.map_feed(ItemFeed(items, key)) as records:
            yield records

    @asynccontextmanager
    async def map_feed(self, feed: Feed) -> AsyncIterator[Records[Any]]:
        """Map what *feed* gives; for what is built on a mapper.

        As :meth:`map`, but the identities come in steps of one column each, which costs
        less than to look at each item.

        Yields:
            Records whose items are those of the steps' payloads: one for each row.
        """
        job = MapJob(self._options, feed)
        job.start()
        try:
            yield Records(job, self._on_progress)
        finally:
            await job.stop()


class Records(Generic[T]):
    """The records of one job, in the order of its items.

    Iterating raises an AuthError if the API key or secret is not accepted, and other
    errors that would meet every batch; a StalledError if no batch succeeded for the
    mapper's stall_timeout; and an InputError if an item's key is neither an identity
    nor a str.
    """

    def __init__(
        self, job: MapJob, on_progress: Callable[[Progress], object] | None = None
    ) -> None:
        """Take the records of *job*."""
        self._job = job
        self._on_progress = on_progress
        self._ready: Iterator[MapRecord[T]] = iter(())
        self._progress = Progress()

    @property
    def progress(self) -> Progress:
        """How far the job is."""
        job = self._job.progress()
        return attrs.evolve(
            self._progress,
            batches=job.batches,
            in_flight=job.in_flight,
            limit=job.limit,
            throttled=job.throttled,
        )

    def __aiter__(self) -> Self:
        """Iterate over the records."""
        return self

    async def __anext__(self) -> MapRecord[T]:
        """Give the next record."""
        for record in self._ready:
            return record
        while True:
            steps = await self.next_step()
            if steps is None:
                raise StopAsyncIteration
            self._ready = iter(steps)
            for record in self._ready:
                return record

    async def next_step(self) -> list[MapRecord[T]] | None:
        """Give the next records at once, some hundred of them; None at the end.

        For those who write files: it costs less than to await each record.
        """
        block = await self._job.next_block()
        if block is None:
            return None
        records = list(map(MapRecord, block.payload, block.outcomes()))
        self._count(block, records)
        return records

    def _count(self, block: Block, records: list[MapRecord[T]]) -> None:
        """Count the outcomes, and tell of them."""
        failed = opted_out = mapped = 0
        for record in records:
            outcome = record.outcome
            if isinstance(outcome, MapFailure):
                failed += 1
            elif outcome.mapped:
                mapped += 1
            else:
                opted_out += outcome.e == UnmappedReason.OPTED_OUT
        before = self._progress
        self._progress = attrs.evolve(
            before,
            rows=before.rows + len(records),
            mapped=before.mapped + mapped,
            opted_out=before.opted_out + opted_out,
            invalid=before.invalid + len(records) - mapped - opted_out - failed,
            failed=before.failed + failed,
            duplicates=before.duplicates + block.duplicates,
        )
        if self._on_progress is not None:
            self._on_progress(self.progress)


strip_tracebacks(globals())
