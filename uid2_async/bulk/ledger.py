"""The seam between a job and what remembers its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from uid2_async.models import MapRow

__all__ = ["Ledger"]


class Ledger(Protocol):
    """What is known about identities already, and keeps what is learnt."""

    async def look_up(
        self, subject: str, identities: Sequence[bytes]
    ) -> Sequence[MapRow | None]:
        """Say what is known about each of *identities*; None where it must be asked.

        Args:
            subject: ``email`` or ``phone``.
            identities: The identity bytes.
        """
        ...

    async def record(
        self,
        subjects: Sequence[str],
        identities: Sequence[bytes],
        rows: Sequence[MapRow],
    ) -> Sequence[MapRow]:
        """Keep the answers about *identities*, whole or not at all.

        Returns:
            What is known about each now, in order.
        """
        ...
