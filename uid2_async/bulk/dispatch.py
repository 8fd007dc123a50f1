"""The engine of every bulk job: a reader, sending workers, and a stall watchdog.

All CPU work runs in steps of at most 5 ms under one lock, so that twenty replies
arriving at once do not block the event loop for their total.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Self, TypeAlias

from uid2_async._failures import CONTROL_FLOW, fresh_error, is_cancelled
from uid2_async._traceback import keep_callers_frames
from uid2_async.bulk.batches import Batch, Batcher, Chunk, Source
from uid2_async.bulk.limit import ConcurrencyLimit
from uid2_async.bulk.options import JobOptions
from uid2_async.bulk.outcomes import MAP_V3, Endpoint, MapFailure, Outcome, Progress
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.client import UID2Client
from uid2_async.errors import (
    AuthError,
    CertificateError,
    ClientClosedError,
    ClientForkError,
    ClientLoopError,
    ClockSkewError,
    ConfigError,
    ConnectError,
    JobError,
    OperatorError,
    PayloadTooLargeError,
    ServerError,
    StalledError,
    TransportError,
    UID2Error,
    UnexpectedStatusError,
)
from uid2_async.hooks import (
    AttemptFailed,
    CallFinished,
    Event,
    emit,
    emit_failed_counts,
    emit_identity_counts,
)
from uid2_async.protocol.mapping import MAP_REPLY_BYTES
from uid2_async.protocol.wire import Call
from uid2_async.retry import Backoff, RetryPolicy, classify

Keep: TypeAlias = Callable[[str, Sequence[bytes], Sequence[Outcome]], Awaitable[None]]
"""Keeps the outcomes of identities of one subject before their rows are handed out.

Takes ``email``, ``phone`` or ``raw_uid``, the identity bytes, and their outcomes."""

Replies: TypeAlias = Mapping[str, Sequence[Outcome]]

# How long a partial batch waits for more rows while the caller waits for it.
_LINGER_SECONDS: Final = 1.0
# After this many rounds in which others succeeded, the batch itself must be at fault.
_MAX_ROUNDS: Final = 3
# How much further the source is read if only failing batches are left.
_PROBE_ROWS: Final = 1_000
# The number of stall checks per stall timeout.
_STALL_CHECKS: Final = 8
# After this many seconds of CPU work, a job yields to other tasks.
_TIME_SLICE: Final = 0.001
_ATTEMPT_SECONDS: Final = 45.0
_IDLE_SECONDS: Final = 20.0
# A batch has no deadline; the job's stall timeout ends it.
_BATCH_SECONDS: Final = 24 * 3600.0

# Errors that would affect every batch. Continuing would be harmful or useless.
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
# Errors that suggest an overloaded operator.
_STRAIN: Final = frozenset(
    cls.__name__
    for cls in (ServerError, TransportError, *TransportError.__subclasses__())
)


class Dispatcher:
    """Reads identities, sends them in batches, and returns the answers in order."""

    def __init__(
        self,
        client: UID2Client,
        source: Source,
        options: JobOptions,
        system: System = SYSTEM,
        *,
        endpoint: Endpoint = MAP_V3,
        keep: Keep | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Prepare the job, which runs in ``async with``; *stop* ends it cleanly.

        With *keep*, which stores all outcomes, including failures, before their rows
        are returned, the identities must be distinct: none of them is remembered.
        """
        self._batch_size = batch_size = options.batch_size or client.max_batch_size
        self._client = client
        self._options = options
        self._system = system
        self._source = source
        self._endpoint = endpoint
        self._keep = keep
        self._stop_event = stop
        self._batcher = Batcher(
            endpoint,
            batch_size=batch_size,
            window=options.dedupe_window if keep is None else 1,
            send_raw=client.send_raw and endpoint.binary,
        )
        self._cpu = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self.limit: ConcurrencyLimit = ConcurrencyLimit(
            options.concurrency,
            now=self._now,
            sleep=system.sleep,
            random=system.random,
            on_event=partial(emit, client.hooks),
        )
        self.batches: int = 0
        self._successes = 0
        self.requests: int = 0
        self.is_drained: bool = False
        self._chunks: deque[Chunk] = deque()
        self._queue: deque[Batch] = deque()
        # Batches that were queued and are not done.
        self._unanswered = 0
        # While some workers wait for *keep*, others send; the limit bounds them all.
        self._workers = options.concurrency * (1 if keep is None else 2)
        # Read ahead just far enough to keep all workers busy.
        self._max_rows = batch_size * (self._workers + 4)
        self._rows = 0
        self._probe_rows = 0
        self._is_read = False
        self._failure: BaseException | None = None
        self._last_error: UID2Error | None = None
        self._is_reached = False
        self._reset_stall()
        self._is_stopped = False
        self._news = asyncio.Event()
        self._queued = asyncio.Event()
        self._room = asyncio.Event()
        self._slice_end = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the reader, the workers and the watchdog."""
        parts = [self._read_all, self._watch_stall, *[self._send_all] * self._workers]
        if self._stop_event is not None:
            parts.append(partial(self._drain_when, self._stop_event))
        self._tasks = [asyncio.create_task(self._guard(part)) for part in parts]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything, and wait until it has stopped."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._news.set()

    def progress(self) -> Progress:
        """Return the progress of the requests."""
        return Progress(
            batches=self.batches,
            in_flight=self.limit.in_flight,
            limit=int(self.limit.limit),
            throttled=self.limit.throttled,
        )

    async def _drain_when(self, stop: asyncio.Event) -> None:
        """When the job is to stop, stop reading, but answer what was read."""
        await stop.wait()
        if not self._is_read:
            self.is_drained = True
            self._tasks[0].cancel()  # the reader

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        """End the job for the consumer of the chunks if any part fails.

        This includes a task canceled by anything except the end of the job: without it,
        the others would wait forever.
        """
        try:
            await part()
        except BaseException as error:
            if not self._is_stopped:
                self._fail(error)
            if is_cancelled():
                raise

    def _fail(self, error: BaseException) -> None:
        """End the job with *error*, unless it has ended already."""
        if self._failure is None:
            # The frames of the failed task contain identities.
            self._failure = keep_callers_frames(_as_failure(error))
            self._queue.clear()
        self._news.set()

    def abort(self, error: BaseException) -> None:
        """End the job for a consumer that failed: the next chunk raises *error*."""
        self._chunks.clear()
        self._fail(fresh_error(error))

    async def _yield_to_loop(self) -> None:
        """Yield to other tasks if this job has held the event loop long enough."""
        if self._now() >= self._slice_end:
            await asyncio.sleep(0)
            self._slice_end = self._now() + _TIME_SLICE

    # --- in ---------------------------------------------------------------------------

    async def _read_all(self) -> None:
        """Read the input as fast as the chunks are consumed; then send what is left."""
        try:
            while await self._read_chunk(partial=False) or await self._source.load():
                pass
            while await self._read_chunk(partial=True):
                pass
        except asyncio.CancelledError:
            if not self.is_drained:
                raise
        self._is_read = True
        self._flush()
        self._news.set()

    async def _read_chunk(self, *, partial: bool) -> bool:
        """Read the next chunk once earlier chunks have been consumed."""
        while not self._has_room():
            self._flush_if_stuck()
            self._room.clear()
            await self._room.wait()
        async with self._cpu:
            try:
                chunk = self._source.take(partial=partial)
            except CONTROL_FLOW as error:
                raise _as_failure(error) from None
            if chunk is None:
                return False
            self._batcher.add(chunk)
            self._rows += chunk.rows
            self._chunks.append(chunk)
            self._enqueue()
            if len(self._chunks) == 1:
                self._news.set()
            await self._yield_to_loop()
        return True

    def _has_room(self) -> bool:
        """Return whether another chunk may be read."""
        return self._rows < self._max_rows + self._probe_rows

    def _flush(self) -> None:
        """Send the open batches, full or not."""
        self._batcher.flush()
        self._enqueue()

    def _flush_if_stuck(self) -> None:
        """Send the open batches if no answers are pending, and there is no room.

        Otherwise, everything would wait for a batch that itself waits for room.
        """
        if not self._unanswered and not self._has_room():
            self._flush()

    def _enqueue(self) -> None:
        """Queue the full batches for the workers."""
        if self._batcher.ready and self._failure is None:
            if not self._unanswered:
                # An idle job is not stalled.
                self._reset_stall()
            self._unanswered += len(self._batcher.ready)
            self._queue.extend(self._batcher.ready)
            self._queued.set()
        self._batcher.ready.clear()

    # --- out --------------------------------------------------------------------------

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the chunks in order, with their answers."""
        while (chunk := await self.next_chunk()) is not None:
            yield chunk

    async def next_chunk(self) -> Chunk | None:
        """Wait for the next chunk and its answers. Return None at the end."""
        await self._yield_to_loop()
        while self._is_stopped or not (self._chunks and self._chunks[0].is_answered):
            if self._failure is not None:
                # An exception must not be raised twice: its frames would accumulate.
                failure, self._failure = self._failure, fresh_error(self._failure)
                self._failure.__traceback__ = failure.__traceback__
                raise failure
            if self._is_read and not self._chunks:
                return None
            if self._is_stopped:
                raise RuntimeError(
                    "The `async with` block was left before the last record. Iterate "
                    "inside the block."
                )
            await self._wait_for_news()
        chunk = self._chunks.popleft()
        self._rows -= chunk.rows
        self._probe_rows = 0
        self._room.set()
        return chunk

    async def _wait_for_news(self) -> None:
        """Wait for news. After a while, send partial batches."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._news.wait()
                return
        if self._is_read or self._keep is not None:
            # With a state, nobody waits for single rows, and more come soon, so a
            # partial batch would cost an extra request.
            return
        try:
            if self._has_room():
                await self._read_chunk(partial=True)
        except Exception as error:  # noqa: BLE001 - it is raised in next_chunk
            self._fail(error)
        self._flush()

    # --- between ----------------------------------------------------------------------

    async def _send_all(self) -> None:
        """Send batch after batch, as a worker."""
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            await self.limit.acquire()
            await self._send_next()

    async def _send_next(self) -> None:
        """Send a batch with a permit, and answer it.

        A frame of its own, so that a worker that waits holds nothing of its last batch.
        """
        try:
            if not self._queue:  # others took it before this worker had its permit
                return
            batch = self._queue.popleft()
            if batch.count > self._batcher.batch_size:
                # It was made before the operator rejected a smaller one.
                self._split(batch)
                return
            rows = await self._send(batch)
        finally:
            self.limit.release()
        if rows is not None:
            await self._answer(batch, rows)

    async def _send(self, batch: Batch) -> Replies | None:
        """Send one batch. Return its outcomes, or None if it is sent again."""
        successes = self._successes
        try:
            rows = await self._ask(batch)
        except UID2Error as error:
            self._last_error = error
            return self._decide(batch, error, successes)
        self.limit.succeeded()
        self._successes += 1
        self._is_reached = True
        self._reset_stall()
        return rows

    async def _ask(self, batch: Batch) -> Replies:
        """Send a batch that has a permit."""
        batch.generation = self.limit.generation
        endpoint = self._endpoint
        async with self._cpu:
            values = {
                key: group.texts or group.identities
                for key, group in batch.groups.items()
            }
            payload = endpoint.ask(values)
            await self._yield_to_loop()
        reply = await self._client_for(batch).run_call(
            Call(
                path=endpoint.path,
                payload=payload,
                parse=bytes,
                binary=endpoint.binary,
                max_reply_bytes=MAP_REPLY_BYTES,
            )
        )
        async with self._cpu:
            rows = endpoint.read(reply, values)
            emit_identity_counts(self._client.hooks, endpoint.path, rows)
            await self._yield_to_loop()
        return rows

    def _client_for(self, batch: Batch) -> UID2Client:
        """Return a client whose retries respect and report to the limit.

        Its policy retries transient failures. The job handles throttling itself, since
        it affects all workers.
        """
        client = self._client
        return client.with_options(
            hooks=[*client.hooks, partial(self._on_event, batch)],
            retry=RetryPolicy(
                attempt_timeout=_ATTEMPT_SECONDS,
                idle_timeout=_IDLE_SECONDS,
                budget=None,
                _random=self._system.random,
                retry_throttled=False,
                _sleep=partial(self._wait_to_retry, batch),
            ),
            timeout=_BATCH_SECONDS,
        )

    async def _wait_to_retry(self, batch: Batch, seconds: float) -> None:
        """Wait before another attempt, and at the gate if it is closed."""
        await self._system.sleep(seconds)
        await self.limit.pass_gate()
        batch.generation = self.limit.generation

    def _on_event(self, batch: Batch, event: Event) -> None:
        """Count requests, and report failed attempts to the limit."""
        if isinstance(event, CallFinished):
            self.requests += event.attempts
        elif isinstance(event, AttemptFailed):
            self._is_reached |= event.error_type != ConnectError.__name__
            if event.error_type in _STRAIN:
                self.limit.failed(batch.generation)

    async def _answer(self, batch: Batch, rows: Replies) -> None:
        """Store the outcomes, then assign them to their identities."""
        for key, group in batch.groups.items():
            if self._keep is not None:
                await self._keep(group.subject, group.identities, rows[key])
            group.answer(rows[key])
        self.batches += 1
        self._unanswered -= 1
        self._flush_if_stuck()
        self._news.set()

    def _decide(self, batch: Batch, error: UID2Error, successes: int) -> Replies | None:
        """Return the failures of a batch that ended in *error*, or requeue it."""
        decision = classify(error)
        if isinstance(error, _FATAL) and not decision.retry:
            self._fail(error)
        elif isinstance(error, ConnectError) and not (
            self._is_reached or error.disconnected
        ):
            # A wrong URL, an unresolvable name or a refused connection will not recover
            # in the time that a job waits for an operator that was reachable before.
            host = error.region or ", ".join(self._client.base_urls)
            self._fail(ConnectError(f"{host}: {error.message}", hint=error.hint))
        elif decision.retry and decision.backoff is Backoff.THROTTLING:
            assert isinstance(error, OperatorError)  # noqa: S101 - by classify
            self.limit.throttle(batch.generation, error.retry_after)
            self._requeue(batch, first=True)
        elif isinstance(error, PayloadTooLargeError) and batch.count > 1:
            # Batches of this size would be rejected as well.
            self._flush()
            half = (batch.count + 1) // 2
            self._batcher.batch_size = min(self._batcher.batch_size, half)
            self._split(batch)
        elif decision.retry and not self._is_bad_batch(batch, successes):
            self._requeue(batch, first=False)
        else:
            if isinstance(error, PayloadTooLargeError):
                # One identity is too large, so the size of batches was not at fault.
                self._batcher.batch_size = self._batch_size
            return self._failures(batch, error)
        return None

    def _split(self, batch: Batch) -> None:
        """Send smaller batches instead."""
        parts = batch.parts(self._batcher.batch_size)
        self._unanswered += len(parts) - 1
        for part in reversed(parts):
            self._requeue(part, first=True)

    def _is_bad_batch(self, batch: Batch, successes: int) -> bool:
        """Return whether a batch failed too often while others succeeded."""
        batch.rounds += self._successes > successes
        return batch.rounds >= _MAX_ROUNDS

    def _failures(self, batch: Batch, error: UID2Error) -> Replies:
        """Return the outcomes of a batch that cannot be sent because of *error*."""
        status = error.status if isinstance(error, OperatorError) else None
        failure = MapFailure(error=type(error).__name__, status=status)
        counts = {key: len(group.identities) for key, group in batch.groups.items()}
        rows = {key: [failure] * count for key, count in counts.items()}
        emit_failed_counts(self._client.hooks, self._endpoint.path, counts)
        return rows

    def _requeue(self, batch: Batch, *, first: bool) -> None:
        if self._failure is not None:
            return
        if first:
            self._queue.appendleft(batch)
        else:
            self._queue.append(batch)
            if len(self._queue) + self.limit.in_flight <= self._options.concurrency:
                # Only failing batches are left. They block later ones, and without a
                # success among those, a bad batch looks like an operator that is down.
                self._probe_rows += _PROBE_ROWS
                self._room.set()
        self._queued.set()

    # --- stalls -----------------------------------------------------------------------

    async def _watch_stall(self) -> None:
        """End the job if nothing succeeds for too long although there is work.

        Waiting for a Retry-After is not a stall.
        """
        timeout = self._options.stall_timeout
        while True:
            ends = self._stall_began + timeout + self.limit.longest_hint
            left = ends - self._now()
            if left <= 0 and (self._queue or self.limit.in_flight):
                error = type(self._last_error).__name__ if self._last_error else "none"
                raise StalledError(
                    f"Stopped: no request has succeeded in the last {timeout:g} s. "
                    f"{self._successes} had succeeded before. Last error: {error}."
                )
            if left <= 0:
                self._reset_stall()
                left = timeout
            await self._sleep_awake(min(left, timeout / _STALL_CHECKS))

    def _reset_stall(self) -> None:
        """Measure from now on how long nothing has succeeded."""
        self._stall_began = self._now()
        self._was_suspended = False

    async def _sleep_awake(self, seconds: float) -> None:
        """Sleep for *seconds*. If it took far longer, the process was suspended.

        A stopped process, a frozen container or a migrating machine cannot receive
        replies. That time does not count, and once after each success another full
        period is granted, since all connections may have to be reopened.
        """
        due = self._now() + seconds
        await self._system.sleep(seconds)
        late = self._now() - due
        if late <= 0:
            return
        self._stall_began = min(self._stall_began + late, self._now())
        if late >= self._options.stall_timeout / _STALL_CHECKS and not (
            self._was_suspended
        ):
            self._reset_stall()
            self._was_suspended = True


def _as_failure(error: BaseException) -> BaseException:
    """Return the exception that the consumer of the chunks gets for *error*.

    A CancelledError would look as if the consumer had been cancelled, a GeneratorExit
    or StopAsyncIteration as if the chunks had ended.
    """
    if not isinstance(error, CONTROL_FLOW):
        return error
    return JobError(
        f"The source, or another part of the job, raised {type(error).__name__}.",
        hint="The source must end normally or raise an ordinary exception.",
    )
