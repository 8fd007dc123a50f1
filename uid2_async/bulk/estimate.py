"""Estimate the requests, traffic and time of a job. Nothing is sent."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import attrs

from uid2_async.bulk.batches import Batcher, Chunk, IdentityColumn
from uid2_async.bulk.columns import InputWarnings, RowStatus
from uid2_async.bulk.files import open_reader
from uid2_async.bulk.options import MapOptions, check_above_zero
from uid2_async.bulk.outcomes import MAP_V3
from uid2_async.bulk.paths import Remote
from uid2_async.bulk.stores import copy_path, expand_locations, through_files
from uid2_async.errors import ConfigError

# The time before the command reads a row, most of it for imports.
START_SECONDS: Final = 0.8
# On one core of a current machine, without the operator: files without a state, and two
# jobs of 1,000,000 rows with one.
ROW_SECONDS: Final = 6e-6
FIRST_LOAD_ROW_SECONDS: Final = 1 / 47_000
DAILY_ROW_SECONDS: Final = 1 / 75_000
# On disk, after each raw UID has rotated once and its change is kept; half of that
# after a first load (``nox -s bench -- state``).
STATE_BYTES: Final = 231
# A hash and its answer, if one raw UID in four has a previous one.
SENT_BYTES: Final = 47
RECEIVED_BYTES: Final = 88
# The headers and envelopes of a request and its reply.
REQUEST_BYTES: Final = 430
REPLY_BYTES: Final = 260
# Each salt bucket rotates about once a year (docs/protocol.md 2.6).
DUE_SHARE: Final = 1 / 365


@attrs.frozen(kw_only=True)
class RunCosts:
    """The costs of one run.

    Attributes:
        identities: The number of identities sent.
        batches: The number of requests.
        seconds: The minimum duration.
        sent_bytes: Bytes sent to the operator.
        received_bytes: Bytes received.
    """

    identities: int
    batches: int
    seconds: float
    sent_bytes: int
    received_bytes: int


@attrs.frozen(kw_only=True)
class Costs:
    """The costs of a set of identities.

    Attributes:
        once: A run without a state.
        first_load: The first run with a state.
        daily: A later run with that state, on a day without rechecks. On a day when all
            identities are rechecked, it sends as much as the first run.
        state_bytes: The size of the state.
    """

    once: RunCosts
    first_load: RunCosts
    daily: RunCosts
    state_bytes: int


def work_out(
    identities: int,
    *,
    rows: int | None = None,
    batch_size: int = 5_000,
    concurrency: int = 20,
    latency: float = 0.5,
    processes: int = 1,
) -> Costs:
    """Compute what *identities* cost, as docs/scale.md describes.

    Args:
        identities: The number of distinct identities.
        rows: The number of rows, or of identifiers in them. Defaults to *identities*.
        batch_size: Identities per request.
        concurrency: Requests in flight, in all processes together.
        latency: Seconds that the operator takes per request.
        processes: The number of processes that share the work, each on its own core.

    Raises:
        ConfigError: If a number is too small.
    """
    check_above_zero(
        batch_size=batch_size, concurrency=concurrency, processes=processes
    )
    if min(identities, rows or 0, latency) < 0:
        raise ConfigError("identities, rows and latency must not be negative.")
    read = identities if rows is None else rows

    def run(asked: int, row_seconds: float, *, in_steps: bool = True) -> RunCosts:
        batches = math.ceil(asked / batch_size)
        waiting = math.ceil(batches / concurrency) * latency
        working = read * row_seconds / processes
        return RunCosts(
            identities=asked,
            batches=batches,
            # With a state, the job reads, then asks, then writes.
            seconds=waiting + working if in_steps else max(waiting, working),
            sent_bytes=asked * SENT_BYTES + batches * REQUEST_BYTES,
            received_bytes=asked * RECEIVED_BYTES + batches * REPLY_BYTES,
        )

    return Costs(
        once=run(identities, ROW_SECONDS, in_steps=False),
        first_load=run(identities, FIRST_LOAD_ROW_SECONDS),
        daily=run(math.ceil(identities * DUE_SHARE), DAILY_ROW_SECONDS),
        state_bytes=identities * STATE_BYTES,
    )


# --- distinct identities --------------------------------------------------------------

_KEPT: Final = 1 << 16
_BYTES: Final = 8
_SPAN: Final = 1 << (8 * _BYTES)


class UniqueCount:
    """Counts distinct SHA-256 values by keeping the smallest of them (KMV sketch).

    Exact up to 65,535 values. Beyond that, the 65,536th of them in order shows how
    dense they are, with an error of about 0.4 %.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: set[int] = set()
        # No larger value is kept.
        self._limit = _SPAN

    def add(self, identities: Iterable[bytes]) -> None:
        """Count *identities*; each is a hash, or begins with one."""
        values = (int.from_bytes(identity[:_BYTES], "big") for identity in identities)
        self._kept.update(value for value in values if value < self._limit)
        if len(self._kept) >= 2 * _KEPT:
            self._kept = set(sorted(self._kept)[:_KEPT])
            self._limit = max(self._kept)

    @property
    def is_exact(self) -> bool:
        """Whether the count is exact."""
        return len(self._kept) < _KEPT

    def __int__(self) -> int:
        """Return the count."""
        if self.is_exact:
            return len(self._kept)
        return round((_KEPT - 1) * _SPAN / sorted(self._kept)[_KEPT - 1])


# --- one file -------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Estimate:
    """The estimated work for a file.

    Attributes:
        rows: The number of rows.
        identifiers: The number of identifiers in them.
        unique: The number of distinct identities, within 0.4 %.
        is_exact: Whether *unique* is exact.
        invalid: The number of identifiers that are invalid or of an unknown type.
        empty: The number of rows without an identifier.
        input_warnings: Suspicious patterns in the input, with the number of
            identifiers.
        batches: The number of requests.
        seconds: The duration of the whole command.
        sent_bytes: Bytes sent to the operator.
        received_bytes: Bytes received.
        state_bytes: The size of a state with them.
        first_load_seconds: The duration of the first run with a state.
        daily_unique: The number of identities due per day after that, without those
            that are rechecked for opt-outs.
        daily_batches: The number of requests for these.
        daily_seconds: The duration of such a daily run.
    """

    rows: int
    identifiers: int
    unique: int
    is_exact: bool
    invalid: int
    empty: int
    input_warnings: Mapping[str, int]
    batches: int
    seconds: float
    sent_bytes: int
    received_bytes: int
    state_bytes: int
    first_load_seconds: float
    daily_unique: int
    daily_batches: int
    daily_seconds: float


class _Count:
    """Counts the identifiers of files, and the requests for them."""

    def __init__(self, options: MapOptions, batcher: Batcher | None) -> None:
        self.rows = 0
        self.asked = 0
        self.batches = 0
        self.status_counts: Counter[RowStatus] = Counter()
        self.unique = UniqueCount()
        self.warnings: Counter[str] = Counter()
        self._options = options
        self._find = options.identifier_finder()
        self._batcher = batcher

    def read(self, source: Path | None, name: str | None) -> None:
        """Count the rows of one file."""
        warnings = InputWarnings()
        with closing(open_reader(source, self._options, name=name)) as reader:
            columns = self._find(reader.header, name=reader.name)
            reader.select(columns.wanted)
            while True:
                rows = reader.take(columns.step_rows)
                if rows is not None:
                    identities = columns.identities(rows)
                    warnings.add(identities, self._add(identities, rows.count))
                elif not reader.load():
                    break
        self.warnings.update(warnings.counts)

    def _add(self, columns: Sequence[IdentityColumn], rows: int) -> list[list[Any]]:
        """Count some rows, and return the identities of each column."""
        self.rows += rows
        found = [self._add_column(column) for column in columns]
        for values in zip(*(column.values or () for column in columns), strict=True):
            self.status_counts[RowStatus.EMPTY] += not any(values)
        if self._batcher is not None:
            self._batcher.add(Chunk(None, rows, columns))
            self._count_batches(self._batcher)
        return found

    def end(self) -> None:
        """Count the partial batches."""
        if self._batcher is None:
            self.asked = int(self.unique)
        else:
            self._batcher.flush()
            self._count_batches(self._batcher)

    def _count_batches(self, batcher: Batcher) -> None:
        self.batches += len(batcher.ready)
        self.asked += sum(batch.count for batch in batcher.ready)
        batcher.ready.clear()

    def _add_column(self, column: IdentityColumn) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(column)
        for kind, rows, identities in column.identities_by_kind(MAP_V3):
            for row, identity in zip(rows, identities, strict=True):
                found[row] = identity
            # Reversed, so that a phone's hash differs from an email's.
            reverse = -1 if kind.subject == "phone" else 1
            self.unique.add([one[::reverse] for one in identities if one])
        valid = len(found) - found.count(None)
        present = sum(value is not None for value in column.values or ())
        self.status_counts[RowStatus.MAPPED] += valid
        self.status_counts[RowStatus.INVALID] += present - valid
        return found


def estimate_file(
    source: str | os.PathLike[str],
    *,
    options: MapOptions | None = None,
    batch_size: int = 5_000,
    concurrency: int = 20,
    latency: float = 0.5,
    processes: int = 1,
    with_state: bool = False,
) -> Estimate:
    """Estimate the cost of mapping a file. Reads all of it once. Blocks.

    Based on the figures in docs/scale.md.

    Args:
        source: A file, a folder, a pattern, a URL, or ``-`` for stdin.
        options: Where the identifiers are.
        batch_size: Identities per request.
        concurrency: Requests in flight.
        latency: Seconds that the operator takes per request.
        processes: The number of processes that share the work, each with a part of the
            file.
        with_state: Whether the command uses a state, which is empty at first.

    Raises:
        InputError: If the file cannot be read.
    """
    options = options or MapOptions()
    # Without a state, the job forgets identities that it saw long ago.
    batcher = None
    if not with_state:
        window = options.dedupe_window
        batcher = Batcher(MAP_V3, batch_size=batch_size, window=window, send_raw=False)
    count = _Count(options, batcher)
    with tempfile.TemporaryDirectory(prefix="uid2-") as folder:
        for pair in expand_locations(source, "."):
            file, name = through_files(pair, options).source, None
            if isinstance(file, Remote):
                name, copy = file.name, copy_path(Path(folder), file)
                file.fetch(copy)
                file = copy
            count.read(file, name)
    count.end()
    costs = work_out(
        count.asked,
        rows=max(count.rows, count.status_counts[RowStatus.MAPPED]),
        batch_size=batch_size,
        concurrency=concurrency,
        latency=latency,
        processes=processes,
    )
    return _make_estimate(count, costs, with_state=with_state)


def _make_estimate(count: _Count, costs: Costs, *, with_state: bool) -> Estimate:
    once, first, daily = costs.once, costs.first_load, costs.daily
    identifiers = count.status_counts[RowStatus.MAPPED]
    return Estimate(
        rows=count.rows,
        identifiers=identifiers + count.status_counts[RowStatus.INVALID],
        unique=int(count.unique),
        is_exact=count.unique.is_exact,
        invalid=count.status_counts[RowStatus.INVALID],
        empty=count.status_counts[RowStatus.EMPTY],
        input_warnings=dict(count.warnings),
        batches=count.batches or once.batches,
        seconds=START_SECONDS + (first if with_state else once).seconds,
        sent_bytes=once.sent_bytes,
        received_bytes=once.received_bytes,
        state_bytes=costs.state_bytes,
        first_load_seconds=START_SECONDS + first.seconds,
        daily_unique=daily.identities,
        daily_batches=daily.batches,
        daily_seconds=START_SECONDS + daily.seconds,
    )
