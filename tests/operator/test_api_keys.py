"""Who calls."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from uid2_async.operator.indexes import ApiKeys

MAPPER = frozenset({"MAPPER"})


@pytest.fixture
def key(asker: Any) -> str:
    """Give the advertiser's API key."""
    return asker.data.credentials["advertiser"].api_key


@pytest.mark.parametrize(
    "form", ["Bearer {}", "bEARER {}", "  Bearer {}  ", "\x01\t Bearer {}\x1f\x0b"]
)
def test_the_header_is_read_leniently(asker: Any, key: str, form: str) -> None:
    """The scheme's case and space around do not matter (docs/protocol.md 1.2)."""
    for _ in range(2):
        client = asker.world.api_keys.find(form.format(key))
        assert client.name == "advertiser"


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "Basic {}",
        "Bearer  {}",
        "Bearer{}",
        "Bearer x{}",
        "Bearer",
        "",
        "Bearer {}\u00a0",
        "Bearer {}\u0085",
        "Bearer {}\u3000",
        "Bearer {}\u200b",
        "\u00a0Bearer {}",
        "\u2003Bearer {}",
    ],
)
def test_anything_else_is_no_key(asker: Any, key: str, form: str) -> None:
    """One space belongs to the scheme, and Java trims up to U+0020 only (1.2)."""
    assert asker.world.api_keys.find(form.format(key)) is None
    assert asker.world.api_keys.find(None) is None


def test_a_client_needs_one_of_the_roles(asker: Any, key: str) -> None:
    """Any one is enough (docs/protocol.md 1.8)."""
    keys, header = asker.world.api_keys, f"Bearer {key}"

    assert keys.authorize(header, MAPPER)
    assert keys.authorize(header, MAPPER | {"SHARER"})
    assert keys.authorize(header, frozenset({"SHARER"})) is None


def test_a_disabled_client_is_found_but_not_let_in(asker: Any, key: str) -> None:
    """Token/refresh asks for no more than that (docs/protocol.md 1.8)."""
    clients = [attrs.evolve(one, disabled=True) for one in asker.data.clients]
    keys = ApiKeys(clients)

    assert keys.find(f"Bearer {key}")
    assert keys.authorize(f"Bearer {key}", MAPPER) is None
