"""From chunks of identities to batches: hashing, deduplication, sizes, splitting.

An identity costs only a few steps of C code here. A loop over the identities of a chunk
runs only if they are not all new, valid and of one kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, repeat
from typing import Any, Final, Protocol, TypeAlias

import attrs

from uid2_async.bulk.outcomes import (
    ABSENT,
    INVALID,
    INVALID_PHONES,
    UNKNOWN_KIND,
    Endpoint,
    IdentityKind,
    Outcome,
)
from uid2_async.phones import PhoneFault
from uid2_async.protocol import base64, wire
from uid2_async.protocol.normalize import sendable

STEP_ROWS: Final = 500
"""The rows of a chunk: few enough to be read, hashed or written in far below 5 ms."""

_Range: TypeAlias = "tuple[Group, int, int]"
_NO_FAULTS: Final[Mapping[int, PhoneFault]] = {}
# A hash in JSON: 44 characters, two quotes and a comma.
_HASH_BYTES: Final = 47


@attrs.frozen(repr=False, eq=False)
class IdentityColumn:
    """One identity per row of a chunk.

    Attributes:
        kinds: The kind of all identities, or a list with one kind each.
        values: The identities as text, with None for rows without one. None if there
            are only *identities*.
        faults: The reasons, by row, why values are not phone numbers. These are not
            sent.
        identities: The identity bytes if they are already computed, with None for rows
            without a valid identity.
        hashes_of_nothing: The number of hashes of empty values left out.
    """

    kinds: str | Sequence[str]
    values: Sequence[str | None] | None = None
    faults: Mapping[int, PhoneFault] = _NO_FAULTS
    identities: Sequence[bytes | None] | None = None
    hashes_of_nothing: int = 0

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.values if self.identities is None else self.identities)  # type: ignore[arg-type] # one of both is given

    def identity_bytes(
        self, kind: IdentityKind, rows: Sequence[int]
    ) -> Sequence[bytes | None]:
        """Return the identity bytes of *rows*, all of one *kind*."""
        given = self.values if self.identities is None else self.identities
        assert given is not None  # noqa: S101 - one of both is
        chosen: Sequence[Any] = given
        if len(rows) < len(given) or self.faults:
            chosen = [None if row in self.faults else given[row] for row in rows]
        if self.identities is not None:
            return chosen
        if all(chosen):
            return kind.read(chosen)
        identities = iter(kind.read([value for value in chosen if value]))
        return [next(identities) if value else None for value in chosen]

    def rows_by_kind(self) -> Iterable[tuple[str, Sequence[int]]]:
        """Return each kind with its rows."""
        if isinstance(self.kinds, str):
            return [(self.kinds, range(len(self)))]
        rows = defaultdict(list)
        for row, kind in enumerate(self.kinds):
            rows[kind].append(row)
        return rows.items()

    def identities_by_kind(
        self, endpoint: Endpoint
    ) -> Iterator[tuple[IdentityKind, Sequence[int], Sequence[bytes | None]]]:
        """Yield each kind that *endpoint* accepts, with its rows and identity bytes."""
        for name, rows in self.rows_by_kind():
            kind = endpoint.kinds.get(name)
            if kind is not None:
                yield kind, rows, self.identity_bytes(kind, rows)


@attrs.define(repr=False, eq=False)
class Chunk:
    """Some rows of the input.

    Attributes:
        payload: Data that the source gets back with the outcomes.
        rows: The number of rows.
        columns: Their identities, one per row in each column.
        duplicates: The number of identities already sent for an earlier row.
    """

    payload: Any
    rows: int
    columns: Sequence[IdentityColumn]
    duplicates: int = attrs.field(default=0, init=False)
    _outcomes: list[Callable[[], list[Outcome]]] = attrs.field(factory=list, init=False)
    _waiting: list[Group] = attrs.field(factory=list, init=False)

    def expect(
        self, groups: Iterable[Group], outcomes: Callable[[], list[Outcome]]
    ) -> None:
        """Read the next column from *outcomes* once *groups* are answered."""
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
        """Return the outcomes of each column. The chunk must be answered."""
        return [outcomes() for outcomes in self._outcomes]


class Source(Protocol):
    """The source of a job's chunks."""

    def take(self, *, partial: bool) -> Chunk | None:
        """Make a chunk from loaded input, in at most 5 ms of CPU time."""
        ...

    async def load(self) -> bool:
        """Wait for more input. Return False at the end."""
        ...


@attrs.define(repr=False, eq=False)
class Group:
    """The identities that a batch sends under one key, and their outcomes.

    Attributes:
        subject: ``email``, ``phone`` or ``raw_uid``.
        identities: The identity bytes.
        texts: The text sent for each; empty if it is the base64 of the identity bytes.
        outcomes: The outcome of each, once known.
    """

    subject: str
    identities: list[bytes] = attrs.field(factory=list)
    texts: list[str] = attrs.field(factory=list)
    _whole: Group | None = None
    _offset: int = 0
    outcomes: list[Outcome] = attrs.field(factory=list, init=False)
    _answered: int = attrs.field(default=0, init=False)
    _index: dict[bytes, Outcome] | None = attrs.field(default=None, init=False)

    @property
    def is_answered(self) -> bool:
        """Whether all outcomes are known."""
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

    def part(self, start: int, stop: int) -> Group:
        """Return a part whose outcomes are also stored in this group."""
        identities, texts = self.identities[start:stop], self.texts[start:stop]
        return Group(self.subject, identities, texts, self, start)

    def find(self, identity: bytes) -> Outcome:
        """Return the outcome of an identity of this group."""
        if self._index is None:
            self._index = dict(zip(self.identities, self.outcomes, strict=True))
        return self._index[identity]


def _outcomes(
    identities: Sequence[bytes | None],
    ranges: Sequence[_Range],
    known: Sequence[tuple[bytes, Group]],
) -> list[Outcome]:
    """Return the outcome of each identity."""
    new: list[Outcome] = []
    for group, start, stop in ranges:
        new += group.outcomes[start:stop]
    if len(new) == len(identities):
        return new
    sent = (group.identities[start:stop] for group, start, stop in ranges)
    found = {one: group.find(one) for one, group in known}
    found.update(zip(chain.from_iterable(sent), new, strict=True))
    return list(map(found.get, identities, repeat(INVALID)))  # type: ignore[arg-type] # None is not found


def join_outcomes(
    column: IdentityColumn,
    parts: Sequence[tuple[Sequence[int], Callable[[], list[Outcome]]]],
) -> list[Outcome]:
    """Join the outcomes of each kind into those of a column."""
    outcomes: list[Outcome] = [UNKNOWN_KIND] * len(column)
    for rows, find in parts:
        found = find()
        if len(found) == len(outcomes):
            outcomes = found
            continue
        for row, outcome in zip(rows, found, strict=True):
            outcomes[row] = outcome
    if not all(column.values or ()):
        for row, value in enumerate(column.values or ()):
            if value is None:
                outcomes[row] = ABSENT
    for row, fault in column.faults.items():
        outcomes[row] = INVALID_PHONES[fault]
    return outcomes


@attrs.define(repr=False, eq=False)
class Batch:
    """The identities of one request.

    Attributes:
        groups: The groups of identities by the key under which they are sent.
        count: The number of identities.
        size: The maximum size of the request in bytes.
        rounds: The number of times it ran out of attempts while others succeeded.
        generation: The generation of the limit in which the last attempt started.
    """

    groups: dict[str, Group] = attrs.field(factory=dict)
    count: int = 0
    size: int = 0
    rounds: int = 0
    generation: int = 0

    def parts(self, size: int) -> list[Batch]:
        """Split into batches of *size* identities; the last one may have fewer."""
        parts = [Batch(rounds=self.rounds)]
        for key, group in self.groups.items():
            start, end = 0, len(group.identities)
            while start < end:
                if parts[-1].count == size:
                    parts.append(Batch(rounds=self.rounds))
                part = parts[-1]
                stop = min(end, start + size - part.count)
                part.groups[key] = group.part(start, stop)
                part.count += stop - start
                start = stop
        return parts


class Batcher:
    """Puts the new identities of chunks into batches: the CPU work of a job.

    It remembers the groups of the most recent identities in two generations, so that
    dropping old ones costs nothing per identity.
    """

    def __init__(
        self, endpoint: Endpoint, *, batch_size: int, window: int, send_raw: bool
    ) -> None:
        """Make batches for *endpoint*; remember at least *window* / 2 identities."""
        self.ready: list[Batch] = []
        self._endpoint = endpoint
        self.batch_size: int = batch_size
        self._send_raw = send_raw
        self._generation_size = max(1, window // 2)
        self._young: defaultdict[str, dict[bytes, Group]] = defaultdict(dict)
        self._old: defaultdict[str, dict[bytes, Group]] = defaultdict(dict)
        self._open: dict[str, Batch] = {}

    def add(self, chunk: Chunk) -> None:
        """Batch the new identities of *chunk*, and make it expect the answers."""
        for column in chunk.columns:
            self._add_column(column, chunk)
        if sum(map(len, self._young.values())) >= self._generation_size:
            self._old, self._young = self._young, defaultdict(dict)

    def _add_column(self, column: IdentityColumn, chunk: Chunk) -> None:
        groups: set[Group] = set()
        parts = []
        for kind, rows, identities in column.identities_by_kind(self._endpoint):
            ranges: list[_Range] = []
            known: list[tuple[bytes, Group]] = []
            for key, text, some in self._texts(kind, column, rows, identities):
                new = self._add_some(kind.subject, key, text, some, known)
                ranges += new
                chunk.duplicates += len(some) - sum(end - at for _, at, end in new)
            groups.update(group for group, _, _ in ranges)
            groups.update(group for _, group in known)
            parts.append((rows, partial(_outcomes, identities, ranges, known)))
        chunk.expect(groups, partial(join_outcomes, column, parts))

    def _texts(
        self,
        kind: IdentityKind,
        column: IdentityColumn,
        rows: Sequence[int],
        identities: Sequence[bytes | None],
    ) -> Iterator[tuple[str, str, Sequence[bytes]]]:
        """Yield some valid identities with their JSON key, and the text to send.

        The text is empty if hashes are sent, which are made of the identities later.
        """
        if not self._send_raw:
            valid = identities if all(identities) else list(filter(None, identities))
            yield kind.key, "", valid  # type: ignore[misc] # none of them is None
            return
        for row, identity in zip(rows, identities, strict=True):
            if identity is not None:
                key, text = kind.key, base64.encode_text(identity)
                value = None if column.values is None else column.values[row]
                if value is not None:
                    key, text = sendable(kind.name, value, send_raw=True) or (key, text)
                yield key, text, [identity]

    def _add_some(
        self,
        subject: str,
        key: str,
        text: str,
        identities: Sequence[bytes],
        known: list[tuple[bytes, Group]],
    ) -> list[_Range]:
        """Batch the new ones of *identities*; add the others to *known*."""
        ranges: list[_Range] = []
        size = len(wire.encode(text)) + 1 if text else _HASH_BYTES
        name = key if self._endpoint.one_kind else ""
        index = 0
        while index < len(identities):
            batch = self._open_batch(name, size)
            room = (self._endpoint.body_bytes - batch.size) // size
            stop = index + min(self.batch_size - batch.count, room)
            group = batch.groups.get(key) or Group(subject)
            new, others = self._split_new(subject, identities[index:stop], group)
            known += others
            index = stop
            if new:
                start = len(group.identities)
                ranges.append((group, start, start + len(new)))
                group.identities += new
                group.texts += [text] if text else []
                batch.groups[key] = group
                batch.count += len(new)
                batch.size += len(new) * size
            if batch.count >= self.batch_size:
                self.ready.append(self._open.pop(name))
        return ranges

    def _open_batch(self, name: str, size: int) -> Batch:
        """Return an open batch with room for another identity of *size* bytes."""
        batch = self._open.get(name)
        if batch is not None and batch.size + size > self._endpoint.body_bytes:
            self.ready.append(self._open.pop(name))
        return self._open.setdefault(name, Batch())

    def _split_new(
        self, subject: str, identities: Sequence[bytes], group: Group
    ) -> tuple[Sequence[bytes], Sequence[tuple[bytes, Group]]]:
        """Return the new ones of *identities*, now in *group*, and the others."""
        young, old = self._young[subject], self._old[subject]
        if not old.keys().isdisjoint(identities):
            young.update({one: old[one] for one in identities if one in old})
        before = len(young)
        groups = list(map(young.setdefault, identities, repeat(group)))
        count = len(young) - before
        if count == len(identities):
            return identities, ()
        # A dict keeps the order in which its keys were added.
        new = dict.fromkeys(islice(reversed(young), count))
        pairs = zip(identities, groups, strict=True)
        return list(new), [pair for pair in pairs if pair[0] not in new]

    def flush(self) -> None:
        """Mark the open batches as full."""
        self.ready += [batch for batch in self._open.values() if batch.count]
        self._open.clear()
