from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uid2_async.operator.salts import BucketIds

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
