"""The built-in world."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import process_time
from typing import Any

import pytest

from uid2_async.errors import InputError
from uid2_async.models import IdentityScope
from uid2_async.operator import OperatorData
from uid2_async.operator.data import SaltRow
from uid2_async.operator.indexes import DataIndex, load_server_private_key
from uid2_async.protocol.client_side import load_server_public_key

DAY_MS = 86_400_000


def test_the_same_arguments_make_the_same_world(base: datetime) -> None:
    """Keys and salts follow from scope, seed and day."""
    one = OperatorData.sample(seed=3, base=base)
    same = OperatorData.sample(seed=3, base=base + timedelta(hours=23))
    other = OperatorData.sample(seed=4, base=base)

    assert one == same
    assert one.credentials["publisher"] != other.credentials["publisher"]
    assert one.salts.first_level != other.salts.first_level
    assert {key.secret for key in one.keys}.isdisjoint(key.secret for key in other.keys)


def test_keys_do_not_depend_on_the_day(base: datetime) -> None:
    """So that credentials can be kept from one day to the next."""
    today = OperatorData.sample(base=base)
    tomorrow = OperatorData.sample(base=base + timedelta(days=1))

    assert today.credentials == tomorrow.credentials
    assert today.salts.first_level == tomorrow.salts.first_level
    assert today.keypairs == tomorrow.keypairs


def test_the_world_begins_today() -> None:
    """Unless another day is given."""
    today = int(datetime.now(UTC).timestamp() * 1000) // DAY_MS * DAY_MS
    data = OperatorData.sample()

    newest = max(row.last_updated for row in data.salts.snapshots[0].rows)
    assert today - 7 * DAY_MS < newest <= today


def test_the_day_must_have_a_time_zone(base: datetime) -> None:
    """A naive datetime could mean any day."""
    with pytest.raises(InputError):
        OperatorData.sample(base=base.replace(tzinfo=None))


@pytest.mark.parametrize("scope", list(IdentityScope))
def test_api_keys_have_the_documented_format(
    scope: IdentityScope, base: datetime
) -> None:
    """Prefix, site and lengths are those of real keys (docs/protocol.md 1.2)."""
    data = OperatorData.sample(scope=scope, base=base)

    for one in data.credentials.values():
        pattern = rf"{scope}-C-L-{one.site_id}-\w{{6}}\.\w{{38}}"
        assert re.fullmatch(pattern, one.api_key)
    pair = data.keypairs[0]
    private = load_server_private_key(pair.private_key).public_key()
    assert private == load_server_public_key(pair.public_key)


def test_credentials_open_their_own_client(base: datetime) -> None:
    """The operator's records belong to the credentials."""
    data = OperatorData.sample(base=base)
    world = DataIndex(data)

    for name, one in data.credentials.items():
        client = world.api_keys.find(f"Bearer {one.api_key}")
        assert client is not None
        assert client.name == name
        assert client.roles == {*one.roles}


def test_bidder_and_sharer_can_read_the_publisher(base: datetime) -> None:
    """That is what they are for; the advertiser cannot."""
    data = OperatorData.sample(base=base)
    world = DataIndex(data)
    clients = {one.name: one for one in data.clients}

    def sites(name: str) -> set[int]:
        keys = world.keysets.visible_to(clients[name])
        return {world.keysets.site_of(key) for key in keys}

    assert 101 in sites("bidder") & sites("sharer")
    assert {104, 2} <= sites("bidder")
    assert 101 not in sites("advertiser")


def test_keys_hold_for_years_and_change_once(base: datetime) -> None:
    """Setting the clock forward shows a change of keys."""
    keysets = DataIndex(OperatorData.sample(base=base)).keysets
    now_ms = int(base.timestamp() * 1000)

    first = keysets.site_key(101, now_ms)
    second = keysets.site_key(101, now_ms + 61 * DAY_MS)
    last = keysets.site_key(101, now_ms + 3_000 * DAY_MS)

    assert first is not None
    assert first != second == last


def test_salts_rotate_day_by_day(base: datetime) -> None:
    """A bucket rotates when its time has come, and keeps its last salt."""
    data = OperatorData.sample(base=base)
    snapshots = data.salts.snapshots
    now_ms = int(base.timestamp() * 1000)

    def material(row: SaltRow) -> tuple[Any, Any]:
        return row.salt, row.key

    assert len(snapshots[0].rows) == 1_024
    assert all(row.refresh_from > now_ms for row in snapshots[0].rows)
    for before, after in pairwise(snapshots):
        rotated = [
            (old, new)
            for old, new in zip(before.rows, after.rows, strict=True)
            if old is not new
        ]
        assert rotated
        for old, new in rotated:
            assert old.refresh_from == new.last_updated == after.effective
            assert material(old) == (new.previous_salt, new.previous_key)
            assert material(old) != material(new)


def test_making_the_world_is_a_matter_of_milliseconds(base: datetime) -> None:
    """Each test may have data of its own; two seconds of CPU are generous."""
    before = process_time()
    OperatorData.sample(seed=12_345, base=base)

    assert process_time() - before < 2
