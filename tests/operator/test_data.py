"""What an operator's data must hold."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from uid2_async.errors import ConfigError
from uid2_async.operator import OperatorData
from uid2_async.operator.data import Keyset, SaltSnapshot
from uid2_async.protocol.raw_uid import Environment


@pytest.fixture
def data(base: Any) -> OperatorData:
    """Give the built-in data."""
    return OperatorData.sample(base=base)


@pytest.mark.parametrize(
    "change",
    [
        {"refresh_identity_token_after_seconds": 0},
        {"refresh_identity_token_after_seconds": 300_000},
        {"identity_token_expires_after_seconds": 3_000_000},
        {"identity_environment": "staging"},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    data: OperatorData, change: dict[str, Any]
) -> None:
    """Lifetimes must grow, and there are three environments (docs/protocol.md 2.1)."""
    with pytest.raises(ConfigError):
        attrs.evolve(data, runtime=attrs.evolve(data.runtime, **change))


def test_the_environment_is_read_in_any_letter_case(data: OperatorData) -> None:
    """It decides on the first character of v4 raw UIDs (docs/protocol.md 4.4)."""
    runtime = attrs.evolve(data.runtime, identity_environment="Prod")

    assert runtime.environment is Environment.PROD
    assert data.runtime.environment is Environment.TEST


def test_a_site_has_one_default_keyset(data: OperatorData) -> None:
    """A real operator fails with two (docs/protocol.md 6.4)."""
    second = Keyset(keyset_id=99, site_id=101, default=True)

    with pytest.raises(ConfigError):
        attrs.evolve(data, keysets=(*data.keysets, second))

    disabled = attrs.evolve(second, enabled=False)
    assert attrs.evolve(data, keysets=(*data.keysets, disabled))


def test_credentials_and_salts_are_needed(data: OperatorData) -> None:
    """Without them nobody could ask, and nothing be answered."""
    empty = SaltSnapshot(effective=0, expires=1, rows=[])
    for change in (
        {"credentials": {}},
        {"salts": attrs.evolve(data.salts, snapshots=[])},
        {"salts": attrs.evolve(data.salts, snapshots=[empty])},
    ):
        with pytest.raises(ConfigError):
            attrs.evolve(data, **change)


def test_no_repr_shows_a_secret(data: OperatorData) -> None:
    """A repr reaches logs and reports of tests."""
    client, key, pair = data.clients[0], data.keys[0], data.keypairs[0]
    credentials = data.credentials["publisher"]
    row = data.salts.snapshots[0].rows[1]
    shown = repr((data, data.clients, data.keys, data.keypairs, row, credentials))

    for hidden in (
        credentials.api_key,
        credentials.client_secret,
        pair.private_key,
        row.salt,
        data.salts.first_level,
        repr(client.secret),
        repr(key.secret),
    ):
        assert hidden not in shown
    assert "publisher" in shown
