"""Raw UIDs by the salts of buckets, and the ids of buckets (docs/protocol.md 4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.models import IdentityType
from uid2_async.operator.data import OperatorData, SaltKey, SaltRow, SaltSnapshot
from uid2_async.operator.salts import BucketIds, SaltBuckets
from uid2_async.protocol.base64 import decode

FLH = bytes(range(32))
DAY_MS = 86_400_000
KEY = SaltKey(7, "K123456789K123456789K123456789K1", "salt")


def buckets(
    base: Any, *rows: SaltRow, identity_v3: bool = False, **snapshot: int
) -> SaltBuckets:
    """Make buckets of *rows*."""
    data = OperatorData.sample(base=base)
    times = {"effective": 0, "expires": 2**60, **snapshot}
    snapshots = [SaltSnapshot(rows=rows, **times)]
    return SaltBuckets(
        attrs.evolve(
            data,
            salts=attrs.evolve(data.salts, snapshots=snapshots),
            settings=attrs.evolve(data.settings, identity_v3=identity_v3),
        )
    )


def row(**fields: Any) -> SaltRow:
    """Make a bucket."""
    return SaltRow(**{"id": 1, "last_updated": 0, "refresh_from": 0, **fields})


@pytest.mark.parametrize(
    ("fields", "identity_v3", "size"),
    [
        ({"salt": "s"}, False, 32),
        ({"salt": "s"}, True, 33),
        ({"key": KEY}, False, 33),
        ({"key": KEY}, True, 33),
        ({"salt": "s", "key": KEY}, False, 32),
    ],
)
def test_the_material_decides_on_the_format(
    base: Any, fields: dict[str, Any], identity_v3: bool, size: int
) -> None:
    """A salt makes v2 or v3, a key v4, and the salt wins (docs/protocol.md 4.4)."""
    made = buckets(base, row(**fields), identity_v3=identity_v3)

    raw_uid = decode(made.raw_uid(FLH, IdentityType.PHONE, 1)) or b""

    assert len(raw_uid) == size
    if size == 33:
        assert raw_uid[0] == (0x24 if fields.get("key") else 0x04)


@pytest.mark.parametrize(
    ("age_ms", "there"),
    [(-1, True), (90 * DAY_MS - 1, True), (90 * DAY_MS, False)],
)
def test_the_previous_raw_uid_is_given_for_90_days(
    base: Any, age_ms: int, there: bool
) -> None:
    """Also for a rotation in the future (docs/protocol.md 4.5)."""
    now_ms = 1_000 * DAY_MS
    one = row(salt="s", previous_key=KEY, last_updated=now_ms - age_ms)

    mapped = buckets(base, one).mapper(IdentityType.EMAIL, now_ms)(FLH)

    assert (mapped.previous_raw_uid is not None) is there


def test_without_previous_material_there_is_no_previous_raw_uid(base: Any) -> None:
    """However young the bucket is (docs/protocol.md 4.5)."""
    mapped = buckets(base, row(salt="s")).mapper(IdentityType.EMAIL, 1)(FLH)

    assert mapped.previous_raw_uid is None


@pytest.mark.parametrize(
    ("refresh_from", "seconds"),
    [(1_500, 1), (1_499, 86_400), (5_999, 5), (3 * DAY_MS, 259_200)],
)
def test_the_refresh_time_is_not_in_the_past(
    base: Any, refresh_from: int, seconds: int
) -> None:
    """Else it is the next midnight; in seconds, cut (docs/protocol.md 4.6)."""
    one = row(salt="s", refresh_from=refresh_from)

    assert (
        buckets(base, one).mapper(IdentityType.EMAIL, 1_500)(FLH).refresh_from
        == seconds
    )


def test_the_snapshot_is_the_last_one_in_effect(base: Any) -> None:
    """Of the leading run; else the last of all (docs/protocol.md 4.3)."""
    made = buckets(base, row(salt="s"))
    times = [(0, 100), (10, 100), (20, 30), (50, 100)]
    snapshots = [
        SaltSnapshot(effective=start, expires=end, rows=[row(salt=str(start))])
        for start, end in times
    ]
    data = OperatorData.sample(base=base)
    salts = attrs.evolve(data.salts, snapshots=snapshots)
    made = SaltBuckets(attrs.evolve(data, salts=salts))

    found = {now: made.snapshot(now).effective for now in (0, 10, 25, 60, 200, -1)}

    assert found == {0: 0, 10: 10, 25: 20, 60: 10, 200: 50, -1: 50}


def test_names_of_buckets_are_kept(base: Any) -> None:
    """The same number has the same name."""
    made = buckets(base, row(salt="s"), row(id=2, salt="t", last_updated=5))

    names = dict(made.rotated_since(0, 1))

    assert len(names) == 2
    assert dict(made.rotated_since(5, 1)).items() <= names.items()
    assert made.bucket_id(FLH, 1) in names


CONFORMANCE = Path(__file__).parents[1] / "conformance"


@pytest.mark.parametrize(
    ("secret", "number", "text"),
    [
        ("this is my salt", 0, "Xzjd5xAvO"),
        ("this is my salt", 1, "ngB0NV05e"),
        ("this is my salt", 99, "mRGkKgGe9"),
        ("this is my salt", 100, "zjd5ge0vO"),
        ("this is my salt", 12_345, "gB0NkK9A5"),
        ("this is my salt", 1_000_000, "jd5YJzedv"),
        ("this is my salt", 7**12, "0NVxqevn5"),
        ("this is my salt", 2**40, "3woxejnaR"),
        ("this is my salt", 2**50, "L1JaoBaPKk3"),
        ("this is my salt", 2**53, "262mm1m4J9Z"),
        ("NaCl", 2**31, "Noo866JDN"),
        ("", 1_000_000, "negQ3E6bw"),
    ],
)
def test_agrees_with_the_hashids_libraries(secret: str, number: int, text: str) -> None:
    """The Java library and the PyPI package of the scheme both give these."""
    assert BucketIds("", secret)(number) == text


def test_negative_number() -> None:
    """A negative number has an empty id, and does not hang."""
    assert BucketIds("w", "NaCl")(-1) == "w"


def test_mock_data() -> None:
    """The operator's own mock data: its id 1000000 is in the bucket bKaoveQoPR."""
    ids = BucketIds("b", "HF6Qz42HBbVHINxhh191dB09BCuTWyBkNtrNicO4ZCw=")
    assert ids(1_000_000) == "bKaoveQoPR"


@pytest.mark.parametrize("scope", ["uid2", "euid"])
def test_recorded_buckets(scope: str) -> None:
    """The bucket ids that a real operator listed, in the order of its salt file."""
    world = CONFORMANCE / scope / "world"
    metadata = json.loads((world / "salts_metadata.json").read_text("utf-8"))
    ids = BucketIds(metadata["id_prefix"], metadata["id_secret"])
    lines = (world / "salts-2.txt").read_text("utf-8").splitlines()
    listed = _all_buckets(scope)
    assert [ids(int(line.split(",")[0])) for line in lines] == listed
    assert len(listed) == 61


def _all_buckets(scope: str) -> list[str]:
    """Take the ids from the recorded reply that lists all buckets."""
    exchanges: dict[str, Any] = json.loads(
        (CONFORMANCE / scope / "exchanges.json").read_text("utf-8")
    )
    (opened,) = (
        case["response"]["opened"]
        for case in exchanges["cases"]
        if case["path"] == "/v2/identity/buckets"
        and case["payload"] == '{"since_timestamp":"1970-01-01T00:00:00"}'
    )
    return [bucket["bucket_id"] for bucket in json.loads(opened)["body"]]


def test_the_secret_is_not_shown() -> None:
    """The secret of the salts appears in no repr."""
    assert "hidden" not in repr(BucketIds("w", "hidden"))
