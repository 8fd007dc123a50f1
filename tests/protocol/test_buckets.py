"""identity/buckets, both halves."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from uid2_async import Bucket
from uid2_async.errors import InputError, ProtocolError
from uid2_async.operator import mapping as operator_mapping
from uid2_async.operator.http_messages import RefusedError
from uid2_async.protocol import mapping

SINCE = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def test_a_request_is_read_as_built() -> None:
    """The instant goes out as UTC without a zone, and comes in as ms."""
    built = json.loads(mapping.build_buckets_request(SINCE))

    assert built == {"since_timestamp": "2026-01-02T03:04:05.678"}
    assert operator_mapping.parse_buckets_request(built) == int(
        SINCE.timestamp() * 1000
    )


def test_a_naive_instant_is_refused() -> None:
    """Local time is never guessed."""
    with pytest.raises(InputError):
        mapping.build_buckets_request(datetime(2026, 1, 1))  # noqa: DTZ001 - under test


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        (None, 500, "Internal Server Error"),
        ({}, 400, "missing parameter since_timestamp"),
        ({"since_timestamp": None}, 400, "missing parameter since_timestamp"),
        ({"since_timestamp": 7}, 400, "invalid date, must conform to ISO 8601"),
        ({"since_timestamp": "+999999999-01-01T00:00"}, 500, "Internal Server Error"),
    ],
)
def test_a_wrong_request_is_refused(
    payload: dict | None, status: int, message: str
) -> None:
    """Missing, unreadable and out of range have their own answers."""
    with pytest.raises(RefusedError) as caught:
        operator_mapping.parse_buckets_request(payload)

    assert (caught.value.status, caught.value.message) == (status, message)


def test_a_reply_is_read_as_built() -> None:
    """The times come back aware, in the operator's order."""
    payload = operator_mapping.build_buckets_reply([("b", 1), ("a", 1_700_000_000_123)])

    assert json.loads(payload)["body"][0] == {
        "bucket_id": "b",
        "last_updated": "1970-01-01T00:00:00.001",
    }
    assert mapping.parse_buckets_reply(payload) == [
        Bucket("b", datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        Bucket("a", datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
    ]


def test_a_wrong_reply_is_named() -> None:
    """A date that is none is an error with its path."""
    with pytest.raises(ProtocolError) as caught:
        mapping.parse_buckets_reply(
            b'{"status":"success","body":[{"bucket_id":"b","last_updated":"x"}]}'
        )

    assert caught.value.path == "body[0].last_updated"
