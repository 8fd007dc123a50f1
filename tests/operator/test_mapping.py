"""identity/map v3 and v2, identity/buckets, optout/status."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from uid2_async.operator.data import ServiceLink

MAP_V3 = "/v3/identity/map"
MAP_V2 = "/v2/identity/map"
BUCKETS = "/v2/identity/buckets"
STATUS = "/v2/optout/status"
LOGOUT = "/v2/token/logout"
DAY_MS = 86_400_000


def rotate(asker: Any, row: dict[str, Any]) -> None:
    """Set the clock to the moment at which a mapped person's bucket rotates."""
    asker.now_ms = row["r"] * 1000


def test_rows_stand_in_the_order_of_the_input(asker: Any) -> None:
    """All four keys are there, duplicates included (docs/protocol.md 2.6)."""
    payload = {"email": ["a@b.c", "nobody", "A@b.c"], "phone": ["+00000000000"]}

    status, reply = asker.ask(MAP_V3, payload, who="advertiser")

    body = reply["body"]
    assert status == 200
    assert body["email"][0] == body["email"][2]
    assert body["email"][1] == {"e": "invalid identifier"}
    assert body["phone"] == [{"e": "optout"}]
    assert body["email_hash"] == body["phone_hash"] == []


def test_a_rotation_makes_the_raw_uid_the_previous_one(asker: Any) -> None:
    """The old raw UID is given for 90 days (docs/protocol.md 4.5)."""
    payload = {"email": ["rotate@example.com"]}
    before = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]

    rotate(asker, before)
    after = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]
    asker.now_ms += 90 * DAY_MS - 1
    late = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]
    asker.now_ms += 1
    over = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]

    assert after["u"] != before["u"]
    assert after["p"] == late["p"] == before["u"]
    assert after["r"] == before["r"] + 365 * 86_400
    assert over["p"] is None


def test_both_formats_of_raw_uids_rotate(asker: Any) -> None:
    """In the built-in world every fourth bucket makes v4 raw UIDs."""
    payload = {"email": [f"{at}@example.com" for at in range(40)]}

    rows = asker.ask(MAP_V3, payload)[1]["body"]["email"]

    ends = {row["u"].endswith("=") for row in rows}
    assert ends == {True, False}
    assert {row["p"] is None for row in rows} == {True, False}


def test_a_refresh_time_that_is_over_becomes_midnight(asker: Any) -> None:
    """R is never in the past (docs/protocol.md 4.6)."""
    payload = {"email": ["rotate@example.com"]}
    # The built-in world ends after a year; stale salts remain in use.
    asker.now_ms += 1_000 * DAY_MS

    row = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]

    assert row["r"] * 1000 == (asker.now_ms // DAY_MS + 1) * DAY_MS


def test_phones_are_mapped_without_phone_support_too(make_asker: Any) -> None:
    """V3 maps them, and only its message leaves them out (docs/protocol.md 2.6)."""
    asker = make_asker(enable_phone_support=False)

    mapped = asker.ask(MAP_V3, {"phone": ["+12345678901"]})[1]["body"]["phone"]
    status, failure = asker.ask(MAP_V3, {})

    assert "u" in mapped[0]
    assert (status, failure["message"]) == (
        400,
        (
            "Required Parameter Missing: one or more of [email, email_hash] must be "
            "specified"
        ),
    )


def test_v2_tells_the_bucket(asker: Any) -> None:
    """V2 and v3 make the same raw UIDs (docs/protocol.md 2.5)."""
    payload = {"email": ["a@b.c", "nobody", "optout@example.com"]}

    body = asker.ask(MAP_V2, payload)[1]["body"]
    row = asker.ask(MAP_V3, payload)[1]["body"]["email"][0]
    since = {"since_timestamp": "1970-01-01T00:00:00"}
    buckets = asker.ask(BUCKETS, since)[1]["body"]

    assert body["mapped"][0]["advertising_id"] == row["u"]
    assert body["mapped"][0]["bucket_id"] in {one["bucket_id"] for one in buckets}
    assert body["unmapped"] == [
        {"identifier": "nobody", "reason": "invalid identifier"},
        {"identifier": "optout@example.com", "reason": "optout"},
    ]


def test_a_null_among_phones_is_unmapped(asker: Any) -> None:
    """In no other list is it forgiven (docs/protocol.md 2.5)."""
    body = asker.ask(MAP_V2, {"phone": [None]})[1]["body"]

    assert body == {
        "mapped": [],
        "unmapped": [{"identifier": None, "reason": "invalid identifier"}],
    }


def with_service(asker: Any, *, validate: bool) -> None:
    """Make the advertiser's key one of the service 7."""
    clients = [
        attrs.evolve(one, service_id=7) if one.name == "advertiser" else one
        for one in asker.data.clients
    ]
    links = ServiceLink(link_id="l", service_id=7, roles=frozenset({"MAPPER"}))
    data = attrs.evolve(asker.data, clients=tuple(clients), service_links=(links,))
    asker.load(data, validate_service_links=validate)


@pytest.mark.parametrize(
    ("email", "identifier"),
    [
        ("\ud83d", "?"),
        ("a\udc00b\ud800@x.y", "a?b?@x.y"),
        ("\udc00\ud800@x.y", "??@x.y"),
        ("\U0001f600@x.y", "\U0001f600@x.y"),
    ],
)
def test_a_lone_surrogate_is_a_question_mark(
    asker: Any, email: str, identifier: str
) -> None:
    """In the reply and in the hash, as Java encodes it (docs/protocol.md 2.5, 3.3)."""
    status, reply = asker.ask(MAP_V2, {"email": [email, identifier]})

    rows = reply["body"].get("unmapped") or reply["body"]["mapped"]
    assert status == 200
    assert rows[0] == rows[1]
    assert rows[0]["identifier"] == identifier


MISSING = (
    "Required Parameter Missing: exactly one of [email, email_hash, phone, phone_hash] "
    "must be specified"
)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"email": ["a"], "email_hash": ["x"], "phone": "x"}, MISSING),
        ({"phone": "x", "email_hash": ["x"], "email": ["a"]}, MISSING),
        (
            {"email": ["a"], "email_hash": 1, "phone": ["x"]},
            "email_hash must be an array",
        ),
        ({"email": "a", "email_hash": ["x"], "phone": ["x"]}, "email must be an array"),
        ({"email": [], "email_hash": ["x"], "phone": {}}, "phone must be an array"),
        ({"email": [], "phone": ["x"], "phone_hash": ["x"]}, MISSING),
        ({"email": ["a"], "phone_hash": True}, "phone_hash must be an array"),
        ({"email": None, "phone": None}, MISSING),
        ({}, MISSING),
    ],
)
def test_v2_goes_key_by_key(asker: Any, payload: dict, message: str) -> None:
    """The first fault in the order of the keys is reported (docs/protocol.md 2.5)."""
    assert asker.ask(MAP_V2, payload) == (
        400,
        {"message": message, "status": "client_error"},
    )


def test_only_empty_lists_map_nobody(asker: Any) -> None:
    """That is no error (docs/protocol.md 2.5)."""
    assert asker.ask(MAP_V2, {"phone": [], "email_hash": []}) == (
        200,
        {"body": {"mapped": []}, "status": "success"},
    )


@pytest.mark.parametrize(
    ("link", "status"), [({}, 200), ({"link_id": "l"}, 200), ({"link_id": "m"}, 401)]
)
def test_a_service_needs_a_good_link(asker: Any, link: dict, status: int) -> None:
    """The link is looked up if there is one (docs/protocol.md 2.5)."""
    with_service(asker, validate=True)

    found = asker.ask(MAP_V2, {"email": ["a@b.c"], **link}, who="advertiser")

    assert found[0] == status


def with_link(asker: Any, link: ServiceLink, services: frozenset[int] | None) -> None:
    """Give the advertiser's service one link."""
    with_service(asker, validate=True)
    data = attrs.evolve(asker.data, service_links=(link,), services=services)
    asker.load(data, validate_service_links=True)


@pytest.mark.parametrize(("name", "status"), [("null", 200), ("l", 401)])
def test_a_null_link_is_looked_up_as_text(asker: Any, name: str, status: int) -> None:
    """Java spells it so in the key that it looks up (docs/protocol.md 2.5)."""
    link = ServiceLink(link_id=name, service_id=7, roles=frozenset({"MAPPER"}))
    with_link(asker, link, None)

    payload = {"email": ["a@b.c"], "link_id": None}

    assert asker.ask(MAP_V2, payload, who="advertiser")[0] == status


@pytest.mark.parametrize(
    ("name", "services", "status"),
    [
        ("good", frozenset({7}), 200),
        ("good", None, 200),
        ("good", frozenset({8}), 500),
        (" ", frozenset(), 200),
    ],
)
def test_the_service_of_a_link_must_be_listed(
    asker: Any, name: str, services: frozenset[int] | None, status: int
) -> None:
    """The operator fails on counting by its name (docs/protocol.md 2.5)."""
    roles = frozenset({"MAPPER"})
    with_link(
        asker, ServiceLink(link_id="l", service_id=7, name=name, roles=roles), services
    )

    found = asker.ask(MAP_V2, {"email": ["a@b.c"], "link_id": "l"}, who="advertiser")

    assert found[0] == status
    if status == 500:
        assert found[1] == {
            "message": "Unknown error while mapping identity v2",
            "status": "unknown",
        }


def test_v3_cannot_name_a_link(asker: Any) -> None:
    """So that a service passes without one (docs/protocol.md 2.6)."""
    with_service(asker, validate=True)

    assert asker.ask(MAP_V3, {"email": ["a@b.c"]}, who="advertiser")[0] == 200


@pytest.mark.parametrize("path", [MAP_V2, MAP_V3])
def test_without_validation_no_service_passes(asker: Any, path: str) -> None:
    """The operator cannot know, and rejects it (docs/protocol.md 2.5)."""
    with_service(asker, validate=False)

    assert asker.ask(path, {"email": ["a@b.c"]}, who="advertiser") == (
        401,
        {"message": "Invalid link_id", "status": "unauthorized"},
    )


def test_buckets_are_listed_from_the_instant_on(asker: Any) -> None:
    """The comparison is inclusive (docs/protocol.md 2.4)."""
    all_of_them = asker.ask(BUCKETS, {"since_timestamp": "1970-01-01T00:00"})[1]["body"]
    newest = max(one["last_updated"] for one in all_of_them)

    found = asker.ask(BUCKETS, {"since_timestamp": newest})[1]["body"]

    assert len(all_of_them) == 1_024
    assert found
    assert {one["last_updated"] for one in found} == {newest}


def test_the_status_tells_since_when(asker: Any) -> None:
    """In ms, to the second (docs/protocol.md 2.7)."""
    raw_uid = asker.ask(MAP_V3, {"email": ["gone@example.com"]})[1]["body"]["email"][0]
    asker.ask(LOGOUT, {"email": "gone@example.com"})

    asked = {"advertising_ids": [raw_uid["u"], "other"]}
    body = asker.ask(STATUS, asked, who="sharer")[1]["body"]

    since = asker.now_ms // 1000 * 1000
    assert body == {
        "opted_out": [{"advertising_id": raw_uid["u"], "opted_out_since": since}]
    }


def test_the_status_has_a_limit(make_asker: Any) -> None:
    """It is a setting of the operator (docs/protocol.md 2.7)."""
    asker = make_asker(optout_status_max_request_size=1)

    assert asker.ask(STATUS, {"advertising_ids": ["a"]})[0] == 200
    assert asker.ask(STATUS, {"advertising_ids": ["a", "b"]})[0] == 400
