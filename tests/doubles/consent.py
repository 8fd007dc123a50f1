"""TCF v2 consent strings, which EUID operators check (docs/protocol.md 2.1)."""

from __future__ import annotations

from typing import Final

from uid2_async import IdentityScope

FULL_CONSENT: Final = "CVVVVVVVVVVVVVVVVVVVVVVVVf___wAAAP_4AKgAACAAAAA"
NO_CONSENT: Final = "CPehXK9PehXK9ABAMBFRACBoADAAAEJAAIYgAKwAQAKgArABAAqAAA"


def consent_in(scope: IdentityScope) -> str | None:
    """Return a consent string if *scope* requires one to generate tokens."""
    return FULL_CONSENT if scope is IdentityScope.EUID else None
