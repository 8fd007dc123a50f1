"""Values: identities in, results out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

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
    """A bare str is told apart by its first character alone."""
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
    with pytest.raises(InputError, match="without a time zone"):
        ms_from_datetime(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


def test_scope_and_type_know_their_bits() -> None:
    """Tokens and raw UIDs carry scope and type as one bit each."""
    assert [scope.bit for scope in IdentityScope] == [0, 1]
    assert [kind.bit for kind in IdentityType] == [0, 1]


def make_map() -> IdentityMap:
    """Make a map of a mapped, an opted-out and a duplicate identity."""
    mapped = MapRow(u="canary-uid", p=None, r=1_700_000_000)
    return IdentityMap(
        [CANARY, Phone("+12345678901"), Email(CANARY)],
        [mapped, MapRow(e="optout"), mapped],
    )


def test_a_map_is_aligned_with_its_input() -> None:
    """Row i answers identity i, duplicates included."""
    found = make_map()

    uid = MappedUID(
        raw_uid="canary-uid", refresh_from=datetime_from_ms(1_700_000_000_000)
    )
    assert found.rows == (uid, Unmapped(UnmappedReason.OPTED_OUT), uid)
    assert list(found) == list(zip(found.identities, found.rows, strict=True))
    assert len(found) == len(found.wire_rows) == 3


def test_a_map_is_looked_up_by_what_the_caller_gave() -> None:
    """A str and the Email of it are the same key."""
    found = make_map()

    assert found[CANARY] == found[Email(CANARY)] == found.rows[0]
    assert found["+12345678901"] == found.rows[1]
    assert CANARY in found
    assert "other@example.com" not in found
    assert 7 not in found


def test_a_failed_look_up_hides_the_identity() -> None:
    """Even a KeyError shows no DII."""
    with pytest.raises(KeyError) as caught:
        make_map()["missing-canary@example.com"]

    assert "canary" not in str(caught.value)


def test_results_hide_raw_uids() -> None:
    """No repr of a result shows a raw UID."""
    found = make_map()

    assert repr(found) == "<IdentityMap rows=3 mapped=2>"
    assert "canary" not in repr(found.rows) + repr(found.wire_rows)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (MapRow(e="optout"), UnmappedReason.OPTED_OUT, None),
        (MapRow(e="invalid identifier"), UnmappedReason.INVALID_IDENTIFIER, None),
        (MapRow(e="new word"), UnmappedReason.UNKNOWN, "new word"),
        (MapRow(), UnmappedReason.UNKNOWN, None),
        (MapRow(u="uid", e="optout"), UnmappedReason.OPTED_OUT, None),
    ],
)
def test_a_reason_beats_a_raw_uid(
    row: MapRow, reason: UnmappedReason, detail: str | None
) -> None:
    """A row with a reason is never mapped; unknown words are kept."""
    assert row.result() == Unmapped(reason, detail)
    assert not row.mapped


def test_a_v2_row_tells_its_bucket() -> None:
    """The old endpoint gives a bucket and no time."""
    assert MapRow(u="uid", bucket_id="b").result() == MappedUID(
        raw_uid="uid", bucket_id="b"
    )


def test_opt_out_status_answers_in() -> None:
    """``uid in status`` is the question that callers have."""
    status = OptOutStatus({"canary": datetime_from_ms(0)})

    assert "canary" in status
    assert "other" not in status
    assert "canary" not in repr(status)
