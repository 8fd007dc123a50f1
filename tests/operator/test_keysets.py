"""Which keys seal, and who sees which."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from uid2_async.operator.data import Client, Keyset, OperatorData
from uid2_async.operator.indexes import Keysets
from uid2_async.protocol.keyring import Key


def make(base: Any, *keysets: Keyset, expires: int = 2**40) -> Keysets:
    """Make keysets with one key each, numbered alike."""
    keys = tuple(
        Key(
            id=one.keyset_id + 100,
            secret=bytes(32),
            created=0,
            activates=0,
            expires=expires,
            keyset_id=one.keyset_id,
        )
        for one in keysets
    )
    data = OperatorData.sample(base=base)
    return Keysets(attrs.evolve(data, keysets=keysets, keys=keys))


def client(*roles: str, site_id: int = 10) -> Client:
    """Make a caller."""
    return Client(
        name="caller",
        key_hash=b"",
        key_salt=b"",
        secret=bytes(32),
        roles=frozenset(roles),
        site_id=site_id,
    )


@pytest.mark.parametrize(
    ("fields", "bidder", "sharer"),
    [
        ({"site_id": 10}, True, True),
        ({"site_id": 10, "enabled": False}, False, False),
        ({"site_id": 11, "allowed_sites": None}, True, False),
        ({"site_id": 11, "allowed_sites": frozenset()}, False, False),
        ({"site_id": 11, "allowed_sites": frozenset({10})}, True, True),
        ({"site_id": 11, "allowed_sites": frozenset({12})}, False, False),
        ({"keyset_id": -1, "site_id": -1}, True, True),
        ({"keyset_id": -2, "site_id": -2, "allowed_sites": None}, False, False),
    ],
)
def test_who_sees_a_keyset(
    base: Any, fields: dict[str, Any], bidder: bool, sharer: bool
) -> None:
    """Owners, those on its list, and bidders where there is none (6.3)."""
    keysets = make(base, Keyset(**{"keyset_id": 5, **fields}))

    assert bool(keysets.visible_to(client("ID_READER"))) is bidder
    assert bool(keysets.visible_to(client("SHARER"))) is sharer


def test_keys_of_unknown_keysets_open_and_are_not_given_out(base: Any) -> None:
    """A token names its key, and nothing else (docs/protocol.md 6.4)."""
    data = OperatorData.sample(base=base)
    orphans = Keysets(attrs.evolve(data, keysets=()))

    assert all(orphans.key(key.id) == key for key in data.keys)
    assert all(orphans.site_of(key) is None for key in data.keys)
    assert orphans.visible_to(client("ID_READER", "SHARER")) == []


@pytest.mark.parametrize("ids", [(1, 2), (2, 1)])
def test_of_keys_that_activate_together_the_last_one_seals(
    base: Any, ids: tuple[int, int]
) -> None:
    """The order is that of the file, not of the ids (docs/protocol.md 6.4)."""
    keys = tuple(
        Key(
            id=one,
            secret=bytes(32),
            created=0,
            activates=0,
            expires=2**40,
            keyset_id=5,
        )
        for one in ids
    )
    keyset = Keyset(keyset_id=5, site_id=10, default=True)
    data = OperatorData.sample(base=base)
    keysets = Keysets(attrs.evolve(data, keysets=(keyset,), keys=keys))

    sealing = keysets.site_key(10, 1_000)

    assert sealing is not None
    assert sealing.id == ids[1]


def test_a_site_seals_with_its_enabled_default(base: Any) -> None:
    """Else the fallback of site 2 seals (docs/protocol.md 6.4)."""
    fallback = Keyset(keyset_id=2, site_id=2, default=True)
    for own, sealing in (
        ({"default": True}, 105),
        ({"default": False}, 102),
        ({"default": True, "enabled": False}, 102),
    ):
        keysets = make(base, fallback, Keyset(keyset_id=5, site_id=10, **own))
        key = keysets.site_key(10, 1_000)
        assert key is not None
        assert key.id == sealing


def test_without_a_key_in_force_nothing_seals(base: Any) -> None:
    """A key seals until it expires (docs/protocol.md 6.4)."""
    keysets = make(base, Keyset(keyset_id=5, site_id=10, default=True), expires=1)

    assert keysets.site_key(10, 1_000) is None
    assert keysets.site_key(11, 0) is None
    assert keysets.master_key(0) is keysets.refresh_key(0) is None


def test_owners_are_told_once(base: Any) -> None:
    """In ascending order (docs/protocol.md 6.3)."""
    keysets = make(
        base,
        Keyset(keyset_id=7, site_id=10),
        Keyset(keyset_id=6, site_id=3),
        Keyset(keyset_id=5, site_id=10),
    )

    assert list(keysets.owners(keysets.visible_to(client("ID_READER")))) == [3, 10]
