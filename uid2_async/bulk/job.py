"""One bulk job: a feeder, lanes that send, and a watch for a standstill.

All of its CPU work is done in steps of at most 5 ms under one lock, so that twenty
replies that arrive at once do not hold up the event loop for their sum.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, Final

import attrs

from uid2_async.bulk.batches import Batch, Batcher, Block
from uid2_async.bulk.limit import ConcurrencyLimit
from uid2_async.bulk.records import MapFailure
from uid2_async.bulk.sender import BatchSender
from uid2_async.client import UID2Client
from uid2_async.errors import (
    AuthError,
    CertificateError,
    ClientForkError,
    ClientLoopError,
    ClockSkewError,
    ConfigError,
    OperatorError,
    PayloadTooLargeError,
    StalledError,
    UID2Error,
    UnexpectedStatusError,
)
from uid2_async.models import Identity
from uid2_async.retry import Backoff, classify

__all__ = ["JobOptions", "MapJob"]

# How many items are hashed in one step: well below 5 ms of CPU.
_STEP_ITEMS: Final = 1_000
# How long a batch that is not full waits for more items while somebody waits for it.
_LINGER_SECONDS: Final = 1.0
# After so many rounds in which others succeeded, a batch itself must be at fault.
_MAX_ROUNDS: Final = 3

# What would meet every batch: to go on is to do harm, or to wait for nothing.
_FATAL: Final = (
    AuthError,
    CertificateError,
    ClientForkError,
    ClientLoopError,
    ClockSkewError,
    ConfigError,
    UnexpectedStatusError,
)


@attrs.frozen(kw_only=True)
class JobOptions:
    """The settings of :class:`~uid2_async.bulk.mapper.BulkMapper`, as given to it."""

    client: UID2Client
    batch_size: int
    concurrency: int
    dedupe_window: int
    stall_timeout: float
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]


class MapJob:
    """Feeds items into batches, sends them, and hands out answered blocks in order.

    Attributes:
        limit: How many batches may be in flight.
        batches: How many have been answered.
    """

    def __init__(
        self,
        options: JobOptions,
        items: Iterable[Any] | AsyncIterable[Any],
        key: Callable[[Any], Identity | str] | None,
    ) -> None:
        """Prepare the job; :meth:`start` starts it."""
        self._options = options
        self._items = items
        self._batcher = Batcher(
            key=key,
            batch_size=options.batch_size,
            window=options.dedupe_window,
            send_raw=options.client.send_raw,
        )
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.limit: ConcurrencyLimit = ConcurrencyLimit(
            options.concurrency,
            now=loop.time,
            sleep=options.sleep,
            random=options.random,
        )
        self.batches: int = 0
        self._collected: list[Any] = []
        self._blocks: deque[Block] = deque()
        self._queue: deque[Batch] = deque()
        # Read ahead far enough to keep all lanes busy, and no further.
        self._most_rows = options.batch_size * (options.concurrency + 4)
        self._rows = 0
        self._probes = 0
        self._exhausted = False
        self._failure: BaseException | None = None
        self._last_error: UID2Error | None = None
        self._alive_at = self._now()
        self._cpu = asyncio.Lock()
        self._answered = asyncio.Event()
        self._queued = asyncio.Event()
        self._drained = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the feeder, the lanes and the watch."""
        work = [self._feed(), self._watch()]
        work += [self._send_all() for _ in range(self._options.concurrency)]
        self._tasks = [asyncio.create_task(self._guard(one)) for one in work]

    async def stop(self) -> None:
        """Stop all of them, and wait until they have."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for block in self._blocks:
            block.forget()

    async def _guard(self, work: Awaitable[None]) -> None:
        """Let a failure of any part end the job, at whoever takes the records."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - it is raised again in next_block
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End the job with *error*, unless it has ended already."""
        if self._failure is None:
            self._failure = error
            self._queue.clear()
        self._answered.set()

    # --- in ---------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Read the items, as fast as the records are taken."""
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                self._collected.append(item)
                if len(self._collected) >= _STEP_ITEMS:
                    await self._hash()
        else:
            source = iter(self._items)
            while step := list(islice(source, _STEP_ITEMS)):
                self._collected += step
                await self._hash()
        await self._hash()
        self._flush()
        self._exhausted = True
        self._answered.set()

    async def _hash(self) -> None:
        """Make a block of what has been collected, once there is room for it."""
        while self._rows >= self._most_rows + self._probes:
            # Nobody may wait for a batch that waits for room.
            self._flush()
            self._drained.clear()
            await self._drained.wait()
        async with self._cpu:
            items, self._collected = self._collected, []
            if items:
                self._rows += len(items)
                self._blocks.append(self._batcher.take(items))
                self._enqueue()
                self._answered.set()
                await asyncio.sleep(0)

    def _flush(self) -> None:
        """Send what is there, full or not."""
        self._batcher.flush()
        self._enqueue()

    def _enqueue(self) -> None:
        """Hand full batches to the lanes."""
        if self._batcher.ready and self._failure is None:
            if not self._queue and not self.limit.in_flight:
                # An idle job is not a stalled one.
                self._alive_at = self._now()
            self._queue.extend(self._batcher.ready)
            self._batcher.ready.clear()
            self._queued.set()

    # --- out --------------------------------------------------------------------------

    async def next_block(self) -> Block | None:
        """Wait for the next block whose items are all answered; None at the end.

        Raises:
            Exception: What ended the job.
        """
        while not (self._blocks and self._blocks[0].is_answered):
            if self._failure is not None:
                raise self._failure
            if self._exhausted and not self._blocks:
                return None
            self._answered.clear()
            await self._wait_for_answer()
        block = self._blocks.popleft()
        self._rows -= len(block.items)
        self._probes = 0
        self._drained.set()
        return block

    async def _wait_for_answer(self) -> None:
        """Wait for news; after a while send what waits for more items."""
        timer = asyncio.ensure_future(self._options.sleep(_LINGER_SECONDS))
        news = asyncio.ensure_future(self._answered.wait())
        try:
            await asyncio.wait({timer, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lingered = timer.done()
            timer.cancel()
            news.cancel()
        if lingered and not self._exhausted:
            if self._collected and self._rows < self._most_rows + self._probes:
                await self._hash()
            self._flush()

    # --- between ----------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Be a lane: send batch after batch."""
        options = self._options
        sender = BatchSender(
            options.client,
            self.limit,
            cpu=self._cpu,
            sleep=options.sleep,
            random=options.random,
        )
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            await self.limit.acquire()
            try:
                # Others may have been faster while this lane waited for its permit.
                if self._queue:
                    await self._send(self._queue.popleft(), sender)
            finally:
                self.limit.release()

    async def _send(self, batch: Batch, sender: BatchSender) -> None:
        """Send one batch and fill its slots, or decide what its failure means."""
        successes = self.batches
        try:
            await sender.send(batch)
        except UID2Error as error:
            self._last_error = error
            self._set_back(batch, error, sender.generation, successes)
            return
        self.limit.succeeded()
        self._alive_at = self._now()
        self._note_answer()

    def _note_answer(self) -> None:
        """Count a batch that is done with, and wake whoever waits for it."""
        self.batches += 1
        self._answered.set()

    def _set_back(
        self, batch: Batch, error: UID2Error, generation: int, successes: int
    ) -> None:
        """Decide what becomes of a batch whose sending ended in *error*."""
        decision = classify(error)
        if isinstance(error, _FATAL) and not decision.retry:
            self._fail(error)
        elif decision.retry and decision.backoff is Backoff.THROTTLING:
            assert isinstance(error, OperatorError)  # noqa: S101 - by classify
            self.limit.throttle(generation, error.retry_after)
            self._requeue(batch, first=True)
        elif isinstance(error, PayloadTooLargeError) and len(batch.slots) > 1:
            for half in reversed(batch.halves()):
                self._requeue(half, first=True)
        elif decision.retry and not self._is_poisonous(batch, successes):
            self._requeue(batch, first=False)
            self._probe()
        else:
            status = error.status if isinstance(error, OperatorError) else None
            batch.fail(MapFailure(error=type(error).__name__, status=status))
            self._note_answer()

    def _is_poisonous(self, batch: Batch, successes: int) -> bool:
        """Tell whether a batch failed so often, while others did not, that it is it."""
        batch.rounds += self.batches > successes
        return batch.rounds >= _MAX_ROUNDS

    def _probe(self) -> None:
        """Read further ahead if what is left are batches that fail.

        They hold up those behind them, without whose success nobody can tell a batch
        that is at fault from an operator that is down.
        """
        if len(self._queue) + self.limit.in_flight <= self._options.concurrency:
            self._probes += _STEP_ITEMS
            self._drained.set()

    def _requeue(self, batch: Batch, *, first: bool) -> None:
        """Put a batch back, to be sent again."""
        if self._failure is not None:
            return
        if first:
            self._queue.appendleft(batch)
        else:
            self._queue.append(batch)
        self._queued.set()

    async def _watch(self) -> None:
        """End the job if nothing succeeds for too long, though there is work."""
        patience = self._options.stall_timeout
        while True:
            # The time that the operator itself asked for is no standstill.
            until = self._alive_at + patience + self.limit.longest_hint
            left = until - self._now()
            if left > 0:
                await self._options.sleep(left)
            elif self._queue or self.limit.in_flight:
                error = type(self._last_error).__name__ if self._last_error else "none"
                raise StalledError(
                    f"No batch succeeded for {patience:g} s; {self.batches} were "
                    f"answered before. The last error was {error}."
                )
            else:
                self._alive_at = self._now()
