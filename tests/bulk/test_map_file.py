"""map_file: what goes in comes out, with raw UIDs, in every format."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import math
import threading
from collections import deque
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from uid2_async import Email, RetryPolicy, UID2Client
from uid2_async.bulk.database import Query, Table
from uid2_async.bulk.estimate import estimate_file
from uid2_async.bulk.jobs import check_file, map_file
from uid2_async.bulk.options import (
    FileJobOptions,
    JobOptions,
    MapOptions,
    RefreshOptions,
    StatusOptions,
)
from uid2_async.bulk.paths import Format
from uid2_async.bulk.state_jobs import refresh_state, sweep_by_status
from uid2_async.errors import AuthError, ConfigError, InputError, JobError
from uid2_async.hooks import CallFinished, Event
from uid2_async.operator import LocalOperator
from uid2_async.operator.state import Fault
from uid2_async.protocol.hash_spelling import HashSpelling

PEOPLE = [
    "jane@example.com",
    "optout@example.com",
    "no email at all",
    "",
    "JANE@example.com",
    "zoë@example.com",
]
WORDS = [None, "OPTOUT", "INVALID IDENTIFIER", "INVALID IDENTIFIER", None, None]
MAIL = MapOptions(column="mail", type="email")


async def uids(client: UID2Client) -> list[str | None]:
    """Ask directly for the raw UIDs of PEOPLE."""
    found = await client.map_identities(list(map(Email, PEOPLE)))
    return [one.raw_uid for one in found]


def records(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def visible(folder: Path) -> list[str]:
    """List what is in a folder."""
    return sorted(one.name for one in folder.iterdir())


def left_over(folder: Path) -> list[str]:
    """List what is hidden in a folder."""
    return sorted(one.name for one in folder.iterdir() if one.name.startswith("."))


# --- arguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"client": None}, {"stop": threading.Event()}, {"on_progress": 5}]
)
@pytest.mark.parametrize("job", [map_file, check_file, refresh_state, sweep_by_status])
async def test_wrong_arguments_are_refused_before_anything_is_made(
    tmp_path: Path, client: UID2Client, job: Any, wrong: dict[str, Any]
) -> None:
    """An event of threads would block the event loop."""
    paths = [tmp_path / "in.csv", tmp_path / "out.csv"]
    paths[0].write_text("UID,INPUT,INPUT_TYPE\nx,a@example.com,email\n")
    if job in (refresh_state, sweep_by_status):
        paths = [tmp_path / "people.db"]
    before = visible(tmp_path)

    with pytest.raises(ConfigError, match=next(iter(wrong))):
        await job(*paths, **{"client": client, **wrong})

    assert visible(tmp_path) == before


@pytest.mark.parametrize("error", [asyncio.CancelledError, StopAsyncIteration])
async def test_a_progress_callback_cannot_end_a_job_silently(
    tmp_path: Path, client: UID2Client, error: type[BaseException]
) -> None:
    """Its error would look like a cancellation or like the end of a loop."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("mail\na@example.com\n")

    def fail(progress: object) -> None:
        raise error

    with pytest.raises(JobError, match=f"on_progress raised {error.__name__}"):
        await map_file(source, target, client=client, options=MAIL, on_progress=fail)


# --- formats --------------------------------------------------------------------------


async def test_csv(tmp_path: Path, client: UID2Client) -> None:
    """All columns stay to the byte: quotes, line ends, the mark at the beginning."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    notes = ['"a, ""b"""', '"two\r\nlines"', "", " x ", "0012", "+49"]
    rows = [f"{note},{mail}" for note, mail in zip(notes, PEOPLE, strict=True)]
    source.write_bytes(("\ufeff" + "\r\n".join(["note,mail", *rows])).encode())

    summary = await map_file(source, target, client=client, options=MAIL)

    expected = ["\ufeffnote,mail,UID,PREV_UID,REFRESH_FROM,UNMAPPED,ERROR"]
    found = target.read_bytes().decode()
    cells = [
        line.split(",")[-5:]
        for line in found.replace('"two\r\nlines"', "").split("\r\n")
    ]
    expected += [
        f"{row},{','.join(tail)}" for row, tail in zip(rows, cells[1:], strict=False)
    ]
    assert found == "\r\n".join(expected) + "\r\n"
    assert [tail[0] or None for tail in cells[1:-1]] == await uids(client)
    assert [tail[3] or None for tail in cells[1:-1]] == WORDS
    assert (summary.rows, summary.mapped, summary.opted_out) == (6, 3, 1)
    assert (summary.invalid, summary.empty, summary.duplicates) == (1, 1, 1)
    assert summary.outputs == (target,)
    assert target.stat().st_mode & 0o777 == 0o600
    assert left_over(tmp_path) == []


async def test_jsonl(tmp_path: Path, client: UID2Client) -> None:
    """Numbers keep their digits and spaces their place; fields are put at the end."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        f'{{"n": 1.10e{n} , "mail": {json.dumps(mail)}}}'
        for n, mail in enumerate(PEOPLE)
    ]
    source.write_text("\n".join(lines), encoding="utf-8")

    await map_file(source, target, client=client, options=MAIL)

    found = target.read_text(encoding="utf-8").splitlines()
    assert [line[: len(old) - 1] for line, old in zip(found, lines, strict=True)] == [
        old[:-1] for old in lines
    ]
    rows = list(map(json.loads, found))
    assert [row["UID"] for row in rows] == await uids(client)
    assert [row["UNMAPPED"] for row in rows] == WORDS


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
async def test_parquet_and_arrow(
    tmp_path: Path, client: UID2Client, suffix: str
) -> None:
    """Nested columns and their types pass through; instants are timestamps."""
    table = pa.table(
        {
            "mail": pa.array([one or None for one in PEOPLE]),
            "n": pa.array(range(6), pa.int16()),
            "nested": pa.array([{"a": [n, None]} for n in range(6)]),
            "word": pa.array(["x", "y"] * 3).dictionary_encode(),
        }
    ).replace_schema_metadata({"mine": "kept"})
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    write(source, table)

    await map_file(source, target, client=client, options=MAIL)

    found = read(target)
    assert found.select(table.column_names).to_pydict() == table.to_pydict()
    for name in table.column_names:
        assert found.schema.field(name).type == table.schema.field(name).type
    assert found.schema.metadata[b"mine"] == b"kept"
    assert found["UID"].to_pylist() == await uids(client)
    assert found["UNMAPPED"].to_pylist() == WORDS
    assert found.schema.field("REFRESH_FROM").type == pa.timestamp("us", "UTC")


def write(path: Path, table: Any) -> None:
    """Write a table."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=4)
        return
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=4)


def read(path: Path) -> Any:
    """Read a table."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.ipc.open_file(str(path)) as file:
        return file.read_all()


async def test_spreadsheets(tmp_path: Path, client: UID2Client) -> None:
    """On request no field is a formula; else all of them stay what they are."""
    source = tmp_path / "in.csv"
    source.write_text('tel,note\n+12345678901,"=1+1, ""x"""\n+12345678902,fine\n')
    columns = {"column": "tel", "type": "phone"}
    safe, plain = tmp_path / "safe.csv", tmp_path / "plain.csv"
    options = MapOptions(**columns, spreadsheet_safe=True)
    await map_file(source, safe, client=client, options=options)
    await map_file(source, plain, client=client, options=MapOptions(**columns))

    cells = [(row["tel"], row["note"]) for row in records(safe)]
    assert cells == [("'+12345678901", '\'=1+1, "x"'), ("'+12345678902", "fine")]
    assert records(plain)[0]["tel"] == "+12345678901"
    for row, other in zip(records(safe), records(plain), strict=True):
        uid = other["UID"]
        assert row["UID"] == (f"'{uid}" if uid.startswith("+") else uid)
    with pytest.raises(ConfigError, match="Only CSV"):
        await map_file(
            tmp_path / "in.jsonl", tmp_path / "x.jsonl", client=client, options=options
        )


async def test_gzip(tmp_path: Path, client: UID2Client) -> None:
    """Compressed in, compressed out, and the same bytes every time."""
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress("\n".join(["mail", *PEOPLE[:2]]).encode()))
    targets = [tmp_path / "one.csv.gz", tmp_path / "other.csv.gz"]

    for target in targets:
        await map_file(source, target, client=client, options=MAIL)

    one, other = (target.read_bytes() for target in targets)
    assert one == other
    assert gzip.decompress(one).startswith(b"mail,UID,PREV_UID,")
    assert one[4:8] == bytes(4)


async def test_a_folder(tmp_path: Path, client: UID2Client) -> None:
    """Each file has its output; hidden files and markers do not count."""
    source, target = tmp_path / "export", tmp_path / "mapped"
    source.mkdir()
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS"):
        (source / name).write_text(f"mail,n\njane@example.com,{name}\n")
    (source / "c.csv").write_text("mail,n\n")

    summary = await map_file(source, target, client=client, options=MAIL)

    assert sorted(one.name for one in target.iterdir()) == ["a.csv", "b.csv", "c.csv"]
    assert records(target / "a.csv")[0]["n"] == "a.csv"
    assert records(target / "c.csv") == []
    assert (summary.rows, summary.requests) == (2, 1)


async def test_a_pattern(tmp_path: Path, client: UID2Client) -> None:
    """As warehouses export."""
    for name in ("part-0.csv", "part-1.csv", "other.csv"):
        (tmp_path / name).write_text("mail\njane@example.com\n")

    summary = await map_file(
        str(tmp_path / "part-*.csv"), tmp_path / "out", client=client, options=MAIL
    )

    assert [one.name for one in summary.outputs] == ["part-0.csv", "part-1.csv"]


# --- columns --------------------------------------------------------------------------


async def test_several_identifiers(tmp_path: Path, client: UID2Client) -> None:
    """The first that maps counts, and an opt-out of any of them ends it."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "mail,tel\n"
        "jane@example.com,+12345678901\n"
        ",+12345678901\n"
        "bad,+12345678901\n"
        "jane@example.com,+00000000000\n"
        ",\n"
    )
    options = MapOptions(
        identifiers={"email": "mail", "phone": "tel"}, names="snake", refresh_from="iso"
    )

    await map_file(source, target, client=client, options=options)
    rows = records(target)

    assert [row["matched_type"] for row in rows] == ["email", "phone", "phone", "", ""]
    assert [row["unmapped"] for row in rows[3:]] == ["OPTOUT", "INVALID IDENTIFIER"]
    assert rows[0]["refresh_from"].endswith("Z")


async def test_all_columns_of_a_name(tmp_path: Path, client: UID2Client) -> None:
    """``NAME#*`` is several columns of one type: MATCHED_TYPE is that of the column."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "mail,mail,tel\n,a@example.com,+4930123456\n,,+4930123456\nb@example.com,,\n"
    )
    options = MapOptions(identifiers={"email": "mail#*", "phone": "tel"})

    await map_file(source, target, client=client, options=options)

    assert [row["MATCHED_TYPE"] for row in records(target)] == [
        "email",
        "phone",
        "email",
    ]


async def test_explode(tmp_path: Path, client: UID2Client) -> None:
    """A row for each identifier, with the columns of its row."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("n,mail,tel\n1,jane@example.com,+12345678901\n2,,\n")
    options = MapOptions(identifiers={"phone": "tel", "email": "mail"}, explode=True)

    await map_file(source, target, client=client, options=options)

    rows = records(target)
    assert [(row["n"], row["MATCHED_TYPE"]) for row in rows] == [
        ("1", "phone"),
        ("1", "email"),
        ("2", ""),
    ]


async def test_the_old_endpoint(tmp_path: Path, client: UID2Client) -> None:
    """With salt buckets, and a batch for each kind."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "INPUT,INPUT_TYPE\njane@example.com,email\n+12345678901,phone\nx,email\ny,odd\n"
    )

    summary = await map_file(
        source, target, client=client, options=MapOptions(api="v2")
    )

    rows = records(target)
    assert [bool(row["UID"] and row["BUCKET_ID"]) for row in rows] == [
        True,
        True,
        False,
        False,
    ]
    assert [row["UNMAPPED"] for row in rows[2:]] == [
        "INVALID IDENTIFIER",
        "INVALID INPUT TYPE",
    ]
    assert summary.requests == 2


async def test_failed_rows_are_not_unmapped(
    tmp_path: Path, operator: LocalOperator, client: UID2Client
) -> None:
    """They have an ERROR; the next identifier does not answer for them."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("mail\njane@example.com\n")
    operator.fail_next(Fault(status=400, body=b"{}"))

    summary = await map_file(source, target, client=client, options=MAIL)

    (row,) = records(target)
    assert (row["UID"], row["UNMAPPED"], row["ERROR"]) == (
        "",
        "",
        "BadRequestError 400",
    )
    assert summary.failed == 1


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"column": "mail", "identifiers": {"email": "mail"}}, {}, "not both"),
        ({"identifiers": {"fax": "mail"}}, {}, "email, email_hash, phone, phone_hash"),
        ({"type": "fax"}, {}, "email, email_hash, phone, phone_hash"),
        ({"max_removed": 7}, {}, "between 0 and 1"),
        ({"delimiter": ";;"}, {}, "one character"),
        ({"encoding": "morse"}, {}, "encoding is unknown"),
        ({}, {"delta": "delta.csv"}, "lists the changes of a state"),
        ({"full": True}, {"state": "people.db"}, "listed in the delta"),
        ({"keys": ["id"]}, {"state": "people.db"}, "columns of a delta"),
        ({"segment": "a"}, {}, "only to a whole audience"),
        ({"max_removed": 0.5}, {}, "only to a whole audience"),
    ],
)
async def test_options_that_contradict(
    tmp_path: Path,
    client: UID2Client,
    options: dict[str, Any],
    more: dict[str, str],
    words: str,
) -> None:
    """They are refused before anything is done."""
    (tmp_path / "in.csv").write_text("mail\n")
    named = {name: tmp_path / value for name, value in more.items()}

    with pytest.raises(ConfigError, match=words):
        await map_file(
            tmp_path / "in.csv",
            tmp_path / "out.csv",
            client=client,
            options=MapOptions(**options),
            **named,  # type: ignore[arg-type] # the test's own arguments
        )

    assert visible(tmp_path) == ["in.csv"]


async def test_a_parquet_column_of_numbers(tmp_path: Path, client: UID2Client) -> None:
    """A phone that is a number has lost its plus: it is refused, with what to do."""
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"tel": pa.array([491234567890])}), source)
    options = MapOptions(column="tel", type="phone")

    with pytest.raises(InputError, match=r"(?s)not text, but int64.*string"):
        await map_file(source, tmp_path / "out.parquet", client=client, options=options)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100)])
async def test_what_is_no_parquet(
    tmp_path: Path, client: UID2Client, data: bytes
) -> None:
    """A file that is cut, or something else, is named."""
    source = tmp_path / "in.parquet"
    source.write_bytes(data)

    with pytest.raises(InputError, match="cannot be read as Parquet"):
        await map_file(source, tmp_path / "out.parquet", client=client, options=MAIL)


async def test_a_symbolic_link_is_not_written_through(
    tmp_path: Path, client: UID2Client
) -> None:
    """Somebody else may have laid it."""
    (tmp_path / "in.csv").write_text("mail\n")
    (tmp_path / "out.csv").symlink_to(tmp_path / "elsewhere.csv")

    with pytest.raises(InputError, match="symbolic link"):
        await map_file(
            tmp_path / "in.csv", tmp_path / "out.csv", client=client, options=MAIL
        )


async def test_a_folder_where_others_can_exchange_files(
    tmp_path: Path, client: UID2Client
) -> None:
    """A job does not write there."""
    (tmp_path / "in.csv").write_text("mail\n")
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(JobError):
        await map_file(
            tmp_path / "in.csv", folder / "out.csv", client=client, options=MAIL
        )


# --- interrupted ----------------------------------------------------------------------


def rejected_after(
    calls: int, operator: LocalOperator, client: UID2Client
) -> UID2Client:
    """Make a client whose key is rejected after some calls."""
    finished = 0

    def notice(event: Event) -> None:
        nonlocal finished
        finished += isinstance(event, CallFinished)
        if isinstance(event, CallFinished) and finished == calls:
            operator.fail_next(Fault(status=401, body=b"{}"), times=2)

    return client.with_options(hooks=[notice])


async def test_going_on(
    tmp_path: Path, operator: LocalOperator, client: UID2Client
) -> None:
    """A job that ended too early does not do again what it has done."""
    source, target, whole = (tmp_path / f"{one}.csv" for one in ("in", "out", "whole"))
    source.write_text("mail\n" + "".join(f"p{n}@example.com\n" for n in range(9_000)))
    await map_file(source, whole, client=client, options=MAIL)
    operator.reset()
    options = attrs.evolve(MAIL, batch_size=300, concurrency=1)
    short = rejected_after(20, operator, client)

    with pytest.raises(AuthError):
        await map_file(source, target, client=short, options=options)
    sent = len(operator.calls)
    assert left_over(tmp_path) == [".out.csv.uid2-job"]
    assert not target.exists()
    summary = await map_file(source, target, client=client, options=options)

    assert target.read_bytes() == whole.read_bytes()
    # The last two are the refusal over a kept connection, and over a fresh one.
    assert sent == 22
    # Twenty full batches, then ten; on a slow disk, some are sent before they are full.
    assert 5_000 <= summary.resumed_rows <= 6_000
    assert 10 <= summary.requests < 15
    assert left_over(tmp_path) == []


async def test_another_job_is_not_gone_on_with(
    tmp_path: Path, operator: LocalOperator, client: UID2Client
) -> None:
    """A change is rejected with the reason; --restart starts over."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    people = "".join(f"p{n}@example.com\n" for n in range(9_000))
    source.write_text(f"mail\n{people}")
    options = attrs.evolve(MAIL, batch_size=300, concurrency=1)
    short = rejected_after(20, operator, client)
    with pytest.raises(AuthError):
        await map_file(source, target, client=short, options=options)

    snake = attrs.evolve(options, names="snake")
    with pytest.raises(JobError, match=r"(?s)option names.*`restart=True`"):
        await map_file(source, target, client=client, options=snake)
    source.write_text(f"mail\n{people}new@example.com\n")
    with pytest.raises(JobError, match=r"(?s)to map it: size.*`restart=True`"):
        await map_file(source, target, client=client, options=options)
    again = attrs.evolve(MAIL, restart=True)
    summary = await map_file(source, target, client=client, options=again)

    assert (summary.rows, summary.resumed_rows) == (9_001, 0)


@pytest.mark.parametrize("kind", [MapOptions, StatusOptions])
def test_what_decides_about_the_output_is_fixed(kind: type[FileJobOptions]) -> None:
    """How a job sends may change on resume; every other option is part of the job."""
    free = {option.name for option in attrs.fields(JobOptions)}
    free |= {"job_dir", "restart", "precheck", "max_removed"}

    fixed = {option.name for option in attrs.fields(kind)} - free
    assert set(kind().terms()) == fixed
    assert kind(bad_rows=Path("bad.csv")).terms()["bad_rows"] == "bad.csv"


async def test_options_of_several_names(tmp_path: Path, client: UID2Client) -> None:
    """Any mapping and sequence will do; they are saved with the job."""
    source = tmp_path / "in.csv"
    source.write_text("id,mail\n1,p@example.com\n")
    names = MappingProxyType({"email": "mail"})
    options = MapOptions(identifiers=names, keys=deque(["id"]))

    summary = await map_file(
        source,
        tmp_path / "out.csv",
        client=client,
        options=options,
        state=tmp_path / "people.db",
        delta=tmp_path / "delta.csv",
    )

    assert summary.mapped == summary.changes == 1


OPTIONS: list[tuple[type[Any], dict[str, Any]]] = [
    (MapOptions, {}),
    (StatusOptions, {}),
    (RefreshOptions, {}),
    (Query, {"uri": "postgresql://host", "sql": "SELECT 1"}),
    (Table, {"uri": "postgresql://host", "table": "mapped"}),
    (RetryPolicy, {}),
]


@pytest.mark.parametrize(
    ("kind", "valid", "name"),
    [
        pytest.param(kind, valid, option.alias, id=f"{kind.__name__}-{option.alias}")
        for kind, valid in OPTIONS
        for option in attrs.fields(kind)
        # Their types are loaded only by calls.
        if (kind, option.alias) not in {(RetryPolicy, "stop"), (RetryPolicy, "wait")}
    ],
)
def test_each_option_rejects_a_value_of_another_type(
    kind: type[Any], valid: dict[str, Any], name: str
) -> None:
    """The error names the option, and comes before anything uses the value."""
    with pytest.raises(ConfigError, match=name):
        kind(**{**valid, name: object()})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"names": "Snake"}, "names must be one of upper, snake"),
        ({"api": "v4"}, "api must be one of v3, v2"),
        ({"refresh_from": "ms"}, "refresh_from must be one of epoch, iso"),
        ({"optout_rule": None}, "optout_rule must be one of any, each"),
        ({"format": "xml"}, "format must be one of csv, jsonl, parquet, arrow"),
        ({"concurrency": 2.5}, "concurrency must be int"),
        ({"batch_size": True}, "batch_size must be int"),
        ({"stall_timeout": "5"}, "stall_timeout must be float"),
        ({"force": "no"}, "force must be bool"),
        ({"identifiers": {"email": ["mail"]}}, "identifiers must be Mapping"),
        ({"keys": "id"}, "keys must be Sequence"),
        ({"keys": [1]}, "keys must be Sequence"),
    ],
)
def test_wrong_options_are_named(option: dict[str, Any], words: str) -> None:
    """The values of an enumeration are listed, and elements are checked."""
    with pytest.raises(ConfigError, match=words):
        MapOptions(**option)


def test_numbers_of_a_job_are_positive() -> None:
    """The message names the option."""
    for name in ("batch_size", "concurrency", "dedupe_window", "stall_timeout"):
        with pytest.raises(ConfigError, match=f"{name} must be greater than zero"):
            MapOptions(**{name: 0})
    with pytest.raises(ConfigError, match="stall_timeout must be greater than zero"):
        MapOptions(stall_timeout=math.nan)
    with pytest.raises(ConfigError, match="concurrency must be at most 10000"):
        MapOptions(concurrency=10**20)


@pytest.mark.parametrize("with_state", [False, True])
async def test_what_looks_wrong_in_an_input(
    tmp_path: Path, client: UID2Client, with_state: bool
) -> None:
    """A job counts what an estimate does, over all of its runs, in the same pass."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    nothing = sha256(b"").hexdigest()
    people = [f"p{number}@example.com," for number in range(3_000)]
    people[5] = f"jane@example.com\u200b,{nothing}"
    people[6] = "Joe <joe@example.com>,tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf_F5HVRQ="
    people[-1] = "jim@example.com.,"
    source.write_text("\n".join(["mail,hash", *people, ""]))
    options = MapOptions(
        identifiers={"email": "mail", "email_hash": "hash"},
        batch_size=100,
        concurrency=1,
    )
    job = partial(
        map_file,
        source,
        target,
        client=client,
        options=options,
        state=tmp_path / "people.db" if with_state else None,
    )
    stop = asyncio.Event()

    first = await job(stop=stop, on_progress=lambda _: stop.set())
    summary = await job()

    assert not first.complete
    assert summary.input_warnings == {
        "email with an invisible character": 1,
        "email with more than an address": 1,
        "email with a dot at the end": 1,
        str(HashSpelling.EMPTY_HASHED): 1,
        str(HashSpelling.BASE64URL): 1,
    }
    estimate = estimate_file(source, options=options)
    assert summary.input_warnings == estimate.input_warnings


async def test_an_orderly_end(tmp_path: Path, client: UID2Client) -> None:
    """What has been read is finished and saved; the next call does the rest."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("mail\n" + "".join(f"p{n}@example.com\n" for n in range(9_000)))
    stop = asyncio.Event()
    options = attrs.evolve(MAIL, batch_size=100, concurrency=1)

    first = await map_file(
        source,
        target,
        client=client,
        options=options,
        stop=stop,
        on_progress=lambda _: stop.set(),
    )
    assert not first.complete
    assert not target.exists()
    second = await map_file(source, target, client=client, options=options)

    assert second.complete
    assert second.resumed_rows == first.rows < 9_000
    assert second.rows == 9_000
    assert first.requests + second.requests == 90


def test_an_estimate_finds_the_same_columns(tmp_path: Path) -> None:
    """All options that name columns, such as that of the types, apply to it too."""
    source = tmp_path / "in.csv"
    source.write_text("who,what\na@example.com,email\n+12345678901,phone\n")
    options = MapOptions(column="who", type_column="what")

    assert estimate_file(source, options=options).identifiers == 2


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_an_estimate_of_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It reads each format that a job reads from there."""
    source = tmp_path / "in"
    if name == "csv":
        source.write_text("mail\na@example.com\n")
    else:
        pq.write_table(pa.table({"mail": ["a@example.com"]}), source)
    options = MapOptions(column="mail", type="email", format=Format(name))

    with source.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = estimate_file("-", options=options)

    assert (found.rows, found.unique) == (1, 1)
