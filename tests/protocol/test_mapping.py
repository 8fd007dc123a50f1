"""identity/map, identity/buckets and optout/status (docs/protocol.md 2.4 to 2.7)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from operator_answers import answer
from uid2_async import Bucket, Email, EmailHash, Unmapped, UnmappedReason
from uid2_async.errors import InputError, OperatorError, ProtocolError
from uid2_async.models import datetime_from_ms
from uid2_async.operator import endpoints, java
from uid2_async.operator.http_messages import RefusedError, encode_success
from uid2_async.operator.java import format_local_date_time
from uid2_async.protocol import mapping, wire

HASH = "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="
UID = "A" * 44
ROW = {"u": UID, "p": None, "r": 1}
HEX = b"6b" * 32
MIXED = ["user@example.com", "nobody", "+12345678901", EmailHash(HASH), Email("x@y.z")]


def reply(**rows: list[Any]) -> bytes:
    """Make a v3 reply."""
    return json.dumps({"status": "success", "body": rows}).encode()


def test_invalid_identities_stay_here() -> None:
    """Only what the operator would accept is sent, hashed."""
    query = mapping.prepare_map(MIXED)

    assert query.order == ["email_hash", None, "phone_hash", "email_hash", "email_hash"]
    assert {key: len(values) for key, values in query.values.items()} == {
        "email_hash": 3,
        "phone_hash": 1,
    }
    assert query.values["email_hash"][0] == query.values["email_hash"][1] == HASH
    assert HASH not in repr(query)


def test_raw_dii_is_sent_on_request_alone() -> None:
    """With send_raw the operator normalizes; hashes stay hashes."""
    query = mapping.prepare_map([*MIXED, "\ud83dx@y.z"], send_raw=True)

    assert query.values["email"] == ["user@example.com", "x@y.z"]
    assert query.values["phone"] == ["+12345678901"]
    assert len(query.values["email_hash"]) == 2


def test_a_wrong_element_is_named_by_its_place() -> None:
    """None in a list of 5,000 can be found."""
    with pytest.raises(InputError, match=r"Item 1: .* not NoneType"):
        mapping.prepare_map(["a@b.com", None])  # type: ignore[list-item] # under test


def test_a_v3_reply_is_put_into_the_order_of_the_input() -> None:
    """Each kind answers in its own list; the rows come back as asked."""
    query = mapping.prepare_map(MIXED)
    body = {
        "email_hash": [
            {"u": UID, "p": None, "r": 1},
            {"e": "optout"},
            {"u": UID, "p": UID, "r": 2},
        ],
        "phone_hash": [{"e": "new reason"}],
        "email": [],
        "phone": [],
    }

    found = mapping.align_map(
        query, mapping.parse_map_v3_rows(reply(**body), query.values)
    )

    assert [bool(row.raw_uid) for row in found] == [True, False, False, False, True]
    assert found[1] == Unmapped(UnmappedReason.INVALID_IDENTIFIER)
    assert found[2] == Unmapped(UnmappedReason.UNKNOWN, "new reason")
    assert found[3] == Unmapped(UnmappedReason.OPTED_OUT)
    assert found[4].previous_raw_uid == UID


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (reply(email_hash=[{"e": "optout"}] * 2), "body.email_hash"),
        (reply(email_hash=[{"e": "optout"}] * 4), "body.email_hash"),
        (reply(email=[{"e": "optout"}] * 3), "body.email_hash"),
        (reply(email_hash=[{"u": UID, "r": "canary"}] * 3), "body.email_hash[0].r"),
        (reply(email_hash=[{"u": UID, "r": -1}] * 3), "body.email_hash[0].r"),
        (reply(email_hash=[{"u": UID, "r": 10**20}] * 3), "body.email_hash[0].r"),
        (reply(email_hash=[{"u": 7}] * 3), "body.email_hash[0].u"),
        (b'{"status":"success"}', "body"),
    ],
)
def test_rows_are_never_guessed(payload: bytes, path: str) -> None:
    """A reply of another length or shape is refused, with its path."""
    query = mapping.prepare_map(["a@b.c", "b@b.c", "c@b.c"])

    with pytest.raises(ProtocolError) as caught:
        mapping.align_map(query, mapping.parse_map_v3_rows(payload, query.values))

    assert caught.value.path == path
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ROW | {"e": "optout"}, Unmapped(UnmappedReason.OPTED_OUT)),
        (ROW | {"e": ""}, Unmapped(UnmappedReason.UNKNOWN, "")),
        (ROW | {"u": ""}, Unmapped(UnmappedReason.UNKNOWN)),
        ({}, Unmapped(UnmappedReason.UNKNOWN)),
    ],
)
def test_a_raw_uid_that_must_not_be_used_is_left_out(
    row: dict[str, Any], expected: Unmapped
) -> None:
    """No consumer of the rows can take it for a mapped one; the others are kept."""
    payload = reply(email_hash=[ROW, row])

    found = mapping.parse_map_v3_rows(payload, {"email_hash": ["a", "b"]})

    first, second = found["email_hash"]
    assert first.mapped
    assert (second.raw_uid, second.result) == (None, expected)


def test_a_v3_reply_of_another_status_is_an_error() -> None:
    """A map has no other answer than success."""
    query = mapping.prepare_map(["a@b.c"])

    with pytest.raises(OperatorError):
        mapping.align_map(
            query, mapping.parse_map_v3_rows(b'{"status":"optout"}', query.values)
        )


def test_a_v3_request_is_read_as_built() -> None:
    """The operator sees what the client put in, and its reply has all four keys."""
    query = mapping.prepare_map(MIXED, send_raw=True)
    built = json.loads(wire.encode(query.values))

    body = json.loads(answer(endpoints.map_v3, built))["body"]

    assert list(body) == ["email", "email_hash", "phone", "phone_hash"]
    assert {kind: len(rows) for kind, rows in body.items()} == {
        kind: len(query.values.get(kind, ())) for kind in body
    }
    assert all(list(row) == ["u", "p", "r"] for rows in body.values() for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "Required Parameter Missing: one or more of"),
        ('{"link_id":[]}', "Incorrect request format"),
        ('{"Email":[]}', "Incorrect request format"),
        ('{"email":"a@b.c"}', "Incorrect request format"),
        ('{"email":[null]}', "Incorrect request format"),
        ('{"email":[["a@b.c"]]}', "Incorrect request format"),
        ('{"email":[{}]}', "Incorrect request format"),
    ],
)
def test_the_v3_schema_is_strict(text: str, message: str) -> None:
    """Unknown keys and elements that are no scalars cost the request."""
    with pytest.raises(RefusedError, match=message):
        answer(endpoints.map_v3, java.parse_object(text.encode()))


def test_v3_elements_are_lenient() -> None:
    """Numbers and booleans count as their text, null lists as empty ones."""
    payload = java.parse_object(b'{"email_hash":[1.50,true,"%s"],"phone":null}' % HEX)

    body = json.loads(answer(endpoints.map_v3, payload))["body"]

    assert [row.get("e") for row in body["email_hash"]] == [
        "invalid identifier",
        "invalid identifier",
        None,
    ]
    assert body["phone"] == []
    with pytest.raises(RefusedError):
        answer(endpoints.map_v3, None)


def test_a_v2_request_is_read_as_built() -> None:
    """One kind at a time; the service link matters only to services."""
    built = json.loads(mapping.build_map_v2_request("email_hash", [HASH], link_id="l"))

    body = json.loads(answer(endpoints.map_v2, built))["body"]

    assert [row["identifier"] for row in body["mapped"]] == [HASH]
    assert list(body["mapped"][0]) == ["identifier", "advertising_id", "bucket_id"]


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        (None, 500, "Unknown error while mapping identity v2"),
        ({}, 400, "Required Parameter Missing: exactly one of [email,"),
        ({"email": None}, 400, "Required Parameter Missing: exactly one of [email,"),
        ({"email": ["a"], "phone": ["b"]}, 400, "Required Parameter Missing: exactly"),
        ({"email": "a@b.c", "phone": ["x"]}, 400, "email must be an array"),
        ({"email": ["a", None]}, 500, "Unknown error while mapping identity v2"),
    ],
)
def test_a_wrong_v2_request_is_refused(
    payload: dict | None, status: int, message: str
) -> None:
    """Shape errors are 400, a null among emails costs the batch a 500."""
    with pytest.raises(RefusedError) as caught:
        answer(endpoints.map_v2, payload)

    assert caught.value.status == status
    assert (caught.value.message or "").startswith(message)


def test_v2_takes_empty_lists_and_null_phones() -> None:
    """Empty lists map to nothing; a null among phones is one invalid row."""
    empty = answer(endpoints.map_v2, {"email": [], "phone": []})
    phones = json.loads(answer(endpoints.map_v2, {"phone": [None, 7]}))["body"]

    assert json.loads(empty)["body"] == {"mapped": []}
    assert phones["unmapped"] == [
        {"identifier": None, "reason": "invalid identifier"},
        {"identifier": "7", "reason": "invalid identifier"},
    ]
    with pytest.raises(RefusedError, match="email or email_hash"):
        answer(endpoints.map_v2, {"phone": ["x"]}, enable_phone_support=False)


def test_a_v2_reply_is_matched_by_identifier() -> None:
    """Mapped and unmapped ones come in two lists; duplicates share an answer."""
    asked = ["a@b.c", "optout@example.com", "a@b.c"]
    payload = answer(endpoints.map_v2, {"email": asked})

    rows = mapping.parse_map_v2_reply(payload, asked)

    assert rows[0] == rows[2]
    assert [row.bucket_id is None for row in rows] == [False, True, False]
    assert rows[1].reason == "optout"


def test_a_v2_reply_without_unmapped_ones_lacks_the_list() -> None:
    """The operator leaves an empty list out, and the client does not need it."""
    payload = answer(endpoints.map_v2, {"email": []})

    assert json.loads(payload)["body"] == {"mapped": []}
    assert mapping.parse_map_v2_reply(payload, []) == []
    with pytest.raises(ProtocolError):
        mapping.parse_map_v2_reply(payload, ["a"])


OPTOUT_V2 = {"identifier": "a", "reason": "optout"}
MAPPED_V2 = {"identifier": "a", "advertising_id": "u", "bucket_id": "b"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"mapped": [MAPPED_V2, MAPPED_V2 | {"advertising_id": "w"}]}, "body.mapped"),
        ({"mapped": [MAPPED_V2], "unmapped": [OPTOUT_V2]}, "body.unmapped"),
    ],
)
def test_v2_rows_are_never_guessed(body: dict[str, Any], path: str) -> None:
    """A reply that contradicts itself is refused."""
    with pytest.raises(ProtocolError) as caught:
        mapping.parse_map_v2_reply(reply(**body), ["a"])

    assert caught.value.path == path
    empty = reply(mapped=[MAPPED_V2 | {"advertising_id": ""}])
    assert mapping.parse_map_v2_reply(empty, ["a"])[0].raw_uid is None


SINCE = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def test_a_buckets_request_is_read_as_built() -> None:
    """The instant goes out as UTC without a zone, and comes in as ms."""
    built = json.loads(mapping.buckets_call(SINCE).payload)

    assert built == {"since_timestamp": "2026-01-02T03:04:05.678"}
    since = datetime.fromisoformat(built["since_timestamp"]).replace(tzinfo=UTC)
    rotated = mapping.buckets_call(SINCE).parse(answer(endpoints.buckets, built))
    assert since == SINCE
    assert rotated
    assert all(bucket.last_updated >= SINCE for bucket in rotated)


def test_a_naive_instant_is_refused() -> None:
    """Local time is never guessed."""
    with pytest.raises(InputError):
        mapping.buckets_call(datetime(2026, 1, 1))  # noqa: DTZ001 - under test


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
def test_a_wrong_buckets_request_is_refused(
    payload: dict | None, status: int, message: str
) -> None:
    """Missing, unreadable and out of range have their own answers."""
    with pytest.raises(RefusedError) as caught:
        answer(endpoints.buckets, payload)

    assert (caught.value.status, caught.value.message) == (status, message)


def test_a_buckets_reply_is_read_as_built() -> None:
    """The times come back aware, in the operator's order."""
    payload = json.dumps(
        {
            "body": [
                {"bucket_id": "b", "last_updated": format_local_date_time(1)},
                {"bucket_id": "a", "last_updated": "2023-11-14T22:13:20.123"},
            ],
            "status": "success",
        }
    ).encode()

    assert json.loads(payload)["body"][0] == {
        "bucket_id": "b",
        "last_updated": "1970-01-01T00:00:00.001",
    }
    assert mapping.buckets_call(SINCE).parse(payload) == [
        Bucket("b", datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        Bucket("a", datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
    ]


def test_a_wrong_buckets_reply_is_named() -> None:
    """An invalid date is an error with its path."""
    with pytest.raises(ProtocolError) as caught:
        mapping.buckets_call(SINCE).parse(
            b'{"status":"success","body":[{"bucket_id":"b","last_updated":"x"}]}'
        )

    assert caught.value.path == "body[0].last_updated"


def test_a_status_request_is_read_as_built() -> None:
    """Raw UIDs go out as they are."""
    built = json.loads(mapping.build_status_request(["a", "b"]))

    assert built == {"advertising_ids": ["a", "b"]}
    payload = answer(endpoints.opt_out_status, built)
    status = mapping.parse_status_reply(payload, ["a", "b"])
    assert status.opted_out == {}


def test_null_elements_are_left_out() -> None:
    """The operator ignores null and reads other types as text."""
    payload = {"advertising_ids": [None, 7, "a"]}

    reply = json.loads(answer(endpoints.opt_out_status, payload))

    assert reply == {"body": {"opted_out": []}, "status": "success"}


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
def test_a_wrong_status_request_is_refused(
    payload: dict | None, status: int, message: str
) -> None:
    """Each fault has its own answer."""
    with pytest.raises(RefusedError) as caught:
        answer(endpoints.opt_out_status, payload, optout_status_max_request_size=2)

    assert (caught.value.status, caught.value.message) == (status, message)


def test_a_status_reply_is_read_as_built() -> None:
    """Only the opted-out ones are listed, with their time."""
    found = mapping.OptedOutUID(advertising_id="canary", opted_out_since=5)
    payload = encode_success({"opted_out": [found]})

    status = mapping.parse_status_reply(payload, ["other", "canary"])

    assert status.opted_out == {"canary": datetime_from_ms(5)}
    assert "canary" not in repr(found) + repr(status)


def test_a_wrong_status_reply_is_named() -> None:
    """A reply of another shape is refused by its place."""
    with pytest.raises(ProtocolError) as caught:
        mapping.parse_status_reply(
            b'{"status":"success","body":{"opted_out":[{"advertising_id":"x"}]}}', ["x"]
        )

    assert caught.value.path == "body.opted_out[0]"


def test_a_status_reply_lists_only_what_was_sent() -> None:
    """Another spelling of a raw UID must not make an opted-out person look fine."""
    found = mapping.OptedOutUID(advertising_id="canary", opted_out_since=5)
    payload = encode_success({"opted_out": [found]})

    with pytest.raises(ProtocolError, match="was not sent") as caught:
        mapping.parse_status_reply(payload, ["CANARY"])

    assert "canary" not in str(caught.value)
