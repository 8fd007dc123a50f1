"""From a stream of items to batches: hashing, one slot per identity, splitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from uid2_async.bulk.records import MapFailure, Outcome
from uid2_async.errors import InputError
from uid2_async.models import Identity, MapRow, UnmappedReason, kind_and_value
from uid2_async.protocol import wire
from uid2_async.protocol.identity_input import sendable

__all__ = ["Batch", "Batcher", "Block", "Slot"]

# The operator refuses bodies over 1 MiB; what the envelope adds is far below 5 %.
_BODY_BYTES: Final = int(1024 * 1024 * 0.95)
# In JSON a hash costs two quotes and a comma beside its characters.
_QUOTES: Final = 3


class Slot(msgspec.Struct, gc=False, eq=False):
    """The place of one identity in a request, shared by all items that name it.

    There are a hundred thousand of them, which would make each full run of the garbage
    collector hold up the event loop. It does not look at these: the cycle of slot and
    batch is cut when the batch is answered, or the job stopped.

    Attributes:
        batch: The batch that asks, until it has been answered.
        outcome: The answer, once it is there.
    """

    batch: Batch | None
    outcome: Outcome | None = None

    def __repr__(self) -> str:
        """Show whether it is answered."""
        return f"Slot(answered={self.batch is None})"


_INVALID: Final = Slot(None, MapRow(e=UnmappedReason.INVALID_IDENTIFIER.value))


class Batch:
    """The identities of one request.

    Attributes:
        slots: Where the answers go, in the order of *keys* and *texts*.
        keys: Under which key each is sent.
        texts: As what each is sent.
        size: Of how many bytes the request will be, at most.
        rounds: How often it ran out of attempts while others succeeded.
    """

    __slots__ = ("keys", "rounds", "size", "slots", "texts")

    def __init__(self) -> None:
        """Start empty."""
        self.slots: list[Slot] = []
        self.keys: list[str] = []
        self.texts: list[str] = []
        self.size: int = 0
        self.rounds: int = 0

    def values(self) -> dict[str, list[str]]:
        """Sort the texts by the key under which they are sent."""
        values: dict[str, list[str]] = {}
        for key, text in zip(self.keys, self.texts, strict=True):
            values.setdefault(key, []).append(text)
        return values

    def fill(self, outcomes: Sequence[Outcome]) -> None:
        """Give each slot its outcome."""
        for slot, outcome in zip(self.slots, outcomes, strict=True):
            slot.outcome = outcome
            slot.batch = None

    def fail(self, failure: MapFailure) -> None:
        """Give every slot the same failure."""
        self.fill([failure] * len(self.slots))

    def halves(self) -> tuple[Batch, Batch]:
        """Split into two; the slots belong to the halves from now on."""
        middle = len(self.slots) // 2
        parts = (Batch(), Batch())
        for part, cut in zip(
            parts, (slice(None, middle), slice(middle, None)), strict=True
        ):
            part.slots = self.slots[cut]
            part.keys = self.keys[cut]
            part.texts = self.texts[cut]
            part.rounds = self.rounds
            for slot in part.slots:
                slot.batch = part
        return parts


class Block:
    """Some items in a row, with the slots that answer them.

    Attributes:
        items: What the caller gave.
        slots: One for each item.
        duplicates: How many of the items share a slot with an earlier one.
    """

    __slots__ = ("duplicates", "items", "slots")

    def __init__(self, items: list[Any]) -> None:
        """Hold *items*, which have no slots yet."""
        self.items: list[Any] = items
        self.slots: list[Slot] = []
        self.duplicates: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether every slot has its outcome."""
        # From the end: what was sent last is answered last, mostly.
        return all(slot.batch is None for slot in reversed(self.slots))

    def outcomes(self) -> list[Outcome]:
        """List the outcome of each item; the block must be answered."""
        return [slot.outcome for slot in self.slots if slot.outcome is not None]

    def forget(self) -> None:
        """Cut the slots from their batches, which nobody will answer any more."""
        for slot in self.slots:
            slot.batch = None


class Batcher:
    """Makes blocks and batches of items; the CPU work of a job, in small steps.

    Remembers the identities that it met last, in two generations, so that dropping
    them costs nothing for each: at least half of the window is always remembered.

    Attributes:
        ready: Batches that are full.
    """

    def __init__(
        self,
        *,
        key: Callable[[Any], Identity | str] | None,
        batch_size: int,
        window: int,
        send_raw: bool,
    ) -> None:
        """Make batches of *batch_size*, and remember *window* identities."""
        self.ready: list[Batch] = []
        self._key = key
        self._batch_size = batch_size
        self._send_raw = send_raw
        self._generation = max(1, window // 2)
        self._young: dict[tuple[str, str], Slot] = {}
        self._old: dict[tuple[str, str], Slot] = {}
        self._open = Batch()
        self._taken = 0

    def take(self, items: list[Any]) -> Block:
        """Make a block of *items*; full batches are put into *ready*.

        Raises:
            InputError: If an item's key is neither an identity nor a str.
        """
        block = Block(items)
        try:
            self._take_into(block)
        except InputError as error:
            reason = error.message
        else:
            self._taken += len(items)
            return block
        raise InputError(f"Item {self._taken + len(block.slots)}: {reason}")

    def _take_into(self, block: Block) -> None:
        """Give each item of *block* its slot."""
        key, send_raw = self._key, self._send_raw
        slots = block.slots
        for item in block.items:
            kind, value = kind_and_value(item if key is None else key(item))
            identity = sendable(kind, value, send_raw=False)
            if identity is None:
                slots.append(_INVALID)
                continue
            slot = self._young.get(identity) or self._old.get(identity)
            if slot is None:
                sent = sendable(kind, value, send_raw=True) if send_raw else None
                slot = self._add(identity, sent or identity)
            else:
                block.duplicates += 1
            slots.append(slot)

    def _add(self, identity: tuple[str, str], sent: tuple[str, str]) -> Slot:
        """Give a new identity a slot in the open batch, or in the next one."""
        key, text = sent
        size = len(text) + _QUOTES if sent is identity else len(wire.encode(text)) + 1
        batch = self._open
        if len(batch.slots) >= self._batch_size or batch.size + size > _BODY_BYTES:
            self.flush()
            batch = self._open
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}
        slot = self._young[identity] = Slot(batch)
        batch.slots.append(slot)
        batch.keys.append(key)
        batch.texts.append(text)
        batch.size += size
        return slot

    def flush(self) -> None:
        """Count the open batch as full, unless it is empty."""
        if self._open.slots:
            self.ready.append(self._open)
            self._open = Batch()
