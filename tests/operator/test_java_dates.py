from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from uid2_async.operator.java import format_local_date_time, parse_local_date_time

TESTS = Path(__file__).parents[1]
VECTORS = json.loads((TESTS / "vectors/protocol_vectors.json").read_text("utf-8"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_LONG = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "ms"),
    [(one["input"], one["epoch_ms"]) for one in VECTORS["since_timestamp_parse"]],
)
def test_vectors(text: str, ms: int | None) -> None:
    """What the operator's own class accepted and rejected, and the instants."""
    assert parse_local_date_time(text) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-01-01T00:00:00.", 1_672_531_200_000),
        ("1969-12-31T23:59:59.999999999", -1),
        ("1969-12-31T23:59:59.9990", -1),
        ("1970-01-01T00:00:00.0009", 0),
        ("2000-02-29T00:00", 951_782_400_000),
        ("0000-01-01T00:00", -62_167_219_200_000),
        ("0000-02-29T00:00", -62_162_121_600_000),
        ("-0004-02-29T00:00", -62_288_352_000_000),
        ("-0001-01-01T00:00:00", -62_198_755_200_000),
        ("-2023-01-01T00:00", -126_006_883_200_000),
        ("+12023-01-01T00:00:00", 317_242_051_200_000),
        ("+00000-01-01T00:00", -62_167_219_200_000),
        ("+0000002023-01-01T00:00", 1_672_531_200_000),
        ("+292278994-08-17T07:12:55.807999999", MAX_LONG),
        ("-292275055-05-16T16:47:04.192", -MAX_LONG - 1),
    ],
)
def test_parse(text: str, ms: int) -> None:
    """The corners of Java's ISO_LOCAL_DATE_TIME, as Java 17 answered them."""
    assert parse_local_date_time(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2023-01-01T",
        "2023-01-01T00",
        "2023-01-01T00:00:",
        "2023-01-01T00:00.5",
        "2023-01-01T00:00:00,5",
        "2023-01-01T00:00:00.1234567890",
        "2023-01-01T00:00\n",
        " 2023-01-01T00:00",
        "2023-1-1T00:00:00",
        "+2023-01-01T00:00",
        "12023-01-01T00:00",
        "-0000-01-01T00:00",
        "-00000-01-01T00:00",
        "+00000002023-01-01T00:00",
        "+1000000000-01-01T00:00",
        "-1000000000-01-01T00:00",
        "2023-00-01T00:00",
        "2023-13-01T00:00",
        "2023-01-00T00:00",
        "2023-01-32T00:00",
        "1900-02-29T00:00",
        "2023-01-01T23:60",
        "2023-01-01T23:59:60",
        "\u0662\u0660\u0662\u0663-01-01T00:00",
        "2023-01-01T00:00:00.\u0661",
    ],
)
def test_parse_refuses(text: str) -> None:
    """Nothing else is a local date and time: 400, says the operator."""
    assert parse_local_date_time(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "+292278994-08-17T07:12:55.808",
        "-292275055-05-16T16:47:04.191999999",
        "+999999999-12-31T23:59:59",
        "-999999999-01-01T00:00",
    ],
)
def test_parse_overflow(text: str) -> None:
    """A date that Java knows, but not in ms, is another error: 500, says it."""
    with pytest.raises(OverflowError):
        parse_local_date_time(text)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000"),
        (-1, "1969-12-31T23:59:59.999"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999"),
        (253_402_300_800_000, "+10000-01-01T00:00:00.000"),
        (-62_135_596_800_001, "0001-12-31T23:59:59.999"),
        (-62_167_219_200_001, "0002-12-31T23:59:59.999"),
        (-377_705_116_800_001, "+10001-12-31T23:59:59.999"),
        (MAX_LONG, "+292278994-08-17T07:12:55.807"),
        (-MAX_LONG - 1, "+292275056-05-16T16:47:04.192"),
    ],
)
def test_format(ms: int, text: str) -> None:
    """Three fraction digits always; years print as Java's year of the era."""
    assert format_local_date_time(ms) == text


@given(st.datetimes())
@settings(deadline=None)
def test_agrees_with_datetime(instant: datetime) -> None:
    """Within the years that datetime knows, both directions agree with it."""
    aware = instant.replace(tzinfo=UTC)
    ms = (aware - EPOCH) // timedelta(milliseconds=1)
    assert parse_local_date_time(instant.isoformat()) == ms
    assert format_local_date_time(ms) == instant.isoformat(timespec="milliseconds")


@given(st.integers(min_value=-62_135_596_800_000, max_value=MAX_LONG))
@settings(deadline=None)
def test_reads_back(ms: int) -> None:
    """What is printed of the years after 0 is read as the same instant."""
    assert parse_local_date_time(format_local_date_time(ms)) == ms
