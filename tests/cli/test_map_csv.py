"""The engine: order, duplicates, bounds and failures, at a batch size of three."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Sequence
from datetime import UTC

import attrs
import pytest

from uid2_async import UID2Client
from uid2_async.cli.csv_rows import Columns, CsvRows
from uid2_async.cli.map_csv import (
    OUTPUT_COLUMNS,
    MapProgress,
    MapSummary,
    map_csv,
)
from uid2_async.errors import AuthError, InputError, StalledError, UID2Error
from uid2_async.models import Email, MappedUID, Phone, Unmapped
from uid2_async.operator import LocalOperator
from uid2_async.operator.faults import Fault
from uid2_async.protocol.normalize import identity_hash

KIND_COLUMN = Columns(value=0, kind=1)
EMAILS = Columns(value=0, constant_kind="email")
NOTHING_TO_DO = MapSummary(
    rows=0,
    mapped=0,
    opted_out=0,
    invalid=0,
    other=0,
    duplicates=0,
    seconds=0.0,
    head=(),
)


@pytest.fixture
def small(client: UID2Client) -> UID2Client:
    """Give a client with small batches."""
    return client.with_options(max_batch_size=3)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> CsvRows:
    """Write *rows* as CSV, ready to be read."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    return CsvRows(io.BytesIO(text.getvalue().encode()), name="in.csv")


async def run(
    rows: Sequence[Sequence[str]],
    client: UID2Client,
    columns: Columns = KIND_COLUMN,
    header: Sequence[str] = ("INPUT", "INPUT_TYPE"),
) -> tuple[list[list[str]], MapSummary]:
    """Map *rows*; return those of the result, and the summary."""
    out = io.StringIO(newline="")
    summary = await map_csv(table(rows, header), columns, out, client=client)
    out.seek(0)
    first, *result = csv.reader(out, strict=True)
    assert first == [*header, *OUTPUT_COLUMNS]
    return result, summary


def items(operator: LocalOperator) -> list[int]:
    """List how many identities each request had."""
    return [call.items for call in operator.calls]


async def test_every_outcome(
    small: UID2Client, client: UID2Client, operator: LocalOperator
) -> None:
    """Each row gets the answer for its identity, in the words of the contract."""
    hashed = identity_hash(Email("c@example.com")) or ""
    rows = [
        ["a@example.com", "email"],
        ["nobody", "email"],
        ["+12025550123", "phone"],
        ["optout@example.com", "email"],
        ["b@example.com", "uid2"],
        [hashed, "email_hash"],
        ["", "phone_hash"],
    ]
    result, summary = await run(rows, small)
    answers = await client.map_identities(
        [Email("a@example.com"), Phone("+12025550123"), Email("c@example.com")]
    )

    for at, answer in zip((0, 2, 5), answers.rows, strict=True):
        assert isinstance(answer, MappedUID)
        assert answer.refresh_from is not None
        assert result[at][2:] == [
            answer.raw_uid,
            answer.previous_raw_uid or "",
            str(int(answer.refresh_from.astimezone(UTC).timestamp())),
            "",
        ]
    assert result[1][2:] == ["", "", "", "INVALID IDENTIFIER"]
    assert result[3][2:] == ["", "", "", "OPTOUT"]
    assert result[4][2:] == ["", "", "", "INVALID INPUT TYPE"]
    assert result[6][2:] == ["", "", "", "INVALID IDENTIFIER"]
    assert [row[:2] for row in result] == rows
    assert attrs.evolve(summary, seconds=0.0, head=()) == attrs.evolve(
        NOTHING_TO_DO, rows=7, mapped=3, opted_out=1, invalid=3
    )
    assert [list(row) for row in summary.head] == result


async def test_order_over_many_batches(
    small: UID2Client, client: UID2Client, operator: LocalOperator
) -> None:
    """Rows keep their order although batches are answered out of order."""
    names = [f"user{n}@example.com" for n in range(200)]
    operator.fail_next(Fault(delay=0.2))
    result, summary = await run([[one] for one in names], small, EMAILS, ["mail"])
    expected = await client.map_identities(names)

    assert [row[0] for row in result] == names
    assert [row[1] for row in result] == [row.u for row in expected.wire_rows]
    assert summary.rows == summary.mapped == 200
    assert sorted(items(operator)) == [2] + [3] * 66 + [200]


async def test_duplicates_are_asked_about_once(
    small: UID2Client, operator: LocalOperator
) -> None:
    """Spellings and hashes of one person, near and far apart, take one slot."""
    hashed = identity_hash(Email("jane@example.com")) or ""
    first = [
        ["jane@example.com", "email"],
        ["JANE@example.com", "Email "],
        ["a@example.com", "email"],
        ["b@example.com", "email"],
        ["c@example.com", "email"],
    ]
    again = [[" jane@example.com", "email"], [hashed, "email_hash"]]
    result, summary = await run([*first, *again], small)

    assert sum(items(operator)) == 4
    assert len({row[2] for row in (result[0], result[1], *result[5:])}) == 1
    assert (summary.duplicates, summary.mapped) == (3, 7)


async def test_types_are_kept_apart(small: UID2Client, operator: LocalOperator) -> None:
    """The same hash as e-mail and as phone are two identities."""
    hashed = identity_hash(Email("jane@example.com")) or ""
    _, summary = await run([[hashed, "email_hash"], [hashed, "phone_hash"]], small)

    assert summary.duplicates == 0
    assert items(operator) == [2]


async def test_progress_is_told(small: UID2Client, operator: LocalOperator) -> None:
    """Rows and bytes grow up to the whole; a file of duplicates is one request."""
    told: list[MapProgress] = []
    rows = table([["jane@example.com"]] * 2_500, ["mail"])
    await map_csv(rows, EMAILS, io.StringIO(), client=small, on_progress=told.append)

    assert [one.rows for one in told] == [1_000, 2_000, 2_500]
    assert told[-1].bytes_read == rows.bytes_read
    assert items(operator) == [1]


async def test_nothing_but_a_header(small: UID2Client, operator: LocalOperator) -> None:
    """A file without rows has a result without rows, and asks nothing."""
    result, summary = await run([], small)

    assert result == []
    assert attrs.evolve(summary, seconds=0.0) == NOTHING_TO_DO
    assert items(operator) == []


async def test_invalid_rows_are_not_sent(
    small: UID2Client, operator: LocalOperator
) -> None:
    """Where no identity is valid, no request is made."""
    _, summary = await run([["x", "email"], ["y", "phone"]], small)

    assert summary.invalid == 2
    assert items(operator) == []


async def test_odd_values_survive(small: UID2Client) -> None:
    """Every column is passed through as it was read."""
    header = ["no\rte", "INPUT", "empty"]
    rows = [
        ['say "hi", twice', "a@example.com", ""],
        ["line\nline\r\nline", "b@example.com", ""],
        ["lone\rreturn", "c@example.com", ""],
        [" spaces ", "d@example.com", "\t"],
        ["Zoë 東京 \U0001f600", "e@example.com", "\ufeff"],
        ["=1+1", "f@example.com", "'"],
    ]
    result, _ = await run(rows, small, Columns(value=1, constant_kind="email"), header)

    assert [row[:3] for row in result] == rows


async def test_line_ends_stay(small: UID2Client) -> None:
    """The result's lines end as the input's do."""
    rows = CsvRows(io.BytesIO(b"mail\r\na@example.com\r\n"), name="in.csv")
    out = io.StringIO(newline="")
    await map_csv(rows, EMAILS, out, client=small)

    assert out.getvalue().count("\r\n") == out.getvalue().count("\n") == 2


async def test_another_reason(small: UID2Client, operator: LocalOperator) -> None:
    """A reason that the contract does not know is kept and counted apart."""
    payload = (
        b'{"body":{"email":[],"phone":[],"phone_hash":[],"email_hash":'
        b'[{"e":"on hold"},{}]},"status":"success"}'
    )
    operator.fail_next(Fault(payload=payload))
    result, summary = await run(
        [["a@example.com", "email"], ["b@example.com", "email"]], small
    )

    assert [row[-1] for row in result] == ["ON HOLD", "UNKNOWN"]
    assert (summary.other, summary.mapped) == (2, 0)


async def test_a_rejected_key_ends_the_job(
    small: UID2Client, operator: LocalOperator
) -> None:
    """The operator's own error is raised, and the other batches are stopped."""
    operator.fail_next(Fault(delay=30), times=2)
    operator.fail_next(Fault(status=401, body=b'{"status":"unauthorized"}'))
    with pytest.raises(AuthError):
        await run([[f"u{n}@example.com", "email"] for n in range(100)], small)

    assert not [one for one in asyncio.all_tasks() if "MapJob" in repr(one)]


async def test_a_failed_batch_ends_the_job(
    small: UID2Client, operator: LocalOperator
) -> None:
    """A row that could not be asked about is neither written nor called unmapped."""
    operator.fail_next(Fault(status=400))
    with pytest.raises(UID2Error, match="BadRequestError, HTTP 400"):
        await run([["a@example.com", "email"]], small)


async def test_a_stalled_job_ends(small: UID2Client, operator: LocalOperator) -> None:
    """An operator that answers nothing ends the job, in its time."""
    operator.fail_next(Fault(status=429, retry_after=86_400), times=99)
    with pytest.raises(StalledError, match="No batch succeeded"):
        await map_csv(
            table([["a@example.com"]], ["mail"]),
            EMAILS,
            io.StringIO(),
            client=small,
            stall_timeout=0.05,
        )


async def test_a_bad_row_ends_the_job(small: UID2Client) -> None:
    """A row that cannot be read is named; it is neither dropped nor mended."""
    data = b"mail\na@example.com\n" * 10 + b"b@example.com,2\n"
    rows = CsvRows(io.BytesIO(data), name="in.csv")
    with pytest.raises(InputError, match=r"in\.csv, line 21: 2 fields"):
        await map_csv(rows, EMAILS, io.StringIO(), client=small)


class FullDisk(io.StringIO):
    """A file that takes the header and no more."""

    def write(self, text: str) -> int:
        """Write the header."""
        if "example.com" in text:
            raise OSError(28, "No space left on device")
        return super().write(text)


async def test_a_full_disk_ends_the_job(small: UID2Client) -> None:
    """What writing raises is raised."""
    rows = table([[f"u{n}@example.com"] for n in range(10)], ["mail"])
    with pytest.raises(OSError, match="No space left"):
        await map_csv(rows, EMAILS, FullDisk(), client=small)


async def test_values_stay_out_of_reprs(small: UID2Client) -> None:
    """A summary may be logged: it shows counts, no rows."""
    _, summary = await run([["jane@example.com", "email"]], small)

    assert "jane" not in repr(summary)
    assert not isinstance(summary.head[0], Unmapped)
