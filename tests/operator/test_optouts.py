"""The opt-out store."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from uid2_async.models import IdentityType
from uid2_async.operator.indexes import OptOuts
from uid2_async.protocol.normalize import identity_bytes

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
    """The hash of an e-mail sent as a phone's is nobody (docs/protocol.md 7)."""
    hashed = flh(asker, EMAIL, "optout@example.com")

    assert not asker.world.opt_outs.is_out(hashed, PHONE)
