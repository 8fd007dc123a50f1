"""Tokens without an operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from uid2_async import IdentityTokens


@pytest.fixture
def now() -> datetime:
    """Give the moment at which :func:`plain` is fresh."""
    return datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def plain(now: datetime) -> IdentityTokens:
    """Make tokens with an unknown key, and characters that URIs give a meaning."""
    return IdentityTokens(
        advertising_token="adv+/=" * 30,
        refresh_token="ref+/=" * 60,
        refresh_response_key="wR5t6HKMfJ2r4J7fEGX9Gw==",
        refresh_from=now + timedelta(hours=1),
        identity_expires=now + timedelta(hours=72),
        refresh_expires=now + timedelta(days=30),
        extra={"private": {"ä": '"; Path=/'}},
    )
