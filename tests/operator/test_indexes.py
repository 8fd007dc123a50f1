"""API keys, service links, keysets and opt-outs."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import attrs
import pytest

from uid2_async.models import IdentityType
from uid2_async.operator.data import Client, Keyset, OperatorData
from uid2_async.operator.indexes import ApiKeys, Keysets, OptOuts
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.normalize import identity_bytes

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


EMAIL, PHONE = IdentityType.EMAIL, IdentityType.PHONE
FLH = bytes(32)
V2_UID = b64encode(bytes(range(32))).decode()


@pytest.fixture
def store(asker: Any) -> OptOuts:
    """Give an empty store."""
    return asker.world.opt_outs


def flh(asker: Any, kind: IdentityType, value: str) -> bytes:
    """Make a first-level hash."""
    data = identity_bytes(kind, value)
    assert data is not None
    return asker.world.buckets.first_level_hash(data)


def test_an_opt_out_counts_until_it_is_undone(store: OptOuts) -> None:
    """In the maps and on refresh."""
    store.add(FLH, V2_UID, 5)

    assert store.is_out(FLH, EMAIL)
    assert store.is_out_on_refresh(FLH, PHONE)
    assert store.since_ms(V2_UID) == 5_000

    store.remove(FLH)
    store.remove(FLH)

    assert not store.is_out(FLH, EMAIL)
    assert store.since_ms(V2_UID) is None


def test_a_second_opt_out_replaces_the_first(store: OptOuts) -> None:
    """The record holds one raw UID for each person."""
    other = b64encode(bytes(32)).decode()
    store.add(FLH, V2_UID, 5)
    store.add(FLH, other, 6)

    assert (store.since_ms(V2_UID), store.since_ms(other)) == (None, 6_000)


def test_a_reset_goes_back_to_the_start(store: OptOuts) -> None:
    """What was added since is forgotten."""
    store.add(FLH, V2_UID, 5)
    store.reset()

    assert not store.is_out(FLH, EMAIL)


@pytest.mark.parametrize(
    ("first", "recorded", "found"), [(0x24, 0x24, True), (0x64, 0x24, False)]
)
def test_a_record_keeps_six_bits_of_33_bytes(
    store: OptOuts, first: int, recorded: int, found: bool
) -> None:
    """V4 raw UIDs of integ and prod are never found again (docs/protocol.md 2.7)."""
    sent = b64encode(bytes((first,)) + bytes(32)).decode()
    store.add(FLH, sent, 5)

    assert (store.since_ms(sent) is not None) is found
    assert store.since_ms(b64encode(bytes((recorded,)) + bytes(32)).decode()) == 5_000


@pytest.mark.parametrize(
    ("kind", "value", "stored", "out", "out_on_refresh"),
    [
        (EMAIL, "optout@example.com", False, True, True),
        (PHONE, "+00000000000", False, True, True),
        (EMAIL, "refresh-optout@example.com", True, False, True),
        (PHONE, "+00000000002", True, False, True),
        (EMAIL, "validate@example.com", True, False, False),
        (PHONE, "+12345678901", True, False, False),
        (EMAIL, "optout@unifiedid.com", False, False, False),
        (EMAIL, "optout@unifiedid.com", True, True, True),
    ],
)
def test_test_identities_have_their_own_rules(
    asker: Any,
    kind: IdentityType,
    value: str,
    stored: bool,
    out: bool,
    out_on_refresh: bool,
) -> None:
    """The store is ignored for them (docs/protocol.md 7)."""
    store, hashed = asker.world.opt_outs, flh(asker, kind, value)
    if stored:
        store.add(hashed, V2_UID, 1)

    assert store.is_out(hashed, kind) is out
    assert store.is_out_on_refresh(hashed, kind) is out_on_refresh


def test_a_test_identity_is_known_by_its_type_too(asker: Any) -> None:
    """The hash of an email sent as a phone's is nobody (docs/protocol.md 7)."""
    hashed = flh(asker, EMAIL, "optout@example.com")

    assert not asker.world.opt_outs.is_out(hashed, PHONE)
