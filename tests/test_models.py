"""Values: identities in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from uid2_async import (
    Email,
    EmailHash,
    IdentityMap,
    IdentityScope,
    MappedUID,
    OptOutStatus,
    Phone,
    PhoneHash,
    Unmapped,
    UnmappedReason,
)
from uid2_async.errors import InputError
from uid2_async.models import (
    IdentityType,
    MapRow,
    as_identity,
    datetime_from_ms,
    ms_from_datetime,
)

CANARY = "canary@example.com"


@pytest.mark.parametrize("cls", [Email, Phone, EmailHash, PhoneHash])
def test_an_identity_hides_its_value(cls: type) -> None:
    """No repr of an identity shows DII."""
    assert repr(cls(CANARY)) == f"{cls.__name__}(***)"
    assert CANARY not in f"{cls(CANARY)}"


@pytest.mark.parametrize("cls", [Email, Phone, EmailHash, PhoneHash])
def test_an_identity_must_be_text(cls: type) -> None:
    """What is no str is refused by its type, not shown."""
    with pytest.raises(InputError, match="takes a str, not bytes"):
        cls(CANARY.encode())


def test_identities_of_different_kinds_differ() -> None:
    """The same text as e-mail and as hash is not the same identity."""
    assert Email("a") == Email("a")
    assert len({Email("a"), EmailHash("a"), PhoneHash("a"), Phone("a")}) == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@b.com", Email("a@b.com")),
        ("+12345678901", Phone("+12345678901")),
        ("no address", Email("no address")),
        (PhoneHash("x"), PhoneHash("x")),
    ],
)
def test_a_str_is_a_phone_if_it_starts_with_a_plus(
    value: Email | str, expected: Email
) -> None:
    """The type of a str follows only from its first character."""
    assert as_identity(value) == expected


def test_other_types_are_no_identity() -> None:
    """None in a list of e-mails is a mistake of the caller."""
    with pytest.raises(InputError, match="not NoneType"):
        as_identity(None)  # type: ignore[arg-type] # the mistake under test


def test_instants_are_exact_and_aware() -> None:
    """Milliseconds survive the way to a datetime and back, before 1970 too."""
    assert datetime_from_ms(1_700_000_000_123).isoformat() == (
        "2023-11-14T22:13:20.123000+00:00"
    )
    for ms in (-1, 0, 1, 253_402_300_799_999):
        assert ms_from_datetime(datetime_from_ms(ms)) == ms
    cet = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert ms_from_datetime(cet) == ms_from_datetime(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_naive_datetime_is_refused() -> None:
    """A naive datetime could mean any zone."""
    with pytest.raises(InputError, match="no time zone"):
        ms_from_datetime(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


def test_scope_and_type_know_their_bits() -> None:
    """Tokens and raw UIDs carry scope and type as one bit each."""
    assert [scope.bit for scope in IdentityScope] == [0, 1]
    assert [kind.bit for kind in IdentityType] == [0, 1]


def make_map() -> IdentityMap:
    """Make a map of a mapped, an opted-out and a duplicate identity."""
    mapped = MapRow(
        raw_uid="canary-uid", previous_raw_uid=None, refresh_from_s=1_700_000_000
    )
    return IdentityMap(
        [CANARY, Phone("+12345678901"), Email(CANARY)],
        [mapped, MapRow(reason="optout"), mapped],
    )


def test_a_map_is_a_sequence_aligned_with_its_input() -> None:
    """Result i is that of identity i, duplicates included."""
    found = make_map()

    uid, out = found[0], Unmapped(UnmappedReason.OPTED_OUT)
    assert uid == MappedUID(raw_uid="canary-uid", refresh_from_s=1_700_000_000)
    assert isinstance(found, Sequence)
    assert list(found) == [uid, out, uid] == [found[0], found[1], found[-1]]
    assert found[1:] == (out, uid)
    assert list(reversed(found)) == [uid, out, uid]
    assert (len(found), found.count(uid), found.index(out)) == (3, 2, 1)
    assert out in found
    assert Unmapped(UnmappedReason.UNKNOWN) not in found
    with pytest.raises(IndexError):
        found[3]


def test_a_result_is_looked_up_by_what_the_caller_gave() -> None:
    """A str and the Email of it are the same; None is who was not asked for."""
    found = make_map()

    assert found.get(CANARY) == found.get(Email(CANARY)) == found[0]
    assert found.get("+12345678901") == found[1]
    assert found.get("other@example.com") is None
    assert list(found.items()) == list(zip(found.identities, found, strict=True))
    with pytest.raises(InputError):
        found.get(7)  # type: ignore[arg-type] # the mistake under test


@pytest.mark.parametrize("identity", [CANARY, Email(CANARY)])
def test_a_map_is_not_taken_for_a_dict(identity: str | Email) -> None:
    """``result[identity]`` and ``identity in result`` say what to call, without DII."""
    for look_up in (IdentityMap.__getitem__, IdentityMap.__contains__):
        with pytest.raises(InputError, match=r"Use \.get\(identity\)") as caught:
            look_up(make_map(), identity)  # type: ignore[arg-type] # as above
        assert "canary" not in str(caught.value)


def test_each_result_can_be_read_without_a_check() -> None:
    """An unmapped person has no raw UID, and a mapped one has no reason."""
    facts = [(row.raw_uid, row.reason, row.refresh_from) for row in make_map()]

    instant = datetime.fromtimestamp(1_700_000_000, UTC)
    assert facts[:2] == [
        ("canary-uid", None, instant),
        (None, UnmappedReason.OPTED_OUT, None),
    ]


def test_a_row_has_full_names_and_is_read_from_short_ones() -> None:
    """The wire's letters appear in no attribute; an instant is aware."""
    wire = b'{"u":"uid","p":"before","r":1700000000}'
    row = msgspec.json.decode(wire, type=MapRow)

    assert (row.raw_uid, row.previous_raw_uid) == ("uid", "before")
    assert row.refresh_from == datetime.fromtimestamp(row.refresh_from_s or 0, UTC)
    assert MapRow().refresh_from is None
    assert msgspec.json.decode(b'{"e":"optout"}', type=MapRow).reason == "optout"


def test_results_hide_raw_uids() -> None:
    """No repr of a result shows a raw UID."""
    found = make_map()

    assert repr(found) == "<IdentityMap rows=3 mapped=2>"
    assert "canary" not in repr(list(found)) + repr(MapRow(raw_uid="canary"))


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (MapRow(reason="optout"), UnmappedReason.OPTED_OUT, None),
        (MapRow(reason="invalid identifier"), UnmappedReason.INVALID_IDENTIFIER, None),
        (MapRow(reason="new word"), UnmappedReason.UNKNOWN, "new word"),
        (MapRow(), UnmappedReason.UNKNOWN, None),
        (MapRow(raw_uid="uid", reason="optout"), UnmappedReason.OPTED_OUT, None),
    ],
)
def test_a_reason_beats_a_raw_uid(
    row: MapRow, reason: UnmappedReason, detail: str | None
) -> None:
    """A row with a reason is never mapped; unknown words are kept."""
    assert row.result == Unmapped(reason, detail)
    assert not row.mapped


def test_a_v2_row_tells_its_bucket() -> None:
    """The old endpoint gives a bucket and no time."""
    assert MapRow(raw_uid="uid", bucket_id="b").result == MappedUID(
        raw_uid="uid", bucket_id="b"
    )


def test_opt_out_status_answers_in() -> None:
    """``uid in status`` is the question that callers have."""
    status = OptOutStatus({"canary": datetime_from_ms(0)})

    assert "canary" in status
    assert "other" not in status
    assert "canary" not in repr(status)
