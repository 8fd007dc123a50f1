"""BulkMapper: map a stream of identities to records, in order, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Any, Generic, Self, TypeVar

import attrs

from uid2_async._failures import CONTROL_FLOW
from uid2_async._traceback import strip_tracebacks
from uid2_async.bulk.batches import STEP_ROWS, Chunk, IdentityColumn, Source
from uid2_async.bulk.dispatch import Dispatcher
from uid2_async.bulk.options import JobOptions, check_arguments
from uid2_async.bulk.outcomes import MapFailure, MapRecord, Outcome, Progress
from uid2_async.bulk.private_files import SYSTEM, System
from uid2_async.client import UID2Client
from uid2_async.errors import InputError, JobError
from uid2_async.models import Identity, UnmappedReason, kind_and_value
from uid2_async.protocol.mapping import values_of_one_kind

T = TypeVar("T")


class BulkMapper:
    """Maps any number of identities, with many batches at once.

    It keeps no state between jobs. One mapper can run many jobs, also at the same time.

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
        _system: System = SYSTEM,
    ) -> None:
        """Keep the settings.

        Args:
            client: Sends the requests. Its retry policy and timeout are for interactive
                calls and do not apply here.
            batch_size: Identities per request. Defaults to the client's max_batch_size.
            concurrency: The maximum number of requests in flight.
            dedupe_window: The number of distinct identities to remember, so that each
                is sent only once.
            stall_timeout: Seconds without a successful request before the job is
                aborted.
            on_progress: Called after each chunk of a few hundred records.

        Raises:
            ConfigError: If an argument is invalid.
        """
        self._client = client
        self._on_progress = check_arguments(client, on_progress)
        self._system = _system
        self._options = JobOptions(
            batch_size=batch_size,
            concurrency=concurrency,
            dedupe_window=dedupe_window,
            stall_timeout=stall_timeout,
        )

    def __repr__(self) -> str:
        """Show the client, the batch size and the concurrency."""
        size = self._options.batch_size or self._client.max_batch_size
        return (
            f"<BulkMapper {self._client!r} batch_size={size} "
            f"concurrency={self._options.concurrency}>"
        )

    def map(
        self,
        items: Iterable[T] | AsyncIterable[T],
        key: Callable[[T], Identity | str] | None = None,
    ) -> AbstractAsyncContextManager[Records[T]]:
        """Map *items*. The ``async with`` block owns all tasks.

        Leaving the block early, cancellation and an exception inside it stop the work
        and leave nothing running. The exception propagates unchanged. The operator may
        still have answered the batches in flight.

        Args:
            items: A sync or async iterable of any length. It is read only as fast as
                the records are consumed.
            key: Returns the identity of an item. Without it, items are identities.

        Returns:
            A context manager with an async iterator of records, one per item, in order.

        Raises:
            InputError: If *items* is a str, whose items would be its characters.
        """
        if isinstance(items, str):
            raise InputError("items is a str.", hint="Pass a list of str.")
        return self.map_source(ItemSource(items, key))

    @asynccontextmanager
    async def map_source(self, source: Source) -> AsyncIterator[Records[Any]]:
        """Map the chunks of *source*, each with one column. For integrations.

        Like :meth:`map`, but cheaper, since it does not look at each item.

        Yields:
            Records whose items are those of the chunks' payloads, one per row.
        """
        async with Dispatcher(
            self._client, source, self._options, self._system
        ) as dispatcher:
            yield Records(dispatcher, self._on_progress)


class Records(Generic[T]):
    """The records of one job, in the order of its items.

    Iterating raises an AuthError if the API key or secret is rejected, and other errors
    that would affect every batch; a ConnectError if the operator could never be
    reached; a StalledError if no batch succeeded for the mapper's stall_timeout; an
    InputError if an item's key is neither an identity nor a str; and a RuntimeError
    after the ``async with`` block was left.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """Read the records of *dispatcher*."""
        self._dispatcher = dispatcher
        self._on_progress = on_progress
        self._ready: Iterator[MapRecord[T]] = iter(())
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        """Show the progress of the job."""
        return f"<Records {self.progress}>"

    @property
    def progress(self) -> Progress:
        """The progress of the job."""
        return attrs.evolve(self._dispatcher.progress(), **self._counts)

    def __aiter__(self) -> Self:
        """Iterate over the records."""
        return self

    async def __anext__(self) -> MapRecord[T]:
        """Return the next record."""
        while True:
            for record in self._ready:
                return record
            records = await self.next_chunk()
            if records is None:
                raise StopAsyncIteration
            self._ready = iter(records)

    async def next_chunk(self) -> list[MapRecord[T]] | None:
        """Return the next few hundred records, or None at the end.

        This is cheaper than awaiting each record.
        """
        chunk = await self._dispatcher.next_chunk()
        if chunk is None:
            return None
        return list(map(MapRecord, chunk.payload, self._count(chunk)))

    async def next_outcomes(self) -> list[Outcome] | None:
        """Return only the outcomes of the next records. For integrations."""
        chunk = await self._dispatcher.next_chunk()
        return None if chunk is None else self._count(chunk)

    def _count(self, chunk: Chunk) -> list[Outcome]:
        """Count and return the outcomes of a chunk."""
        (outcomes,) = chunk.outcomes()
        unmapped = [one for one in outcomes if one.raw_uid is None]
        counts = self._counts
        counts["rows"] += len(outcomes)
        counts["mapped"] += len(outcomes) - len(unmapped)
        counts["duplicates"] += chunk.duplicates
        for outcome in unmapped:
            counts[_status(outcome)] += 1
        if self._on_progress is not None:
            try:
                self._on_progress(self.progress)
            except BaseException as error:
                # The consumer does not get these records, so the job cannot go on.
                self._dispatcher.abort(error)
                raise
        return outcomes


def _status(outcome: Outcome) -> str:
    """Return the field of Progress that counts an outcome without a raw UID."""
    if isinstance(outcome, MapFailure):
        return "failed"
    return "opted_out" if outcome.reason == UnmappedReason.OPTED_OUT else "invalid"


class ItemSource:
    """The items of an iterable, as a :class:`~uid2_async.bulk.batches.Source`."""

    def __init__(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        key: Callable[[Any], Identity | str] | None,
    ) -> None:
        """Read *items*; *key* returns the identity of each."""
        self._key = key
        self._loaded: list[Any] = []
        self._taken = 0
        self._async: AsyncIterator[Any] | None = None
        self._sync: Iterator[Any] = iter(())
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._sync = iter(items)

    async def load(self) -> bool:
        """See :meth:`Source.load <uid2_async.bulk.batches.Source.load>`."""
        if self._async is None:
            before = len(self._loaded)
            self._loaded += islice(self._sync, STEP_ROWS - before)
            return len(self._loaded) > before
        async for item in self._async:
            self._loaded.append(item)
            if len(self._loaded) >= STEP_ROWS:
                return True
        return False

    def take(self, *, partial: bool) -> Chunk | None:
        """See :meth:`Source.take <uid2_async.bulk.batches.Source.take>`."""
        items = self._loaded
        if not items or (len(items) < STEP_ROWS and not partial):
            return None
        self._loaded = []
        # Usually all have the same kind.
        alike = values_of_one_kind(items) if self._key is None else None
        column = IdentityColumn(*alike) if alike else self._mixed_column(items)
        self._taken += len(items)
        return Chunk(items, len(items), (column,))

    def _mixed_column(self, items: list[Any]) -> IdentityColumn:
        """Find the kind and value of each item separately."""
        key = self._key
        failure: type[InputError | JobError]
        kinds: list[str] = []
        values: list[str | None] = []
        try:
            for item in items:
                kind, value = kind_and_value(item if key is None else key(item))
                kinds.append(kind)
                values.append(value)
        except InputError as error:
            failure, reason = InputError, error.message
        except CONTROL_FLOW as error:
            failure, reason = JobError, f"key= raised {type(error).__name__}."
        else:
            return IdentityColumn(kinds[0] if len(set(kinds)) == 1 else kinds, values)
        raise failure(f"Item {self._taken + len(values)}: {reason}")


strip_tracebacks(globals())
