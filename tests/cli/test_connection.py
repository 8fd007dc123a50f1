"""Clients of commands."""

from __future__ import annotations

import pytest

from uid2_async import IdentityScope
from uid2_async.cli.connection import Connection
from uid2_async.errors import ConfigError
from uid2_async.models import MappedUID
from uid2_async.operator import LocalOperator


@pytest.mark.parametrize("scope", list(IdentityScope))
async def test_sandbox(scope: IdentityScope) -> None:
    """A sandbox answers without any settings."""
    async with Connection(scope=scope, sandbox=True).client() as client:
        (row,) = await client.map_identities(["jane@example.com"])

    assert client.scope is scope
    assert isinstance(row, MappedUID)


async def test_environment(
    operator: LocalOperator, scope: IdentityScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sandbox the environment names the operator."""
    monkeypatch.setenv(f"{scope}_BASE_URL", operator.url)
    monkeypatch.setenv(f"{scope}_API_KEY", operator.api_key)
    monkeypatch.setenv(f"{scope}_SECRET_KEY", operator.client_secret)
    async with Connection(scope=scope).client() as client:
        assert client.base_urls == (operator.url,)

    monkeypatch.delenv(f"{scope}_API_KEY")
    with pytest.raises(ConfigError, match=f"{scope}_API_KEY"):
        async with Connection(scope=scope).client():
            pass


async def test_every_sandbox_is_the_same_operator() -> None:
    """A state and an unfinished job of a sandbox fit the next one."""
    digests = set()
    for _ in range(2):
        async with Connection(sandbox=True).client() as client:
            await client.map_identities(["jane@example.com"])
            digests.add((client.base_urls, client.settings_digest("salt")))

    assert len(digests) == 1
