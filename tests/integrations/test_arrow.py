"""Record batches in, the same batches with raw UIDs out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uid2_async import BulkMapper, MappedUID, UID2Client
from uid2_async.errors import AuthError, InputError
from uid2_async.integrations.arrow import map_batches
from uid2_async.operator import Fault, LocalOperator

pa: Any = pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]
ADDED = ["UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED", "ERROR"]


@pytest.fixture
async def mapper(operator: LocalOperator) -> AsyncIterator[BulkMapper]:
    """Give a mapper whose client goes by the operator's clock."""
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        clock=lambda: operator.now,
    ) as client:
        yield BulkMapper(client)


def mails(start: int, count: int) -> Any:
    """Make a batch of email addresses."""
    numbers = range(start, start + count)
    values = [f"person{n}@example.com" for n in numbers]
    return pa.record_batch(
        {"n": pa.array(numbers, pa.int64()), "mail": pa.array(values, pa.string())}
    )


async def run(batches: Any, mapper: BulkMapper, **options: Any) -> list[Any]:
    """Map all batches."""
    return [one async for one in map_batches(batches, mapper=mapper, **options)]


async def test_batches_keep_their_rows_and_columns(mapper: BulkMapper) -> None:
    """One comes out for each that goes in, empty and tiny ones too, in order."""
    sizes = [0, 1, 2_500, 0, 3, 0, 0]
    batches = [mails(10_000 * at, size) for at, size in enumerate(sizes)]

    found = await run(batches, mapper, column="mail", type="email")

    assert [one.num_rows for one in found] == sizes
    for before, after in zip(batches, found, strict=True):
        assert after.select(["n", "mail"]).equals(before)
        assert after.schema.names == ["n", "mail", *ADDED]
        assert after["UID"].null_count == 0
        after.validate(full=True)
    assert len({one.schema for one in found}) == 1


class Frame:
    """A data frame as its libraries export it: nothing but the Arrow interface."""

    def __init__(self, table: Any) -> None:
        """Hold *table*."""
        self._table = table

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns, as pandas and polars do."""
        return iter(self._table.column_names)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the rows."""
        return self._table.__arrow_c_stream__(requested_schema)


def stream(batches: list[Any]) -> AsyncIterator[Any]:
    """Give batches as an async iterable."""

    async def give() -> AsyncIterator[Any]:
        for one in batches:
            yield one

    return give()


@pytest.mark.parametrize(
    "make",
    [
        pa.Table.from_batches,
        lambda batches: pa.RecordBatchReader.from_batches(batches[0].schema, batches),
        lambda batches: Frame(pa.Table.from_batches(batches)),
        pa.concat_batches,
        stream,
        iter,
        list,
    ],
    ids=["table", "reader", "frame", "batch", "async", "iterator", "list"],
)
async def test_every_source_of_batches(
    mapper: BulkMapper, make: Callable[[list[Any]], Any]
) -> None:
    """Tables, readers and frames are mapped as iterables of batches are."""
    batches = [mails(0, 3), mails(3, 2)]

    found = await run(make(batches), mapper, column="mail", type="email")

    assert (
        pa.Table.from_batches(found)
        .select(["n", "mail"])
        .equals(pa.Table.from_batches(batches))
    )
    assert all(one["UID"].null_count == 0 for one in found)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (None, "NoneType"),
        (pa.chunked_array([["person@example.com"]]), "ChunkedArray"),
        (5, "int"),
        ("person@example.com", "str"),
        ({"mail": ["person@example.com"]}, "str"),
        ([pa.table({"mail": ["person@example.com"]})], "Table"),
        ([{"mail": "person@example.com"}], "dict"),
    ],
)
async def test_other_sources_are_refused(
    mapper: BulkMapper, source: Any, kind: str
) -> None:
    """The error names the type, says what to pass, and holds no value."""
    sources = [source, stream(source)] if isinstance(source, list) else [source]
    for one in sources:
        with pytest.raises(InputError, match=rf"not {kind}\.") as caught:
            await run(one, mapper, column="mail", type="email")

        assert "Pass a pyarrow.Table" in caught.value.hint
        assert "@" not in str(caught.value)


async def test_the_columns_say_what_a_call_says(
    operator: LocalOperator, mapper: BulkMapper
) -> None:
    """UID, the one before, and when to ask again as an instant in UTC."""
    operator.opt_out("out@example.com")
    values = ["a@example.com", "out@example.com", "nobody", None, "a@example.com"]

    (found,) = await run([pa.record_batch({"INPUT": values})], mapper, type="email")

    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
    ) as client:
        direct = (await client.map_identities(["a@example.com"]))[0]
    assert isinstance(direct, MappedUID)
    first, *_, last = found.select(ADDED).to_pylist()
    assert first == last
    assert first == {
        "UID": direct.raw_uid,
        "PREV_UID": direct.previous_raw_uid,
        "REFRESH_FROM": direct.refresh_from,
        "UNMAPPED": None,
        "ERROR": None,
    }
    assert found["UNMAPPED"].to_pylist()[1:4] == [
        "OPTOUT",
        "INVALID IDENTIFIER",
        "INVALID IDENTIFIER",
    ]
    assert found.schema.field("REFRESH_FROM").type == pa.timestamp("us", tz="UTC")
    assert found["REFRESH_FROM"][0].as_py() > datetime(2026, 1, 1, tzinfo=UTC)


async def test_the_contract_columns_are_found(mapper: BulkMapper) -> None:
    """In any letter case, with the type of each row; an unknown one is an answer."""
    batch = pa.record_batch(
        {
            "Input_Type": ["email", " PHONE", "cookie", None],
            "input": ["a@example.com", "+12345678901", "a@example.com", "b"],
        }
    )

    (found,) = await run([batch], mapper, names="snake")

    assert found.schema.names[2:] == [name.lower() for name in ADDED]
    assert found["unmapped"].to_pylist() == [None, None, *["INVALID INPUT TYPE"] * 2]
    assert found["uid"].null_count == 2


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary", "null"])
async def test_text_may_be_held_in_any_way(mapper: BulkMapper, kind: str) -> None:
    """Large, as views, as words of a dictionary; a column of nulls has no identity."""
    plain = pa.array(["a@example.com", None])
    column = {
        "large_string": lambda: plain.cast(pa.large_string()),
        "string_view": lambda: plain.cast(pa.string_view()),
        "dictionary": plain.dictionary_encode,
        "null": lambda: pa.nulls(2),
    }[kind]()

    (found,) = await run([pa.record_batch({"INPUT": column})], mapper, type="email")

    assert found["UID"].null_count == (2 if kind == "null" else 1)
    assert found.schema.field(0).type == column.type


async def test_nested_columns_and_metadata_pass_through(mapper: BulkMapper) -> None:
    """Nothing is known about them, and nothing is changed."""
    batch = pa.record_batch(
        {"INPUT": ["a@example.com"], "tags": [[{"k": 1}]], "raw": [b"\xff"]}
    ).replace_schema_metadata({"made": "by a test"})

    (found,) = await run([batch], mapper, type="email")

    assert found.select(batch.schema.names).equals(batch)
    assert found.schema.metadata == {b"made": b"by a test"}


async def test_what_failed_is_not_unmapped(
    operator: LocalOperator, mapper: BulkMapper
) -> None:
    """ERROR says what the operator answered; the other columns are null."""
    operator.fail_next(Fault(status=400, body="{}"))

    (found,) = await run([mails(0, 2)], mapper, column="mail", type="email")

    assert found["ERROR"].to_pylist() == ["BadRequestError 400"] * 2
    assert found["UNMAPPED"].null_count == found["UID"].null_count == 2


async def test_a_rejected_key_ends_the_stream(
    operator: LocalOperator, mapper: BulkMapper
) -> None:
    """It would meet all the other rows too."""
    operator.fail_next(Fault(status=401, body='{"status":"unauthorized"}'))

    with pytest.raises(AuthError):
        await run([mails(0, 2)], mapper, column="mail", type="email")


async def test_reading_stops_where_nobody_takes(
    operator: LocalOperator,
) -> None:
    """Memory is bounded by what is in flight, and closing leaves nothing running."""
    read = 0

    async def endless() -> AsyncIterator[Any]:
        nonlocal read
        while True:
            yield mails(read, 100)
            read += 100

    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
    ) as client:
        mapper = BulkMapper(client, batch_size=100, concurrency=2)
        mapped = map_batches(endless(), mapper=mapper, column="mail", type="email")
        async with aclosing(mapped):
            taken = [await anext(mapped) for _ in range(5)]

    assert sum(one.num_rows for one in taken) == 500
    # Six batches of 100 may be read and not taken, and one is in the reader's hand.
    assert read <= 500 + 600 + 200


async def test_it_tells_of_its_progress(operator: LocalOperator) -> None:
    """The mapper's on_progress is called as for any other stream."""
    told: list[int] = []
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
    ) as client:
        mapper = BulkMapper(client, on_progress=lambda one: told.append(one.mapped))
        await run([mails(0, 1_500)], mapper, column="mail", type="email")

    assert told == [500, 1_000, 1_500]


@pytest.mark.parametrize(
    ("batch", "options", "says"),
    [
        ({"a": ["x"]}, {"type": "email"}, "no column 'INPUT'"),
        ({"a": ["x"]}, {"column": "b", "type": "email"}, "no column 'b'"),
        ({"INPUT": ["x"]}, {}, "no column 'INPUT_TYPE'"),
        ({"input": ["x"], "Input": ["x"]}, {"type": "email"}, "2 columns 'INPUT'"),
        ({"INPUT": [12345678901]}, {"type": "phone"}, "is not text, but int64"),
        ({"INPUT": ["x"], "INPUT_TYPE": [1]}, {}, "'INPUT_TYPE' is not text"),
        ({"INPUT": ["x"], "uid": ["x"]}, {"type": "email"}, "already has"),
        ({"INPUT": ["x"]}, {"type": "e-mail"}, "type must be one of"),
        ({"INPUT": ["x"]}, {"type": "email", "names": "camel"}, "names must be"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    mapper: BulkMapper, batch: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    """Before anybody is asked about."""
    with pytest.raises(InputError, match=says):
        await run([pa.record_batch(batch)], mapper, **options)


async def test_bytes_that_are_no_text_are_not_shown(mapper: BulkMapper) -> None:
    """Arrow does not check what it is given, and its error would hold the value."""
    column = pa.array([b"a\xff@example.com"]).view(pa.string())

    with pytest.raises(InputError, match="not UTF-8") as caught:
        await run([pa.record_batch({"INPUT": column})], mapper, type="email")

    assert caught.value.__context__ is None


async def test_without_pyarrow_it_names_the_extra(
    mapper: BulkMapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is a command to run."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(InputError) as caught:
        await run([], mapper, column="mail", type="email")

    assert "uid2-async[arrow]" in caught.value.hint


def test_the_block_of_the_documentation_runs() -> None:
    """As it stands, with an operator of its own."""
    page = (ROOT / "docs" / "spark.md").read_text(encoding="utf-8")
    block = page.split("## Arrow")[1].split("```python\n")[1].split("```")[0]

    done = subprocess.run(  # noqa: S603 - our own documentation
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert "'UNMAPPED': 'OPTOUT'" in done.stdout
