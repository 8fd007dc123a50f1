"""Sends one batch after another, each attempt under the job's limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from uid2_async._call import Call
from uid2_async.bulk.batches import Batch
from uid2_async.bulk.endpoints import Endpoint, Rows
from uid2_async.bulk.limit import ConcurrencyLimit
from uid2_async.client import UID2Client
from uid2_async.errors import ServerError, TransportError
from uid2_async.hooks import AttemptFailed, CallFinished, Event
from uid2_async.retry import RetryPolicy
from uid2_async.tally import tell_rows

__all__ = ["BatchSender"]

_ATTEMPT_SECONDS: Final = 45.0
_IDLE_SECONDS: Final = 20.0
# No deadline for a batch: the job's own stall time-out is what ends it.
_BATCH_SECONDS: Final = 24 * 3600.0
_STRAIN: Final = frozenset(
    cls.__name__
    for cls in (ServerError, TransportError, *TransportError.__subclasses__())
)


class BatchSender:
    """One of the job's lanes: sends a batch, with retries that obey the limit.

    Transient failures are retried here, as the client's policy says; an operator that
    asks to slow down is the job's affair, since it concerns all lanes.

    Attributes:
        generation: In which generation of the limit the last attempt was begun.
        requests: How many requests have been sent, repeated ones too.
    """

    def __init__(
        self,
        client: UID2Client,
        endpoint: Endpoint,
        limit: ConcurrencyLimit,
        *,
        cpu: asyncio.Lock,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        """Send by *client*, under *limit*; CPU work is done while *cpu* is held."""
        self.generation: int = 0
        self.requests: int = 0
        self._endpoint = endpoint
        self._limit = limit
        self._cpu = cpu
        self._sleep = sleep
        self._hooks = client.hooks
        self._client = client.with_options(
            hooks=[*client.hooks, self._notice],
            retry=RetryPolicy(
                attempt_timeout=_ATTEMPT_SECONDS,
                idle_timeout=_IDLE_SECONDS,
                budget=None,
                random=random,
                retry_throttled=False,
                sleep=self._pause,
            ),
            timeout=_BATCH_SECONDS,
        )

    async def send(self, batch: Batch) -> Rows:
        """Send *batch*, for which the caller holds a permit; return what came back.

        Raises:
            UID2Error: What the last attempt met.
        """
        self.generation = self._limit.generation
        endpoint = self._endpoint
        async with self._cpu:
            values = batch.values()
            payload = endpoint.ask(values)
            await asyncio.sleep(0)
        reply = await self._client.run_call(
            Call(
                path=endpoint.path,
                payload=payload,
                parse=bytes,
                binary=endpoint.binary,
                max_reply_bytes=endpoint.reply_bytes,
            )
        )
        async with self._cpu:
            rows = endpoint.read(reply, values)
            tell_rows(self._hooks, endpoint.path, rows)
            await asyncio.sleep(0)
        return rows

    async def _pause(self, seconds: float) -> None:
        """Wait before another attempt, and at the gate if it has been shut."""
        await self._sleep(seconds)
        await self._limit.pass_gate()
        self.generation = self._limit.generation

    def _notice(self, event: Event) -> None:
        """Count requests, and tell the limit of those that failed on their way.

        An operator that asks to slow down is told of by the job itself.
        """
        if isinstance(event, CallFinished):
            self.requests += event.attempts
        elif isinstance(event, AttemptFailed) and event.error_type in _STRAIN:
            self._limit.failed(self.generation)
