"""From steps of identities to batches: hashing, one slot per identity, splitting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import attrs
import msgspec

from uid2_async.bulk.feed import Named, Step
from uid2_async.bulk.records import InvalidPhone, MapFailure, Outcome
from uid2_async.models import MapRow, UnmappedReason
from uid2_async.phones import PhoneFault
from uid2_async.protocol import base64, wire
from uid2_async.protocol.identity_input import sendable

__all__ = [
    "ABSENT",
    "UNKNOWN_KIND",
    "Batch",
    "Batcher",
    "Block",
    "Fresh",
    "Route",
    "Slot",
]

# A hash in JSON: 44 characters, two quotes and a comma.
_HASH_BYTES: Final = 47


class Slot(msgspec.Struct, gc=False, eq=False):
    """The place of one identity in a request, shared by all rows that name it.

    There are a hundred thousand of them, which would make each full run of the garbage
    collector hold up the event loop: it does not look at these.

    Attributes:
        outcome: The answer, once it is there.
    """

    outcome: Outcome | None = None

    def __repr__(self) -> str:
        """Show whether it is answered."""
        return f"Slot(answered={self.outcome is not None})"


ABSENT: Final = MapRow()
"""The outcome where there is no identity."""

UNKNOWN_KIND: Final = MapRow(e="invalid input type")
"""The outcome where the kind of an identity is none of those that can be asked."""

_ABSENT: Final = Slot(ABSENT)
_UNKNOWN_KIND: Final = Slot(UNKNOWN_KIND)
_INVALID: Final = Slot(MapRow(e=UnmappedReason.INVALID_IDENTIFIER.value))
_INVALID_PHONES: Final = {
    fault: Slot(
        InvalidPhone(e=UnmappedReason.INVALID_IDENTIFIER.value, code=fault.code)
    )
    for fault in PhoneFault
}


@attrs.frozen(kw_only=True)
class Route:
    """How the identities of one kind are asked about.

    Attributes:
        kind: The kind, as their owner calls it.
        subject: What they are: ``email`` or ``phone``; two kinds may be one subject.
        key: Under which key they are sent.
        read: Turns values into what identifies each, or None where it is invalid.
        prefix: What keeps the subjects apart among the identities that are remembered.
    """

    kind: str
    subject: str
    key: str
    read: Callable[[Sequence[str]], list[bytes | None]]
    prefix: bytes


class Fresh:
    """Identities of one kind that a step named for the first time.

    Attributes:
        route: How they are asked about.
        slots: Where the answers go.
        identities: What identifies them.
        values: How their owner named them.
    """

    __slots__ = ("identities", "route", "slots", "values")

    def __init__(self, route: Route) -> None:
        """Start empty."""
        self.route: Route = route
        self.slots: list[Slot] = []
        self.identities: list[bytes] = []
        self.values: list[str] = []

    def without(self, known: Sequence[Outcome | None]) -> Fresh:
        """Answer those that are *known*, and keep the others."""
        rest = Fresh(self.route)
        each = zip(known, self.slots, self.identities, self.values, strict=True)
        for row, slot, identity, value in each:
            if row is not None:
                slot.outcome = row
                continue
            rest.slots.append(slot)
            rest.identities.append(identity)
            rest.values.append(value)
        return rest


class Part:
    """The identities of a batch that are sent under one key.

    Attributes:
        subject: What they are.
        slots: Where the answers go.
        identities: What identifies each.
        texts: As what each is sent; empty where that is its hash.
    """

    __slots__ = ("identities", "slots", "subject", "texts")

    def __init__(self, subject: str) -> None:
        """Start empty."""
        self.subject: str = subject
        self.slots: list[Slot] = []
        self.identities: list[bytes] = []
        self.texts: list[str] = []

    def sent(self) -> list[str]:
        """List what is sent."""
        return self.texts or base64.encode_texts(self.identities)


class Batch:
    """The identities of one request.

    Attributes:
        parts: By the key under which they are sent.
        count: How many identities there are.
        size: Of how many bytes the request will be, at most.
        rounds: How often it ran out of attempts while others succeeded.
    """

    __slots__ = ("count", "parts", "rounds", "size")

    def __init__(self) -> None:
        """Start empty."""
        self.parts: dict[str, Part] = {}
        self.count: int = 0
        self.size: int = 0
        self.rounds: int = 0

    def part(self, key: str, subject: str) -> Part:
        """Give the part of *key*."""
        found = self.parts.get(key)
        if found is None:
            found = self.parts[key] = Part(subject)
        return found

    def values(self) -> dict[str, list[str]]:
        """List what is sent under each key."""
        return {key: part.sent() for key, part in self.parts.items()}

    def fill(self, rows: Mapping[str, Sequence[Outcome]]) -> None:
        """Give each slot its outcome, by key and in the order of :meth:`values`."""
        for key, part in self.parts.items():
            for slot, outcome in zip(part.slots, rows[key], strict=True):
                slot.outcome = outcome

    def fail(self, failure: MapFailure) -> None:
        """Give every slot the same failure."""
        self.fill({key: [failure] * len(one.slots) for key, one in self.parts.items()})

    def halves(self) -> tuple[Batch, Batch]:
        """Split into two, neither of them empty unless there is but one identity."""
        first, second = Batch(), Batch()
        left = (self.count + 1) // 2
        for key, part in self.parts.items():
            cut = min(left, len(part.slots))
            left -= cut
            for half, piece in ((first, slice(cut)), (second, slice(cut, None))):
                half.append(key, part, piece)
        for half in (first, second):
            half.rounds = self.rounds
        return first, second

    def append(self, key: str, source: Part, piece: slice) -> None:
        """Take over a *piece* of another batch's part."""
        slots = source.slots[piece]
        if slots:
            part = self.part(key, source.subject)
            part.slots += slots
            part.identities += source.identities[piece]
            part.texts += source.texts[piece]
            self.count += len(slots)


class Block:
    """Some rows, with the slots that answer them.

    Attributes:
        payload: What their owner gave.
        rows: How many there are.
        slots: One for each identity: column after column.
        fresh: Those that were named for the first time, until they have been placed.
        duplicates: How many identities share a slot with an earlier one.
    """

    __slots__ = ("duplicates", "fresh", "payload", "rows", "slots")

    def __init__(self, step: Step) -> None:
        """Hold what *step* gave, which has no slots yet."""
        self.payload: Any = step.payload
        self.rows: int = step.rows
        self.slots: list[Slot] = []
        self.fresh: list[Fresh] = []
        self.duplicates: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether every slot has its outcome."""
        # From the end: what was sent last is answered last, mostly.
        return all(slot.outcome is not None for slot in reversed(self.slots))

    def outcomes(self) -> list[Outcome]:
        """List the outcome of each identity; the block must be answered."""
        return [slot.outcome for slot in self.slots if slot.outcome is not None]


class Batcher:
    """Makes blocks and batches of steps; the CPU work of a job.

    Remembers the identities that it met last, in two generations, so that dropping
    them costs nothing for each: at least half of the window is always remembered.

    Attributes:
        ready: Batches that are full.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        batch_size: int,
        body_bytes: int,
        window: int,
        send_raw: bool = False,
        one_kind: bool = False,
        keep_pending: bool = False,
    ) -> None:
        """Make batches for *routes*.

        Args:
            routes: How each kind is asked about.
            batch_size: How many identities a batch has at most.
            body_bytes: How many bytes its JSON may have.
            window: How many identities are remembered.
            send_raw: Whether DII is sent as it is.
            one_kind: Whether all identities of a batch must be of one kind.
            keep_pending: Whether those are remembered besides that are not answered
                yet: then no identity is ever asked about twice at once.
        """
        self.ready: list[Batch] = []
        self._routes = {route.kind: route for route in routes}
        self._batch_size = batch_size
        self._body_bytes = body_bytes
        self._send_raw = send_raw
        self._one_kind = one_kind
        self._keep_pending = keep_pending
        self._generation = max(1, window // 2)
        self._young: dict[bytes, Slot] = {}
        self._old: dict[bytes, Slot] = {}
        self._open: dict[str, Batch] = {}

    def take(self, step: Step) -> Block:
        """Make a block of *step*; what is new in it waits to be placed."""
        block = Block(step)
        fresh: dict[str, Fresh] = {}
        for column in step.columns:
            self._take_column(column, block, fresh)
        block.fresh = list(fresh.values())
        if len(self._young) >= self._generation:
            self._forget()
        return block

    def _forget(self) -> None:
        """Let the older generation go."""
        pending = {}
        if self._keep_pending:
            pending = {
                name: slot for name, slot in self._old.items() if slot.outcome is None
            }
        self._old, self._young = pending | self._young, {}

    def _take_column(
        self, column: Named, block: Block, fresh: dict[str, Fresh]
    ) -> None:
        """Give each identity of *column* its slot.

        This loop is run once for each identity of a job, so it calls nothing that it
        can do without.
        """
        routes, young, old, slots = self._routes, self._young, self._old, block.slots
        before = len(slots)
        kinds = repeat(column.kinds) if isinstance(column.kinds, str) else column.kinds
        identities = self._read_column(column)
        for kind, value, identity in zip(
            kinds, column.values, identities, strict=False
        ):
            if value is None:
                slots.append(_ABSENT)
                continue
            route = routes.get(kind)
            if route is None:
                slots.append(_UNKNOWN_KIND)
                continue
            if identity is None:
                slots.append(_INVALID)
                continue
            name = route.prefix + identity if route.prefix else identity
            slot = young.get(name) or old.get(name)
            if slot is None:
                slot = young[name] = Slot()
                found = fresh.get(kind)
                if found is None:
                    found = fresh[kind] = Fresh(route)
                found.slots.append(slot)
                found.identities.append(identity)
                found.values.append(value)
            else:
                block.duplicates += 1
            slots.append(slot)
        for row, fault in column.faults.items():
            slots[before + row] = _INVALID_PHONES[fault]

    def _read_column(self, column: Named) -> list[bytes | None]:
        """Turn all values of *column* into what identifies them, a kind at a time."""
        kinds, values = column.kinds, column.values
        found: list[bytes | None] = [None] * len(values)
        for kind in {kinds} if isinstance(kinds, str) else set(kinds):
            route = self._routes.get(kind)
            if route is None:
                continue
            places = [
                at
                for at, value in enumerate(values)
                if value is not None and (kinds is kind or kinds[at] == kind)
            ]
            texts = [values[at] or "" for at in places]
            for at, identity in zip(places, route.read(texts), strict=True):
                found[at] = identity
        return found

    def place(self, fresh: Fresh) -> None:
        """Put identities into the open batch; those that get full are *ready*."""
        if self._send_raw:
            self._place_raw(fresh)
            return
        route, at = fresh.route, 0
        while at < len(fresh.slots):
            batch = self._roomy(route.key, _HASH_BYTES)
            room = min(
                self._batch_size - batch.count,
                (self._body_bytes - batch.size) // _HASH_BYTES,
            )
            piece = slice(at, at + room)
            part = batch.part(route.key, route.subject)
            part.slots += fresh.slots[piece]
            part.identities += fresh.identities[piece]
            placed = min(room, len(fresh.slots) - at)
            self._count(route.key, batch, placed, placed * _HASH_BYTES)
            at += placed

    def _place_raw(self, fresh: Fresh) -> None:
        """Put identities into the open batch as their owner named them."""
        kind, subject = fresh.route.kind, fresh.route.subject
        each = zip(fresh.slots, fresh.identities, fresh.values, strict=True)
        for slot, identity, value in each:
            sent = sendable(kind, value, send_raw=True)
            key, text = sent or (kind, value)
            size = len(wire.encode(text)) + 1
            batch = self._roomy(key, size)
            part = batch.part(key, subject)
            part.slots.append(slot)
            part.identities.append(identity)
            part.texts.append(text)
            self._count(key, batch, 1, size)

    def _roomy(self, key: str, size: int) -> Batch:
        """Give an open batch that takes one more identity of *size* bytes."""
        name = key if self._one_kind else ""
        batch = self._open.get(name)
        if batch is not None and batch.size + size > self._body_bytes:
            self.ready.append(self._open.pop(name))
            batch = None
        if batch is None:
            batch = self._open[name] = Batch()
        return batch

    def _count(self, key: str, batch: Batch, identities: int, size: int) -> None:
        """Count what has been put into an open batch, which may be full by now."""
        batch.count += identities
        batch.size += size
        if batch.count >= self._batch_size:
            self.ready.append(self._open.pop(key if self._one_kind else ""))

    def flush(self) -> None:
        """Count the open batches as full."""
        self.ready += self._open.values()
        self._open.clear()
