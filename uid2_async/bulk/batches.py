"""From chunks of identities to batches: hashing, deduplication, sizes, splitting.

An identity costs a few steps of C code here. A loop over the identities of a chunk runs
only where they are not all new, valid and of one kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any, Final, Protocol, TypeAlias

from uid2_async.bulk.endpoints import Endpoint, IdentityKind
from uid2_async.bulk.outcomes import (
    ABSENT,
    INVALID,
    INVALID_PHONES,
    UNKNOWN_KIND,
    MapFailure,
    Outcome,
)
from uid2_async.phones import PhoneFault
from uid2_async.protocol import base64, wire
from uid2_async.protocol.identity_input import sendable

__all__ = [
    "STEP_ROWS",
    "Batch",
    "Batcher",
    "Chunk",
    "Group",
    "IdentityColumn",
    "Source",
]

STEP_ROWS: Final = 500
"""The rows of a chunk: few enough to be read, hashed or written in far below 5 ms."""

_Range: TypeAlias = "tuple[Group, int, int]"
_NO_FAULTS: Final[Mapping[int, PhoneFault]] = {}
# A hash in JSON: 44 characters, two quotes and a comma.
_HASH_BYTES: Final = 47


class IdentityColumn:
    """One identity for each row of a chunk.

    Attributes:
        kinds: The kind of all of them, or one kind for each.
        values: The identities as text, None where a row has none. None if there are
            only *identities*.
        faults: By row, why a value is not a phone number. Such a value is not sent.
        identities: The identity bytes, if they are known already: they are not computed
            again. None where the row has none or it is invalid.
    """

    __slots__ = ("faults", "identities", "kinds", "values")

    def __init__(
        self,
        kinds: str | Sequence[str],
        values: Sequence[str | None] | None = None,
        faults: Mapping[int, PhoneFault] = _NO_FAULTS,
        identities: Sequence[bytes | None] | None = None,
    ) -> None:
        """Hold *values*, *identities* or both; at least one must be given."""
        self.kinds: str | Sequence[str] = kinds
        self.values: Sequence[str | None] | None = values
        self.faults: Mapping[int, PhoneFault] = faults
        self.identities: Sequence[bytes | None] | None = identities

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.values if self.identities is None else self.identities)  # type: ignore[arg-type] # one of both is given

    def read(self, kind: IdentityKind) -> Sequence[bytes | None]:
        """Return the identity bytes of all rows, which are of one *kind*."""
        if self.identities is None and not self.faults and all(self.values or ()):
            return kind.read(self.values)  # type: ignore[arg-type] # none is None
        return self.read_rows(kind, range(len(self)))

    def read_rows(
        self, kind: IdentityKind, rows: Sequence[int]
    ) -> Sequence[bytes | None]:
        """Return the identity bytes of the given *rows*, which are of one *kind*."""
        values, identities = self.values, self.identities
        if identities is not None:
            return [None if row in self.faults else identities[row] for row in rows]
        assert values is not None  # noqa: S101 - one of both is given
        present = [
            index
            for index, row in enumerate(rows)
            if values[row] is not None and row not in self.faults
        ]
        found: list[bytes | None] = [None] * len(rows)
        texts = [values[rows[index]] or "" for index in present]
        for index, identity in zip(present, kind.read(texts), strict=True):
            found[index] = identity
        return found

    def rows_by_kind(self) -> Iterable[tuple[str, Sequence[int]]]:
        """Return each kind with its rows."""
        if isinstance(self.kinds, str):
            return [(self.kinds, range(len(self)))]
        rows = defaultdict(list)
        for row, kind in enumerate(self.kinds):
            rows[kind].append(row)
        return rows.items()

    def special_outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Return the rows whose outcome is known without the kind: absent or faulty."""
        for row, value in enumerate(self.values or ()):
            if value is None:
                yield row, ABSENT
        for row, fault in self.faults.items():
            yield row, INVALID_PHONES[fault]

    def __repr__(self) -> str:
        """Show how many there are: they are DII."""
        return f"<IdentityColumn of {len(self)}>"


class Chunk:
    """Some rows of the input.

    Attributes:
        payload: What the source wants back with the outcomes.
        rows: How many rows there are.
        columns: Their identities, one for each row in each column.
        duplicates: How many identities were asked about before, for an earlier row.
    """

    __slots__ = ("_outcomes", "_waiting", "columns", "duplicates", "payload", "rows")

    def __init__(
        self, payload: Any, rows: int, columns: Sequence[IdentityColumn]
    ) -> None:
        """Hold *payload* and what it asks."""
        self.payload: Any = payload
        self.rows: int = rows
        self.columns: Sequence[IdentityColumn] = columns
        self.duplicates: int = 0
        self._outcomes: list[Callable[[], list[Outcome]]] = []
        self._waiting: list[Group] = []

    def expect(
        self, groups: Iterable[Group], outcomes: Callable[[], list[Outcome]]
    ) -> None:
        """Take the next column from *outcomes*, once *groups* are answered."""
        self._waiting += groups
        self._outcomes.append(outcomes)

    @property
    def is_answered(self) -> bool:
        """Whether every identity has its outcome."""
        waiting = self._waiting
        while waiting and waiting[-1].is_answered:
            waiting.pop()
        return not waiting

    def outcomes(self) -> list[list[Outcome]]:
        """Return the outcomes of each column; the chunk must be answered."""
        return [outcomes() for outcomes in self._outcomes]

    def __repr__(self) -> str:
        """Show the size and whether it is answered: the payload may be DII."""
        return f"<Chunk rows={self.rows} answered={self.is_answered}>"


class Source(Protocol):
    """Where a job's chunks come from."""

    def take(self, *, partial: bool) -> Chunk | None:
        """Make a chunk of what was loaded, in at most 5 ms of CPU time.

        Args:
            partial: Whether a chunk may have fewer than STEP_ROWS rows.

        Returns:
            None if more has to be loaded first.
        """
        ...

    async def load(self) -> bool:
        """Wait for more input. Return False at the end."""
        ...


class Group:
    """The identities that a batch sends under one key, and their outcomes.

    Attributes:
        subject: ``email``, ``phone`` or ``raw_uid``.
        identities: The identity bytes.
        texts: What is sent for each; empty if that is the base64 of its bytes.
        outcomes: The outcome of each, in time.
    """

    __slots__ = (
        "_answered",
        "_index",
        "_offset",
        "_whole",
        "identities",
        "outcomes",
        "subject",
        "texts",
    )

    def __init__(
        self, subject: str, whole: Group | None = None, start: int = 0, stop: int = 0
    ) -> None:
        """Start empty, or with a part of the group *whole*."""
        self.subject: str = subject
        self.identities: list[bytes] = whole.identities[start:stop] if whole else []
        self.texts: list[str] = whole.texts[start:stop] if whole else []
        self.outcomes: list[Outcome] = []
        self._answered = 0
        self._index: dict[bytes, Outcome] | None = None
        self._whole = whole
        self._offset = start

    @property
    def is_answered(self) -> bool:
        """Whether all outcomes are there."""
        return self._answered == len(self.identities)

    def answer(self, outcomes: Sequence[Outcome], start: int = 0) -> None:
        """Set the outcomes of the identities from *start* on."""
        if self._whole is not None:
            self._whole.answer(outcomes, self._offset + start)
            return
        if not self.outcomes:
            self.outcomes = [ABSENT] * len(self.identities)
        self.outcomes[start : start + len(outcomes)] = outcomes
        self._answered += len(outcomes)

    def find(self, identity: bytes) -> Outcome:
        """Return the outcome of an identity that was asked about here."""
        if self._index is None:
            self._index = dict(zip(self.identities, self.outcomes, strict=True))
        return self._index[identity]

    def __repr__(self) -> str:
        """Show how many there are."""
        return f"<Group {self.subject} of {len(self.identities)}>"


def _slices(ranges: Sequence[_Range]) -> list[Outcome]:
    """Return the outcomes of a column whose identities were all new."""
    outcomes: list[Outcome] = []
    for group, start, stop in ranges:
        outcomes += group.outcomes[start:stop]
    return outcomes


def _find_each(
    places: Sequence[Group | Outcome], identities: Sequence[bytes | None]
) -> list[Outcome]:
    """Return the outcomes of any column: each place is a group or an outcome."""
    return [
        place.find(identity or b"") if isinstance(place, Group) else place
        for place, identity in zip(places, identities, strict=True)
    ]


class Batch:
    """The identities of one request.

    Attributes:
        groups: Them by the key under which they are sent.
        count: How many identities there are.
        size: How long the request is at most, in bytes.
        rounds: How often it ran out of attempts while others succeeded.
        generation: The generation of the limit in which the last attempt began.
    """

    __slots__ = ("count", "generation", "groups", "rounds", "size")

    def __init__(self) -> None:
        """Start empty."""
        self.groups: dict[str, Group] = {}
        self.count: int = 0
        self.size: int = 0
        self.rounds: int = 0
        self.generation: int = 0

    def values(self) -> dict[str, Sequence[str] | Sequence[bytes]]:
        """Return what is sent under each key."""
        return {one: at.texts or at.identities for one, at in self.groups.items()}

    def failures(self, failure: MapFailure) -> dict[str, list[Outcome]]:
        """Return the same failure for each identity."""
        return {
            key: [failure] * len(group.identities) for key, group in self.groups.items()
        }

    def halves(self) -> tuple[Batch, Batch]:
        """Split into two, neither of them empty if there are two identities."""
        first, second = Batch(), Batch()
        left = (self.count + 1) // 2
        for key, group in self.groups.items():
            count = len(group.identities)
            cut = min(left, count)
            left -= cut
            for half, start, stop in ((first, 0, cut), (second, cut, count)):
                if start < stop:
                    half.groups[key] = Group(group.subject, group, start, stop)
                    half.count += stop - start
        first.rounds = second.rounds = self.rounds
        return first, second

    def __repr__(self) -> str:
        """Show the size."""
        return f"<Batch of {self.count}>"


class _Window:
    """Where the identities met last were asked about.

    There are two generations, so that identities are dropped at no cost for each. At
    least half of the window is always remembered.
    """

    def __init__(self, size: int) -> None:
        """Remember up to *size* identities."""
        self._generation = max(1, size // 2)
        self._young: defaultdict[str, dict[bytes, Group]] = defaultdict(dict)
        self._old: defaultdict[str, dict[bytes, Group]] = defaultdict(dict)

    def add(
        self, subject: str, identities: Sequence[bytes], group: Group
    ) -> tuple[list[Group], Sequence[bytes]]:
        """Remember that those *identities* that are new are asked about in *group*.

        Returns:
            The group of each identity; and those that are new, in order if all are.
        """
        young, old = self._young[subject], self._old[subject]
        if not old.keys().isdisjoint(identities):
            young.update({one: old[one] for one in identities if one in old})
        before = len(young)
        groups = list(map(young.setdefault, identities, repeat(group)))
        count = len(young) - before
        if count == len(identities):
            return groups, identities
        # A dict keeps the order in which its keys were added.
        return groups, list(islice(reversed(young), count))

    def trim(self) -> None:
        """Drop the older generation if the younger one is full."""
        if sum(map(len, self._young.values())) >= self._generation:
            self._old, self._young = self._young, defaultdict(dict)


def _sendable(
    kind: IdentityKind, identity: bytes, value: str | None
) -> tuple[str, str]:
    """Return the key and text of an identity: its raw value if it can be sent."""
    sent = None if value is None else sendable(kind.name, value, send_raw=True)
    return sent or (kind.key, base64.encode_text(identity))


class Batcher:
    """Puts the new identities of chunks into batches: the CPU work of a job.

    Attributes:
        ready: Batches that are full.
    """

    def __init__(
        self, endpoint: Endpoint, *, batch_size: int, window: int, send_raw: bool
    ) -> None:
        """Make batches for *endpoint*.

        Args:
            endpoint: Who is asked.
            batch_size: The greatest number of identities in a batch.
            window: How many identities are remembered, so that each is sent once.
            send_raw: Whether DII is sent as it is, not as a hash.
        """
        self.ready: list[Batch] = []
        self._kinds = endpoint.kinds
        self._one_kind = endpoint.one_kind
        self._body_bytes = endpoint.body_bytes
        self._batch_size = batch_size
        self._send_raw = send_raw
        self._window = _Window(window)
        self._open: dict[str, Batch] = {}

    def add(self, chunk: Chunk) -> None:
        """Put what is new in *chunk* into batches, and let it expect the answers."""
        for column in chunk.columns:
            self._add_column(column, chunk)
        self._window.trim()

    def _add_column(self, column: IdentityColumn, chunk: Chunk) -> None:
        """Add a column. If all of it is new, its outcomes come in the same order."""
        kind = self._kinds.get(column.kinds) if isinstance(column.kinds, str) else None
        identities = () if kind is None else column.read(kind)
        if kind is None or not all(identities):
            self._add_rows(column, chunk, identities)
            return
        groups, ranges, new = self._place(kind, identities, column.values)  # type: ignore[arg-type] # none is None
        if new == len(identities):
            chunk.expect([group for group, _, _ in ranges], partial(_slices, ranges))
            return
        chunk.duplicates += len(identities) - new
        chunk.expect(set(groups), partial(_find_each, groups, identities))

    def _add_rows(
        self, column: IdentityColumn, chunk: Chunk, known: Sequence[bytes | None]
    ) -> None:
        """Add a column in which rows differ; *known* are its identities, if read."""
        places: list[Group | Outcome] = [UNKNOWN_KIND] * len(column)
        identities: list[bytes | None] = [None] * len(column)
        for name, rows in column.rows_by_kind():
            kind = self._kinds.get(name)
            if kind is None:
                continue
            found = known or column.read_rows(kind, rows)
            for row, identity in zip(rows, found, strict=True):
                places[row], identities[row] = INVALID, identity
            valid = [row for row in rows if identities[row] is not None]
            values = column.values and [column.values[row] for row in valid]
            asked = [identity for identity in found if identity is not None]
            groups, _, new = self._place(kind, asked, values)
            chunk.duplicates += len(valid) - new
            for row, group in zip(valid, groups, strict=True):
                places[row] = group
        for row, outcome in column.special_outcomes():
            places[row] = outcome
        groups = [place for place in places if isinstance(place, Group)]
        chunk.expect(set(groups), partial(_find_each, places, identities))

    def _place(
        self,
        kind: IdentityKind,
        identities: Sequence[bytes],
        values: Sequence[str | None] | None,
    ) -> tuple[list[Group], list[_Range], int]:
        """Put those *identities* that are new into open batches.

        Returns:
            The group of each, the ranges of groups that the new ones are in, and how
            many are new.
        """
        groups: list[Group] = []
        ranges: list[_Range] = []
        while len(groups) < len(identities):
            at = len(groups)
            key, texts, size = kind.key, [], _HASH_BYTES
            if self._send_raw:
                key, text = _sendable(
                    kind, identities[at], values[at] if values else None
                )
                texts, size = [text], len(wire.encode(text)) + 1
            batch = self._open_batch(key, size)
            room = min(
                self._batch_size - batch.count,
                (self._body_bytes - batch.size) // size,
                len(texts) or self._batch_size,
            )
            group = batch.groups.get(key) or Group(kind.subject)
            found, new = self._window.add(
                kind.subject, identities[at : at + room], group
            )
            groups += found
            if new:
                start = len(group.identities)
                group.identities += new
                group.texts += texts
                ranges.append((group, start, len(group.identities)))
                self._count(key, group, len(new), size)
        return groups, ranges, sum(stop - start for _, start, stop in ranges)

    def _open_batch(self, key: str, size: int) -> Batch:
        """Return an open batch with room for one more identity of *size* bytes."""
        name = key if self._one_kind else ""
        batch = self._open.get(name)
        if batch is not None and batch.size + size > self._body_bytes:
            self.ready.append(self._open.pop(name))
            batch = None
        return self._open.setdefault(name, batch or Batch())

    def _count(self, key: str, group: Group, identities: int, size: int) -> None:
        """Count what was put into a group of an open batch, which may be full now."""
        name = key if self._one_kind else ""
        batch = self._open[name]
        batch.groups[key] = group
        batch.count += identities
        batch.size += identities * size
        if batch.count >= self._batch_size:
            self.ready.append(self._open.pop(name))

    def flush(self) -> None:
        """Count the open batches as full."""
        self.ready += [batch for batch in self._open.values() if batch.count]
        self._open.clear()

    def __repr__(self) -> str:
        """Show how many batches are open and ready."""
        return f"<Batcher open={len(self._open)} ready={len(self.ready)}>"
