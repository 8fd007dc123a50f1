"""Files with phones as people write them."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uid2_async import MappingState, Phone, UID2Client
from uid2_async.bulk.columns import find_identifiers
from uid2_async.bulk.estimate import estimate_file
from uid2_async.bulk.files import open_reader
from uid2_async.bulk.jobs import map_file
from uid2_async.bulk.options import MapOptions
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.errors import ConfigError, InputError, JobError
from uid2_async.models import MappedUID
from uid2_async.operator import LocalOperator

pytest.importorskip("phonenumbers")

INVALID = "INVALID IDENTIFIER"
GERMAN = MapOptions(column="tel", type="phone", country="DE")
# What is written, what it means, and why it means nothing.
PHONES = [
    ("030 123456", "+4930123456", ""),
    ("+49 (0)30 123456", "+4930123456", ""),
    ("+4930123456", "+4930123456", ""),
    ("+12345678901", "+12345678901", ""),
    ("030", None, "PHONE_TOO_SHORT"),
    ("0301234567890123456", None, "PHONE_TOO_LONG"),
    ("call me", None, "PHONE_NOT_A_NUMBER"),
    ("+999 123456789", None, "PHONE_NOT_VALID"),
    ("491701234567.0", None, "PHONE_DECIMAL"),
]


@pytest.fixture
async def operator() -> AsyncIterator[LocalOperator]:
    """Run an operator."""
    async with LocalOperator() as running:
        yield running


@pytest.fixture
async def client(operator: LocalOperator) -> AsyncIterator[UID2Client]:
    """Make a client of it."""
    key = operator.credentials["everything"]
    async with UID2Client(
        operator.url, api_key=key.api_key, client_secret=key.client_secret
    ) as one:
        yield one


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def read(path: Path) -> list[dict[str, Any]]:
    """Read a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    """List what is in a folder."""
    return [one.name for one in folder.iterdir()]


async def uids(client: UID2Client, phones: list[str | None]) -> list[str]:
    """Ask directly for the raw UIDs of phones; nothing where there is none."""
    found = await client.map_identities([Phone(one) for one in phones if one])
    rows = iter(found)
    answers = [next(rows) if one else None for one in phones]
    return [one.raw_uid if isinstance(one, MappedUID) else "" for one in answers]


async def test_a_country_for_all(
    tmp_path: Path, client: UID2Client, operator: LocalOperator
) -> None:
    """National numbers map as their E.164; the others are invalid, and say why.

    What is invalid is never sent, and is no failure.
    """
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, ["tel"], [[text] for text, *_ in PHONES])

    summary = await map_file(source, target, client=client, options=GERMAN)

    assert sum(call.items or 0 for call in operator.calls) == 2
    rows = read(target)
    assert [row["tel"] for row in rows] == [text for text, *_ in PHONES]
    assert [row["UID"] for row in rows] == await uids(client, [e for _, e, _ in PHONES])
    assert [row["ERROR"] for row in rows] == [why for *_, why in PHONES]
    assert [row["UNMAPPED"] for row in rows] == [
        INVALID if why else "" for *_, why in PHONES
    ]
    assert (summary.mapped, summary.invalid, summary.failed) == (4, 5, 0)
    assert summary.duplicates == 2


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
async def test_a_country_for_each_row(
    tmp_path: Path, client: UID2Client, suffix: str
) -> None:
    """A column tells it, in any letter case; where it is empty, --country does."""
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    rows = [
        ["030 123456", "DE", "+4930123456"],
        ["020 7946 0958", " gb ", "+442079460958"],
        ["(202) 555-0123", "", "+12025550123"],
        ["+33 1 23 45 67 89", "Mars", "+33123456789"],
        ["030 123456", "Mars", None],
    ]
    if suffix == "csv":
        write(source, ["tel", "Land"], [[*row[:2]] for row in rows])
    else:
        columns = {"tel": [row[0] for row in rows], "Land": [row[1] for row in rows]}
        pq.write_table(pa.table(columns), source)
    options = MapOptions(
        identifiers={"phone": "tel"}, country="US", country_column="land"
    )

    await map_file(source, target, client=client, options=options)

    found = read(target) if suffix == "csv" else pq.read_table(target).to_pylist()
    expected = await uids(client, [row[2] for row in rows])
    assert [row["UID"] or "" for row in found] == expected
    assert [row["ERROR"] or "" for row in found] == [
        *[""] * 4,
        "PHONE_UNKNOWN_COUNTRY",
    ]


async def test_only_phones_have_a_country(tmp_path: Path, client: UID2Client) -> None:
    """Emails and hashes among the rows stay as they are."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    kinds = ["email", "phone", "phone_hash", "Phone", "fax"]
    texts = ["030 1@example.com", "030 123456", "030 123456", "12", "030 123456"]
    rows = zip(texts, kinds, strict=True)
    write(source, ["INPUT", "INPUT_TYPE"], list(map(list, rows)))

    await map_file(source, target, client=client, options=MapOptions(country="DE"))

    found = read(target)
    assert [row["ERROR"] for row in found] == ["", "", "", "PHONE_TOO_SHORT", ""]
    assert [row["UNMAPPED"] for row in found] == [
        "",
        "",
        INVALID,
        INVALID,
        "INVALID INPUT TYPE",
    ]


async def test_a_row_with_an_e_mail_too(tmp_path: Path, client: UID2Client) -> None:
    """The reason is told where the row is invalid, and not where another one maps."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    rows = [
        ["jane@example.com", "12"],
        ["", "12"],
        ["no email", "12"],
        ["optout@example.com", "12"],
        ["", ""],
    ]
    write(source, ["mail", "tel"], rows)
    both = {"email": "mail", "phone": "tel"}

    options = MapOptions(identifiers=both, country="DE")
    await map_file(source, target, client=client, options=options)
    exploded = tmp_path / "exploded.csv"
    options = MapOptions(identifiers=both, country="DE", explode=True)
    await map_file(source, exploded, client=client, options=options)

    short = "PHONE_TOO_SHORT"
    found = read(target)
    assert [row["ERROR"] for row in found] == ["", short, short, "", ""]
    assert [row["UNMAPPED"] for row in found] == [
        "",
        INVALID,
        INVALID,
        "OPTOUT",
        INVALID,
    ]
    each = [row["ERROR"] for row in read(exploded)]
    assert each == ["", short, short, "", short, "", short, ""]


async def test_a_state_and_a_delta(tmp_path: Path, client: UID2Client) -> None:
    """Both know the number by its E.164, however it was written."""
    texts = {"one.csv": "030 123456", "two.csv": "+4930123456"}
    deltas = []
    for name, text in texts.items():
        source, delta = tmp_path / name, tmp_path / f"delta-{name}"
        write(source, ["tel"], [[text], ["12"]])
        await map_file(
            source,
            tmp_path / f"out-{name}",
            client=client,
            options=GERMAN,
            state=MappingState(tmp_path / "people.db"),
            delta=delta,
        )
        deltas.append(read(delta))

    ((told,), nothing) = deltas
    assert told["CHANGE"] == "ADDED"
    assert [told["UID"]] == await uids(client, ["+4930123456"])
    assert nothing == []


async def test_raw_phones_are_sent_as_e164(
    tmp_path: Path, client: UID2Client, operator: LocalOperator
) -> None:
    """With send_raw nobody is asked about what is no phone to an operator."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, ["tel"], [["030 123456"]])
    raw = client.with_options(send_raw=True)

    await map_file(source, target, client=raw, options=GERMAN)

    (row,) = read(target)
    assert [row["UID"]] == await uids(client, ["+4930123456"])


async def test_another_country_is_another_job(
    tmp_path: Path, client: UID2Client
) -> None:
    """An interrupted job resumes only with the same country."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, ["tel", "land"], [[f"030 {n}", ""] for n in range(123_000, 126_000)])
    stop = asyncio.Event()
    german = attrs.evolve(GERMAN, batch_size=100, concurrency=1)
    first = await map_file(
        source,
        target,
        client=client,
        options=german,
        stop=stop,
        on_progress=lambda _: stop.set(),
    )
    assert not first.complete

    others = {
        "country": attrs.evolve(german, country="AT"),
        "country_column": attrs.evolve(german, country_column="land"),
    }
    for name, options in others.items():
        with pytest.raises(JobError, match=f"option {name}"):
            await map_file(source, target, client=client, options=options)
    second = await map_file(source, target, client=client, options=german)

    assert (second.rows, second.mapped) == (3_000, 3_000)
    assert second.resumed_rows == first.rows < 3_000


@pytest.mark.parametrize(
    "options",
    [
        {"country": "DE", "column": "mail", "type": "email"},
        {"country": "DE", "identifiers": {"email": "mail", "phone_hash": "hash"}},
        {"country_column": "land", "type": "phone_hash"},
    ],
)
def test_a_country_without_phones(options: dict[str, Any]) -> None:
    """It would do nothing, which nobody means."""
    with pytest.raises(ConfigError, match="no column contains any"):
        MapOptions(**options)


async def test_a_country_that_there_is_not(
    tmp_path: Path, client: UID2Client, operator: LocalOperator
) -> None:
    """Nothing is sent or written where it is misspelt, nor where the column is."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, ["tel"], [["030 123456"]])
    wrong = {
        "country is unknown": {"country": "Germany"},
        "no column 'land'": {"country_column": "land"},
    }
    for words, options in wrong.items():
        with pytest.raises(InputError, match=words):
            await map_file(
                source,
                target,
                client=client,
                options=MapOptions(column="tel", type="phone", **options),
            )

    assert operator.calls == []
    assert names(tmp_path) == ["in.csv"]


def test_steps_are_smaller(tmp_path: Path) -> None:
    """A tenth of the rows at once: phonenumbers takes most of the time of a step."""
    source = tmp_path / "in.csv"
    write(source, ["tel"], [["030 123456"]] * 60)

    def sizes(country: str | None) -> list[int]:
        reader = open_reader(source, FileFormatOptions())
        columns = find_identifiers(
            reader.header, column="tel", kind="phone", several={}, country=country
        )
        reader.select(columns.wanted)
        steps: list[int] = []
        while reader.load():
            while (rows := reader.take(columns.step_rows)) is not None:
                steps.append(rows.count)
        reader.close()
        return steps

    assert sizes(None) == [60]
    assert sizes("DE") == [50, 10]


def test_estimates(tmp_path: Path) -> None:
    """What is invalid and what is the same is seen as the job will see it."""
    source = tmp_path / "in.csv"
    write(source, ["tel"], [*[[text] for text, *_ in PHONES], [""]])

    found = estimate_file(source, options=GERMAN)

    assert (found.rows, found.unique, found.invalid, found.empty) == (10, 2, 5, 1)
