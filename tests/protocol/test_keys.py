"""key/sharing, key/bidstream and key/latest."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from uid2_async.errors import OperatorError, ProtocolError
from uid2_async.models import IdentityScope
from uid2_async.operator import keys as operator_keys
from uid2_async.protocol import keyring
from uid2_async.protocol.keyring import KeyRing, WireKey, WireSite


def wire_keys(elements: list[dict[str, Any]]) -> list[WireKey]:
    """Make keys of the JSON that they have on the wire."""
    return [WireKey(**{**one, "secret": b64decode(one["secret"])}) for one in elements]


def wire_sites(elements: list[dict[str, Any]]) -> list[WireSite]:
    """Make sites of the JSON that they have on the wire."""
    return [
        WireSite(id=one["id"], domain_names=tuple(one["domain_names"]))
        for one in elements
    ]


def test_a_request_has_no_payload() -> None:
    """The key endpoints are asked with an empty payload (docs/protocol.md 2.8)."""
    assert keyring.build_keys_request() == b""


def test_the_sharing_reply_is_the_recorded_one(vectors: dict[str, Any]) -> None:
    """Every field of key/sharing is as documented (docs/protocol.md 6.1)."""
    expected = vectors["key_sharing_response"]
    body = expected["body"]

    built = operator_keys.build_sharing_reply(
        caller_site_id=124,
        default_keyset_id=700,
        token_expiry_seconds=2_592_000,
        max_lifetime_seconds=2_592_000,
        scope=IdentityScope.UID2,
        clock_skew_seconds=1_800,
        keys=wire_keys(body["keys"]),
        sites=wire_sites(body["site_data"]),
    )

    assert json.loads(built) == expected
    assert list(json.loads(built)) == ["body", "status"]


def test_what_a_caller_has_not_is_left_out() -> None:
    """Without keyset, SHARER and client-side generation there are fewer fields."""
    built = operator_keys.build_sharing_reply(
        caller_site_id=124,
        default_keyset_id=None,
        token_expiry_seconds=60,
        max_lifetime_seconds=None,
        scope=IdentityScope.EUID,
        clock_skew_seconds=0,
        keys=(),
        sites=None,
    )

    assert json.loads(built)["body"] == {
        "caller_site_id": 124,
        "master_keyset_id": 9_999_999,
        "token_expiry_seconds": "60",
        "identity_scope": "EUID",
        "allow_clock_skew_seconds": 0,
        "keys": [],
    }


def test_the_bidstream_reply_is_the_recorded_one(vectors: dict[str, Any]) -> None:
    """Key/bidstream tells nothing about keysets (docs/protocol.md 6.2)."""
    expected = vectors["key_bidstream_response"]
    body = expected["body"]

    built = operator_keys.build_bidstream_reply(
        max_lifetime_seconds=259_200,
        scope=IdentityScope.UID2,
        clock_skew_seconds=1_800,
        keys=wire_keys(body["keys"]),
        sites=wire_sites(body["site_data"]),
    )

    assert json.loads(built) == expected


def test_no_site_is_not_the_same_as_no_site_data() -> None:
    """Site_data is there, if empty, where the operator generates client-side."""
    built = operator_keys.build_bidstream_reply(
        max_lifetime_seconds=1,
        scope=IdentityScope.UID2,
        clock_skew_seconds=1,
        keys=(),
        sites=(),
    )

    assert json.loads(built)["body"]["site_data"] == []
    assert operator_keys.build_bidstream_reply(
        max_lifetime_seconds=1,
        scope=IdentityScope.UID2,
        clock_skew_seconds=1,
        keys=(),
        sites=None,
    ) == built.replace(b',"site_data":[]', b"")


def test_a_key_ring_reads_what_is_built(vectors: dict[str, Any]) -> None:
    """Both halves understand each other."""
    body = vectors["key_sharing_response"]["body"]
    built = operator_keys.build_sharing_reply(
        caller_site_id=124,
        default_keyset_id=700,
        token_expiry_seconds=60,
        max_lifetime_seconds=50,
        scope=IdentityScope.UID2,
        clock_skew_seconds=7,
        keys=wire_keys(body["keys"]),
        sites=None,
    )

    ring = KeyRing.from_json(built)

    assert (ring.token_expiry_seconds, ring.allow_clock_skew_seconds) == (60, 7)
    assert ring.max_sharing_lifetime_seconds == 60
    assert sorted(ring.keys) == [164, 165]


def test_the_latest_keys_come_back_as_built(vectors: dict[str, Any]) -> None:
    """Key/latest is a bare list of keys with their sites (docs/protocol.md 6.3)."""
    elements = [
        {**one, "site_id": at - 1}
        for at, one in enumerate(vectors["key_bidstream_response"]["body"]["keys"])
    ]

    built = operator_keys.build_latest_reply(wire_keys(elements))

    assert json.loads(built) == {"body": elements, "status": "success"}
    assert [key.site_id for key in keyring.parse_latest_reply(built)] == [-1, 0]


def test_latest_keys_of_another_shape_are_refused() -> None:
    """The place of the deviation is named, the key is not."""
    with pytest.raises(ProtocolError) as caught:
        keyring.parse_latest_reply(b'{"status":"success","body":[{"id":1}]}')

    assert caught.value.path.startswith("body[")


def test_another_status_word_is_no_success() -> None:
    """A sealed 200 can still say no."""
    with pytest.raises(OperatorError):
        keyring.parse_latest_reply(b'{"status":"other"}')
