"""One bulk job: a feeder, lanes that send, and a watch for a standstill.

All of its CPU work is done in steps of at most 5 ms under one lock, so that twenty
replies that arrive at once do not hold up the event loop for their sum.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import attrs

from uid2_async._failures import CONTROL_FLOW, fresh_error, is_cancelled
from uid2_async.bulk.batches import Batch, Batcher, Block, Fresh
from uid2_async.bulk.endpoints import MAP_V3, Endpoint, Rows
from uid2_async.bulk.feed import Feed
from uid2_async.bulk.ledger import Ledger
from uid2_async.bulk.limit import ConcurrencyLimit
from uid2_async.bulk.records import MapFailure, Progress
from uid2_async.bulk.sender import BatchSender
from uid2_async.client import UID2Client
from uid2_async.errors import (
    AuthError,
    CertificateError,
    ClientClosedError,
    ClientForkError,
    ClientLoopError,
    ClockSkewError,
    ConfigError,
    JobError,
    OperatorError,
    PayloadTooLargeError,
    StalledError,
    UID2Error,
    UnexpectedStatusError,
)
from uid2_async.hooks import emit
from uid2_async.retry import Backoff, classify
from uid2_async.tally import tell_failed

__all__ = ["JobOptions", "MapJob"]

# How long a batch that is not full waits for more items while somebody waits for it.
_LINGER_SECONDS: Final = 1.0
# After so many rounds in which others succeeded, a batch itself must be at fault.
_MAX_ROUNDS: Final = 3
# How far ahead the source may be read if all that is left are batches that fail.
_PROBE_ROWS: Final = 1_000
# How many identities are remembered beside a ledger.
_LEDGER_WINDOW: Final = 50_000
# About how many identities are looked up in the ledger at once.
_LOOK_UP: Final = 5_000

# The watch for a stall looks this often in each stall timeout.
_WATCH_PARTS: Final = 8

# What would meet every batch: to go on is to do harm, or to wait for nothing.
_FATAL: Final = (
    AuthError,
    CertificateError,
    ClientClosedError,
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
    """Feeds identities into batches, sends them, and hands out answers in order.

    Attributes:
        limit: How many batches may be in flight.
        batches: How many have been answered.
        is_drained: Whether :meth:`drain` has cut the input short.
    """

    def __init__(
        self,
        options: JobOptions,
        feed: Feed,
        *,
        endpoint: Endpoint = MAP_V3,
        ledger: Ledger | None = None,
    ) -> None:
        """Prepare the job; :meth:`start` starts it.

        Args:
            options: How to send, and how much at once.
            feed: Whom to ask about.
            endpoint: What to ask.
            ledger: What remembers answers; it is asked before the operator is.
        """
        self._options = options
        self._feed = feed
        self._endpoint = endpoint
        self._ledger = ledger
        # What a ledger knows need not be remembered here, too.
        most = options.dedupe_window
        window = most if ledger is None else min(most, _LEDGER_WINDOW)
        self._batcher = Batcher(
            endpoint.routes,
            batch_size=options.batch_size,
            body_bytes=endpoint.body_bytes,
            window=window,
            send_raw=options.client.send_raw and endpoint.binary,
            one_kind=endpoint.one_kind,
            keep_pending=ledger is not None,
        )
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.limit: ConcurrencyLimit = ConcurrencyLimit(
            options.concurrency,
            now=loop.time,
            sleep=options.sleep,
            random=options.random,
            tell=partial(emit, options.client.hooks),
        )
        self.batches: int = 0
        self.is_drained: bool = False
        self._blocks: deque[Block] = deque()
        self._unplaced: deque[Block] = deque()
        self._queue: deque[Batch] = deque()
        self._outstanding = 0
        # Read ahead far enough to keep all lanes busy, and no further.
        self._most_rows = options.batch_size * (options.concurrency + 4)
        self._rows = 0
        self._probes = 0
        self._is_full = False
        self._fed = False
        self._exhausted = False
        self._failure: BaseException | None = None
        self._last_error: UID2Error | None = None
        self._alive_at = self._now()
        self._was_frozen = False
        self._stopped = False
        self._cpu = asyncio.Lock()
        self._answered = asyncio.Event()
        self._queued = asyncio.Event()
        self._named = asyncio.Event()
        self._drained = asyncio.Event()
        self._senders: list[BatchSender] = []
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the feeder, the lanes and the watch."""
        work = [self._watch()]
        self._senders = [self._make_sender() for _ in range(self._options.concurrency)]
        work += map(self._send_all, self._senders)
        if self._ledger is not None:
            work.append(self._look_up_all(self._ledger))
        self._tasks = [asyncio.create_task(self._guard(one)) for one in work]
        self._feeder = asyncio.create_task(self._guard(self._feed_all()))
        self._tasks.append(self._feeder)

    @property
    def requests(self) -> int:
        """How many requests have been sent, repeated ones too."""
        return sum(sender.requests for sender in self._senders)

    def progress(self) -> Progress:
        """Say how the requests fare."""
        return Progress(
            batches=self.batches,
            in_flight=self.limit.in_flight,
            limit=int(self.limit.limit),
            throttled=self.limit.throttled,
        )

    async def drain_on(self, stop: asyncio.Event) -> None:
        """Wait for *stop*, and then read no further."""
        await stop.wait()
        self.drain()

    def drain(self) -> None:
        """Read no further: what has been read is still asked about and handed out."""
        if self._feeder is not None and not self._fed:
            self.is_drained = True
            self._feeder.cancel()
            self._end_feed()

    async def stop(self) -> None:
        """Stop all of them, and wait until they have."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._answered.set()

    async def _guard(self, work: Awaitable[None]) -> None:
        """Let a failure of any part end the job, at whoever takes the records.

        That includes a part that was cancelled by anybody but :meth:`stop`: without it
        the others would wait forever.
        """
        try:
            await work
        except BaseException as error:
            if not self._stopped:
                self._fail(_as_failure(error))
            if is_cancelled():
                raise

    def _fail(self, error: BaseException) -> None:
        """End the job with *error*, unless it has ended already."""
        if self._failure is None:
            # The frames of the part that failed hold identities.
            self._failure = error.with_traceback(None)
            self._queue.clear()
        self._answered.set()

    # --- in ---------------------------------------------------------------------------

    async def _feed_all(self) -> None:
        """Read the input, as fast as the records are taken."""
        try:
            more = True
            while more:
                if not await self._take(partial=False):
                    more = await self._feed.load()
            while await self._take(partial=True):
                pass
        except asyncio.CancelledError:
            if not self.is_drained:
                raise
        else:
            self._end_feed()

    def _end_feed(self) -> None:
        """Take notice that nothing will be read any more."""
        self._fed = True
        self._named.set()
        if not self._unplaced:
            self._exhaust()

    def _exhaust(self) -> None:
        """Send what is left."""
        self._flush()
        self._exhausted = True
        self._answered.set()

    async def _take(self, *, partial: bool) -> bool:
        """Make a block of the next step, once there is room for it."""
        await self._wait_for_room()
        async with self._cpu:
            step = self._feed.take(partial=partial)
            if step is None:
                return False
            block = self._batcher.take(step)
            self._rows += block.rows
            self._blocks.append(block)
            if self._ledger is None:
                for fresh in block.fresh:
                    self._batcher.place(fresh)
                block.fresh.clear()
                self._enqueue()
            else:
                self._unplaced.append(block)
                self._named.set()
            self._answered.set()
            await asyncio.sleep(0)
        return True

    async def _wait_for_room(self) -> None:
        """Wait until the records that were read before have been taken."""
        while self._rows >= self._most_rows + self._probes:
            self._is_full = True
            self._flush_if_idle()
            self._drained.clear()
            await self._drained.wait()
        self._is_full = False

    async def _look_up_all(self, ledger: Ledger) -> None:
        """Ask the ledger about all that is new, and place what it lacks."""
        while True:
            while not self._unplaced:
                self._named.clear()
                await self._named.wait()
            blocks: list[Block] = []
            named = 0
            while self._unplaced and named < _LOOK_UP:
                blocks.append(self._unplaced.popleft())
                named += sum(len(fresh.slots) for fresh in blocks[-1].fresh)
            found = [fresh for block in blocks for fresh in block.fresh]
            for subject in {fresh.route.subject for fresh in found}:
                mine = [fresh for fresh in found if fresh.route.subject == subject]
                await self._look_up(ledger, subject, mine)
            for block in blocks:
                block.fresh.clear()
            if self._fed and not self._unplaced:
                self._exhaust()

    async def _look_up(self, ledger: Ledger, subject: str, found: list[Fresh]) -> None:
        """Ask the ledger about identities of one subject; place what it lacks."""
        identities = [one for fresh in found for one in fresh.identities]
        known = await ledger.look_up(subject, identities)
        at = 0
        for fresh in found:
            async with self._cpu:
                end = at + len(fresh.slots)
                self._batcher.place(fresh.without(known[at:end]))
                self._enqueue()
                at = end
                await asyncio.sleep(0)
        if self._is_full:
            self._flush_if_idle()
        self._answered.set()

    def _flush(self) -> None:
        """Send what is there, full or not."""
        self._batcher.flush()
        self._enqueue()

    def _flush_if_idle(self) -> None:
        """Send what is there if no answer is awaited.

        Else everybody would wait for a batch that itself waits for room.
        """
        if not self._outstanding:
            self._flush()

    def _enqueue(self) -> None:
        """Hand full batches to the lanes."""
        if self._batcher.ready and self._failure is None:
            if not self._outstanding:
                # An idle job is not a stalled one.
                self._alive_at = self._now()
            self._outstanding += len(self._batcher.ready)
            self._queue.extend(self._batcher.ready)
            self._batcher.ready.clear()
            self._queued.set()

    # --- out --------------------------------------------------------------------------

    async def next_block(self) -> Block | None:
        """Wait for the next block whose rows are all answered; None at the end.

        Raises:
            BaseException: What ended the job.
            RuntimeError: If the job was stopped before its end.
        """
        while self._stopped or not (self._blocks and self._blocks[0].is_answered):
            if self._failure is not None:
                # One object must not be raised twice: its frames would add up.
                failure, self._failure = self._failure, fresh_error(self._failure)
                raise failure
            if self._exhausted and not self._blocks:
                return None
            if self._stopped:
                raise RuntimeError(
                    "The block of these records was left before their end: iterate "
                    "inside of the block."
                )
            self._answered.clear()
            await self._wait_for_answer()
        block = self._blocks.popleft()
        self._rows -= block.rows
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
        if lingered and not self._fed:
            if self._rows < self._most_rows + self._probes:
                await self._take(partial=True)
            self._flush()

    # --- between ----------------------------------------------------------------------

    def _make_sender(self) -> BatchSender:
        """Make what sends the batches of a lane."""
        options = self._options
        return BatchSender(
            options.client,
            self._endpoint,
            self.limit,
            cpu=self._cpu,
            sleep=options.sleep,
            random=options.random,
        )

    async def _send_all(self, sender: BatchSender) -> None:
        """Be a lane: send batch after batch."""
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            await self.limit.acquire()
            batch, rows = None, None
            try:
                # Others may have been faster while this lane waited for its permit.
                if self._queue:
                    batch = self._queue.popleft()
                    rows = await self._send(batch, sender)
            finally:
                self.limit.release()
            if batch is not None and rows is not None:
                await self._keep(batch, rows)
                self._note_answer()

    async def _send(self, batch: Batch, sender: BatchSender) -> Rows | None:
        """Send one batch, or decide what its failure means."""
        successes = self.batches
        try:
            rows = await sender.send(batch)
        except UID2Error as error:
            self._last_error = error
            self._set_back(batch, error, sender.generation, successes)
            return None
        self.limit.succeeded()
        self._revive()
        return rows

    async def _keep(self, batch: Batch, rows: Rows) -> None:
        """Let the ledger remember the answers, and give them to the slots."""
        if self._ledger is not None:
            parts = batch.parts.items()
            recorded = await self._ledger.record(
                [part.subject for _, part in parts for _ in part.slots],
                [one for _, part in parts for one in part.identities],
                [row for key, _ in parts for row in rows[key]],
            )
            each = iter(recorded)
            rows = {key: [next(each) for _ in part.slots] for key, part in parts}
        async with self._cpu:
            batch.fill(rows)
            await asyncio.sleep(0)

    def _note_answer(self) -> None:
        """Count a batch that is done with, and wake whoever waits for it."""
        self.batches += 1
        self._outstanding -= 1
        if self._is_full:
            self._flush_if_idle()
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
        elif isinstance(error, PayloadTooLargeError) and batch.count > 1:
            self._outstanding += 1
            for half in reversed(batch.halves()):
                self._requeue(half, first=True)
        elif decision.retry and not self._is_poisonous(batch, successes):
            self._requeue(batch, first=False)
            self._probe()
        else:
            status = error.status if isinstance(error, OperatorError) else None
            batch.fail(MapFailure(error=type(error).__name__, status=status))
            tell_failed(
                self._options.client.hooks,
                self._endpoint.path,
                {key: len(part.slots) for key, part in batch.parts.items()},
            )
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
            self._probes += _PROBE_ROWS
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
                await self._sleep_watchfully(min(left, patience / _WATCH_PARTS))
            elif self._queue or self.limit.in_flight:
                error = type(self._last_error).__name__ if self._last_error else "none"
                raise StalledError(
                    f"No batch succeeded for {patience:g} s; {self.batches} were "
                    f"answered before. The last error was {error}."
                )
            else:
                self._revive()

    async def _sleep_watchfully(self, seconds: float) -> None:
        """Sleep for *seconds*. If it took far longer, the process stood still.

        A stopped process, a frozen container and a machine that is migrated cannot
        receive replies. That time does not count, and once after each success there is
        one more full period, since all connections may have to be made anew.
        """
        due = self._now() + seconds
        await self._options.sleep(seconds)
        late = self._now() - due
        if late <= 0:
            return
        self._alive_at = min(self._alive_at + late, self._now())
        if late >= self._options.stall_timeout / _WATCH_PARTS and not self._was_frozen:
            self._revive()
            self._was_frozen = True

    def _revive(self) -> None:
        """Start a new stall period now."""
        self._alive_at = self._now()
        self._was_frozen = False


def _as_failure(error: BaseException) -> BaseException:
    """Return what the consumer of the records gets for *error*.

    A CancelledError would look as if the consumer had been cancelled, a GeneratorExit
    or StopAsyncIteration as if the records had ended.
    """
    if not isinstance(error, CONTROL_FLOW):
        return error
    return JobError(
        f"The source, or another part of the job, raised {type(error).__name__}.",
        hint="Let the source end by itself or raise an ordinary exception.",
    )
