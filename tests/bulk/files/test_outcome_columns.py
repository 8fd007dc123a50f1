"""The columns of a mapped file, and which identifier speaks for a row."""

from __future__ import annotations

import pytest

from uid2_async.bulk.columns import OutcomeColumns, RowStatus, choose
from uid2_async.bulk.outcomes import ABSENT, UNKNOWN_KIND, MapFailure, OptOutRule
from uid2_async.bulk.paths import Content
from uid2_async.models import MapRow

UID, OTHER = "u" * 44, "v" * 44
MAPPED = MapRow(raw_uid=UID, previous_raw_uid=OTHER, refresh_from_s=1_800_000_000)
SECOND = MapRow(raw_uid=OTHER, refresh_from_s=1_900_000_000)
OUT = MapRow(reason="optout")
INVALID = MapRow(reason="invalid identifier")
FAILED = MapFailure(error="ServerError", status=503)
KINDS = ["email", "phone"]


@pytest.mark.parametrize(
    ("outcomes", "any_rule", "each_rule"),
    [
        ([MAPPED, SECOND], 0, 0),
        ([INVALID, SECOND], 1, 1),
        ([ABSENT, SECOND], 1, 1),
        ([MAPPED, OUT], 1, 0),
        ([OUT, SECOND], 0, 1),
        ([OUT, INVALID], 0, 0),
        ([INVALID, OUT], 1, 1),
        ([FAILED, SECOND], 0, 0),
        ([MAPPED, FAILED], 1, 0),
        ([FAILED, OUT], 1, 0),
        ([INVALID, FAILED, SECOND], 1, 1),
        ([ABSENT, INVALID], 1, 1),
        ([ABSENT, ABSENT], 0, 0),
    ],
)
def test_which_identifier_speaks_for_a_row(
    outcomes: list[MapRow], any_rule: int, each_rule: int
) -> None:
    """An opt-out of any wins by default; a failure is never answered by the next."""
    assert choose(outcomes, OptOutRule.ANY) == any_rule
    assert choose(outcomes, OptOutRule.EACH) == each_rule


def test_one_identifier_a_row() -> None:
    """The words are those of the file contract; a failure leaves UNMAPPED empty."""
    columns = OutcomeColumns()
    odd = MapRow(reason="too new for us")

    made, _ = columns.make([[MAPPED, OUT, INVALID, UNKNOWN_KIND, ABSENT, odd, FAILED]])

    assert made == {
        "UID": [UID, *[None] * 6],
        "PREV_UID": [OTHER, *[None] * 6],
        "REFRESH_FROM": [1_800_000_000, *[None] * 6],
        "UNMAPPED": [
            None,
            "OPTOUT",
            "INVALID IDENTIFIER",
            "INVALID INPUT TYPE",
            "INVALID IDENTIFIER",
            "TOO NEW FOR US",
            None,
        ],
        "ERROR": [*[None] * 6, "ServerError 503"],
    }
    assert columns.status_counts == {
        RowStatus.MAPPED: 1,
        RowStatus.OPTED_OUT: 1,
        RowStatus.INVALID: 2,
        RowStatus.EMPTY: 1,
        RowStatus.OTHER: 1,
        RowStatus.FAILED: 1,
    }


def test_several_identifiers_a_row() -> None:
    """MATCHED_TYPE tells which one gave the raw UID."""
    columns = OutcomeColumns(matched_type=True, snake_case=True)

    made, _ = columns.make(
        [[MAPPED, INVALID, ABSENT], [SECOND, SECOND, INVALID]], KINDS
    )

    assert made["uid"] == [UID, OTHER, None]
    assert made["matched_type"] == ["email", "phone", None]
    assert made["unmapped"] == [None, None, "INVALID IDENTIFIER"]


def test_salt_buckets_take_the_place_of_times() -> None:
    """The old endpoint gives a bucket, and neither previous UID nor time."""
    columns = OutcomeColumns(buckets=True)

    made, _ = columns.make([[MapRow(raw_uid=UID, bucket_id="ad1ANEmVZ")]])

    assert list(made) == ["UID", "BUCKET_ID", "UNMAPPED", "ERROR"]
    assert made["BUCKET_ID"] == ["ad1ANEmVZ"]
    assert columns.contents["BUCKET_ID"] is Content.TEXT


def test_a_row_for_each_identifier() -> None:
    """Exploded rows say to which row they belong; nobody is left out."""
    columns = OutcomeColumns(matched_type=True, explode=True)

    made, rows = columns.make([[MAPPED, ABSENT, ABSENT], [OUT, SECOND, ABSENT]], KINDS)

    assert rows == [0, 0, 1, 2]
    assert made["UID"] == [UID, None, OTHER, None]
    assert made["MATCHED_TYPE"] == ["email", None, "phone", None]
    assert made["UNMAPPED"] == [None, "OPTOUT", None, "INVALID IDENTIFIER"]
