"""What a job is fed with: identities in steps, each of little work."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from itertools import islice
from typing import Any, Final, Protocol

from uid2_async._failures import CONTROL_FLOW
from uid2_async.errors import InputError, JobError
from uid2_async.models import Identity, kind_and_value
from uid2_async.phones import PhoneFault

__all__ = ["STEP_ROWS", "Feed", "ItemFeed", "Named", "Step"]

STEP_ROWS: Final = 500
"""How many rows are read, hashed or written in one step: well below 5 ms of CPU."""

_NO_FAULTS: Final[Mapping[int, PhoneFault]] = {}


class Named:
    """Identities in a row, as their owner named them.

    Attributes:
        kinds: Of which kind they are: one word for all, or one for each.
        values: The identities themselves; None where there is none.
        faults: Why some of them, by their place, are no phones; they are invalid.
    """

    __slots__ = ("faults", "kinds", "values")

    def __init__(
        self,
        kinds: str | Sequence[str],
        values: Sequence[str | None],
        faults: Mapping[int, PhoneFault] = _NO_FAULTS,
    ) -> None:
        """Pair *kinds* with *values*."""
        self.kinds: str | Sequence[str] = kinds
        self.values: Sequence[str | None] = values
        self.faults: Mapping[int, PhoneFault] = faults


class Step:
    """Some rows of the input.

    Attributes:
        payload: What their owner gets back with the answers.
        rows: How many there are.
        columns: Their identities, one value a row in each column.
    """

    __slots__ = ("columns", "payload", "rows")

    def __init__(self, payload: Any, rows: int, columns: Sequence[Named]) -> None:
        """Hold *payload* and what it asks."""
        self.payload: Any = payload
        self.rows: int = rows
        self.columns: Sequence[Named] = columns


class Feed(Protocol):
    """Where a job's steps come from."""

    def take(self, *, partial: bool) -> Step | None:
        """Make the next step of what has been loaded; CPU work of a few ms at most.

        Args:
            partial: Whether fewer rows than a step has are welcome.

        Returns:
            None where more has to be loaded first.
        """
        ...

    async def load(self) -> bool:
        """Wait for more input; False at its end."""
        ...


class ItemFeed:
    """Feeds the items of an iterable."""

    def __init__(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        key: Callable[[Any], Identity | str] | None,
    ) -> None:
        """Feed *items*, whose identities *key* finds."""
        self._key = key
        self._collected: list[Any] = []
        self._taken = 0
        self._later: AsyncIterator[Any] | None = None
        self._now = iter(())
        if isinstance(items, AsyncIterable):
            self._later = aiter(items)
        else:
            self._now = iter(items)

    async def load(self) -> bool:
        """See :meth:`Feed.load`."""
        if self._later is None:
            before = len(self._collected)
            self._collected += islice(self._now, STEP_ROWS - before)
            return len(self._collected) > before
        async for item in self._later:
            self._collected.append(item)
            if len(self._collected) >= STEP_ROWS:
                return True
        return False

    def take(self, *, partial: bool) -> Step | None:
        """See :meth:`Feed.take`.

        Raises:
            InputError: If an item's key is neither an identity nor a str; names its
                place.
            JobError: If *key* raised what ends a task or a loop.
        """
        items = self._collected
        if not items or (len(items) < STEP_ROWS and not partial):
            return None
        self._collected = []
        named = self._name(items)
        self._taken += len(items)
        return Step(items, len(items), (named,))

    def _name(self, items: list[Any]) -> Named:
        """Find the kind and the value of each item."""
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
            return Named(kinds, values)
        raise failure(f"Item {self._taken + len(values)}: {reason}")
