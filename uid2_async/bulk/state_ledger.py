"""A state as the ledger of a job."""

from __future__ import annotations

from collections.abc import Sequence

from uid2_async.bulk.state import MappingState, Run, StateRow
from uid2_async.models import IdentityType, MapRow

__all__ = ["StateLedger"]


class StateLedger:
    """Asks a state first, and records what is learnt.

    Attributes:
        answered: How many identities the state has answered.
    """

    def __init__(
        self,
        state: MappingState,
        run: Run,
        *,
        ask_all: bool = False,
        segment: str | None = None,
    ) -> None:
        """Stand before *state*.

        Args:
            state: It must be open.
            run: What is recorded belongs to it.
            ask_all: Whether the state is not asked: what it knows is to be renewed.
            segment: The audience of which the input is the whole, if it is one.
        """
        self.answered: int = 0
        self._state = state
        self._run = run
        self._ask_all = ask_all
        self._segment = segment

    async def look_up(
        self, subject: str, identities: Sequence[bytes]
    ) -> Sequence[StateRow | None]:
        """See :meth:`~uid2_async.bulk.ledger.Ledger.look_up`."""
        kind = IdentityType(subject)
        if self._segment is not None:
            await self._state.mark_present(self._run, self._segment, kind, identities)
        if self._ask_all:
            return [None] * len(identities)
        found = await self._state.look_up(self._run, kind, identities)
        self.answered += len(found) - found.count(None)
        return found

    async def record(
        self,
        subjects: Sequence[str],
        identities: Sequence[bytes],
        rows: Sequence[MapRow],
    ) -> Sequence[StateRow]:
        """See :meth:`~uid2_async.bulk.ledger.Ledger.record`."""
        kinds = list(map(IdentityType, subjects))
        return await self._state.record(self._run, kinds, identities, rows)
