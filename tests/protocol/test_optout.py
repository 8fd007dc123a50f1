"""optout/status, both halves."""

from __future__ import annotations

import json

import pytest

from uid2_async.errors import ProtocolError
from uid2_async.models import datetime_from_ms
from uid2_async.operator import mapping as operator_mapping
from uid2_async.operator.http_messages import RefusedError
from uid2_async.protocol import mapping


def test_a_request_is_read_as_built() -> None:
    """Raw UIDs go out as they are."""
    built = json.loads(mapping.build_status_request(["a", "b"]))

    assert operator_mapping.parse_status_request(built, limit=2) == ["a", "b"]


def test_null_elements_are_left_out() -> None:
    """The operator ignores null and reads other types as text."""
    payload = {"advertising_ids": [None, 7, "a"]}

    assert operator_mapping.parse_status_request(payload, limit=3) == ["7", "a"]


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        (None, 400, "Invalid request body"),
        ({}, 400, "Required Parameter Missing: advertising_ids"),
        ({"advertising_ids": None}, 400, "Required Parameter Missing: advertising_ids"),
        ({"advertising_ids": ["a"] * 3}, 400, "Request payload is too large"),
        ({"advertising_ids": "a"}, 500, "Unknown error while getting optout status"),
    ],
)
def test_a_wrong_request_is_refused(
    payload: dict | None, status: int, message: str
) -> None:
    """Each fault has its own answer."""
    with pytest.raises(RefusedError) as caught:
        operator_mapping.parse_status_request(payload, limit=2)

    assert (caught.value.status, caught.value.message) == (status, message)


def test_a_reply_is_read_as_built() -> None:
    """Only the opted-out ones are listed, with their time."""
    found = mapping.OptedOutUID(advertising_id="canary", opted_out_since=5)
    payload = operator_mapping.build_status_reply([found])

    status = mapping.parse_status_reply(payload)

    assert status.opted_out == {"canary": datetime_from_ms(5)}
    assert "canary" not in repr(found) + repr(status)


def test_a_wrong_reply_is_named() -> None:
    """A reply of another shape is refused by its place."""
    with pytest.raises(ProtocolError) as caught:
        mapping.parse_status_reply(
            b'{"status":"success","body":{"opted_out":[{"advertising_id":"x"}]}}'
        )

    assert caught.value.path == "body.opted_out[0]"
