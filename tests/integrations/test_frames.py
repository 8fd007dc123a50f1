"""A frame in, the same frame with columns of raw UIDs out."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import decimal
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from canaries import EMAIL, find_canaries, find_leaks
from uid2_async import MapOptions, UID2Client, map_file, map_frame
from uid2_async.bulk.options import FileProgress
from uid2_async.errors import AuthError, ConfigError, InputError
from uid2_async.operator import Fault, LocalOperator

pd: Any = pytest.importorskip("pandas")
pl: Any = pytest.importorskip("polars")
pa: Any = pytest.importorskip("pyarrow")
pc: Any = pytest.importorskip("pyarrow.compute")
pq: Any = pytest.importorskip("pyarrow.parquet")
np: Any = pytest.importorskip("numpy")
duckdb: Any = pytest.importorskip("duckdb")
pytest.importorskip("narwhals")

ADDED = ["UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED", "ERROR"]
MAILS = ["a@example.com", None, "optout@example.com", "nobody", ""]
UNMAPPED = [None, "INVALID IDENTIFIER", "OPTOUT", *["INVALID IDENTIFIER"] * 2]
TABLE = pa.table({"id": range(5), "mail": MAILS})


@pytest.fixture(scope="module")
def running() -> Iterator[LocalOperator]:
    """Run one operator for all: starting it takes longer than most of the tests."""
    with LocalOperator.in_thread() as operator:
        yield operator


@pytest.fixture
def operator(running: LocalOperator) -> LocalOperator:
    """Give the operator, which has forgotten the other tests."""
    running.reset()
    return running


@pytest.fixture
async def client(operator: LocalOperator) -> AsyncIterator[UID2Client]:
    """Give a client that goes by the operator's clock."""
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        clock=lambda: operator.now,
    ) as opened:
        yield opened


class Foreign:
    """A frame of a library that nobody knows, with the Arrow interface."""

    def __init__(self, table: Any) -> None:
        """Hold *table*."""
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the rows."""
        return self.table.__arrow_c_stream__(requested_schema)


class Convertible(Foreign):
    """The same, which can be made of Arrow as well."""

    @classmethod
    def from_arrow(cls, table: Any) -> Convertible:
        """Import the rows."""
        return cls(table)


MAKERS: dict[str, tuple[Callable[[Any], Any], type]] = {
    "pandas": (lambda table: table.to_pandas(), pd.DataFrame),
    "polars": (pl.from_arrow, pl.DataFrame),
    "polars lazy": (lambda table: pl.from_arrow(table).lazy(), pl.LazyFrame),
    "table": (lambda table: table, pa.Table),
    "batch": (lambda table: table.combine_chunks().to_batches()[0], pa.RecordBatch),
    "reader": (lambda table: table.to_reader(max_chunksize=2), pa.RecordBatchReader),
    "duckdb": (duckdb.from_arrow, duckdb.DuckDBPyRelation),
    "foreign": (Foreign, pa.Table),
    "convertible": (Convertible, Convertible),
}


def as_table(frame: Any) -> Any:
    """Read any frame."""
    if isinstance(frame, pd.DataFrame):
        return pa.Table.from_pandas(frame, preserve_index=False)
    frame = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    return pa.RecordBatchReader.from_stream(frame).read_all()


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("rows", [5, 0])
async def test_every_library_gets_its_own_kind_back(
    client: UID2Client, library: str, rows: int
) -> None:
    """The same columns and rows, then the new columns; a frame may be empty."""
    if library == "batch" and not rows:
        frame, kind = pa.RecordBatch.from_pylist([], TABLE.schema), pa.RecordBatch
    else:
        make, kind = MAKERS[library]
        frame = make(TABLE.slice(0, rows))

    out = await map_frame(frame, email="mail", client=client)

    assert type(out) is kind
    found = as_table(out)
    assert found.column_names == ["id", "mail", *ADDED]
    assert found["id"].to_pylist() == list(range(rows))
    assert [one or None for one in found["mail"].to_pylist()] == [
        one or None for one in MAILS[:rows]
    ]
    assert found["UNMAPPED"].to_pylist() == UNMAPPED[:rows]
    assert found["UID"].null_count == max(rows - 1, 0)
    assert found["ERROR"].null_count == rows
    due = found.schema.field("REFRESH_FROM").type
    assert (due.unit, pa.types.is_timestamp(due)) == ("us", True)
    assert due.tz is not None


MISSING = [None, float("nan"), pd.NA, pd.NaT]
TEXTS: dict[str, Callable[[], Any]] = {
    "object": lambda: pd.Series(MAILS, dtype=object),
    "mixed nulls": lambda: pd.Series([MAILS[0], *MISSING], dtype=object),
    "string": lambda: pd.Series(MAILS, dtype="string[python]"),
    "string of Arrow": lambda: pd.Series(MAILS, dtype="string[pyarrow]"),
    "inferred": lambda: pd.Series(MAILS),
    "Arrow": lambda: pd.Series(MAILS, dtype=pd.ArrowDtype(pa.string())),
    "large": lambda: pd.Series(MAILS, dtype=pd.ArrowDtype(pa.large_string())),
    "categories": lambda: pd.Series(MAILS, dtype="category"),
    "polars": lambda: pl.Series(MAILS),
    "polars categories": lambda: pl.Series(MAILS, dtype=pl.Categorical),
    "polars enum": lambda: pl.Series(
        MAILS, dtype=pl.Enum([one for one in MAILS if one is not None])
    ),
    "view": lambda: pa.array(MAILS, pa.string_view()),
    "dictionary": lambda: pa.array(MAILS).dictionary_encode(),
}


def frame_of(values: Any) -> Any:
    """Make a frame with one column."""
    if isinstance(values, pd.Series):
        return pd.DataFrame({"mail": values})
    if isinstance(values, pl.Series):
        return pl.DataFrame({"mail": values})
    return pa.table({"mail": values})


@pytest.mark.parametrize("kind", TEXTS)
async def test_text_may_be_held_in_any_way(client: UID2Client, kind: str) -> None:
    """Whatever the type of the strings and of what is missing, which is kept."""
    frame = frame_of(TEXTS[kind]())

    out = await map_frame(frame, email="mail", client=client)

    added = out if isinstance(out, pa.Table) else out[["UNMAPPED"]]
    first, *rest = as_table(added)["UNMAPPED"].to_pylist()
    assert first is None
    assert rest == UNMAPPED[1:] if kind != "mixed nulls" else [UNMAPPED[1]] * 4
    if isinstance(frame, pd.DataFrame):
        pd.testing.assert_frame_equal(out[["mail"]], frame)
    elif isinstance(frame, pl.DataFrame):
        assert out.select("mail").equals(frame)
        assert out.schema["mail"] == frame.schema["mail"]
    else:
        assert out.select(["mail"]).equals(frame)


@pytest.mark.parametrize("missing", [[None] * 3, [float("nan")] * 3, [pd.NA] * 3, []])
@pytest.mark.parametrize("kind", [None, object, "float64", "Int64", "datetime64[ns]"])
async def test_a_column_without_values_may_have_any_type(
    client: UID2Client, operator: LocalOperator, missing: list[Any], kind: Any
) -> None:
    """Pandas makes floats of a column in which all is missing; nobody is asked."""
    values = missing if kind in (None, object) else [None] * len(missing)
    frame = pd.DataFrame({"mail": pd.Series(values, dtype=kind)})

    out = await map_frame(frame, email="mail", client=client)

    assert list(out["UNMAPPED"]) == ["INVALID IDENTIFIER"] * len(missing)
    assert operator.calls == []


def pandas_columns() -> Any:
    """Make a frame with columns of many types."""
    zoned = pd.date_range("2026-01-01", periods=3, tz="Europe/Berlin")
    return pd.DataFrame(
        {
            "mail": ["a@example.com", None, "b@example.com"],
            "category": pd.Categorical(["x", None, "y"], ordered=True),
            "numbers": pd.Categorical([1, 2, 1]),
            "Int64": pd.array([1, None, 3], dtype="Int64"),
            "boolean": pd.array([True, None, False], dtype="boolean"),
            "float32": np.array([1, np.nan, 3], dtype="float32"),
            "zoned": zoned,
            "seconds": zoned.tz_localize(None).as_unit("s"),
            "timedelta": pd.to_timedelta([1, None, 3], unit="h"),
            "period": pd.period_range("2026", periods=3, freq="M"),
            "interval": pd.interval_range(0, 3),
            "sparse": pd.arrays.SparseArray([0, 0, 1]),
            "arrow": pd.array(
                [[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8()))
            ),
            "mixed": pd.Series([1, "x", object], dtype=object),
            "nested": [[1], {"k": 1}, ("t",)],
            "decimal": [decimal.Decimal("1.10"), None, decimal.Decimal(2)],
            "bytes": [b"\xff", None, b""],
            "surrogate": pd.Series(["\ud800", None, ""], dtype=object),
        }
    )


INDEXES: dict[str, Callable[[], Any]] = {
    "range": lambda: pd.RangeIndex(5, 11, 2),
    "repeated": lambda: pd.Index(["x", "x", None], name="UID"),
    "several": lambda: pd.MultiIndex.from_tuples(
        [(1, "a"), (1, "a"), (2, None)], names=["one", 2]
    ),
    "instants": lambda: pd.date_range("2026-01-01", periods=3, tz="UTC"),
    "categories": lambda: pd.CategoricalIndex(["q", "q", "r"]),
}


@pytest.mark.parametrize("index", INDEXES)
async def test_pandas_keeps_index_types_and_attributes(
    client: UID2Client, index: str
) -> None:
    """Of whatever kind they are; the frame that was passed stays as it is."""
    frame = pandas_columns().set_axis(INDEXES[index]())
    frame.attrs["made"] = "by a test"
    before = frame.copy(deep=True)

    out = await map_frame(frame, email="mail", client=client)

    assert list(out.columns) == [*before.columns, *ADDED]
    pd.testing.assert_frame_equal(out[list(before.columns)], before)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_index_equal(out.index, before.index)
    assert out.attrs == {"made": "by a test"}
    assert list(out["UID"].notna()) == [True, False, True]
    assert str(out["REFRESH_FROM"].dtype) == "datetime64[us, UTC]"


NA = pd.NA
LABELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "numbers": (lambda: pd.RangeIndex(2), 1),
    "mixed": (lambda: [dt.date(2026, 1, 1), 0], 0),
    "number and its text": (lambda: [0, "0"], "0"),
    "missing": (lambda: [NA, "mail"], "mail"),
    "repeated, not used": (lambda: ["id", "mail"], "mail"),
    "levels": (lambda: pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]), ("a", 2)),
    "instants": (lambda: pd.to_datetime(["2025", "2026"]), pd.Timestamp("2026")),
    "categories": (lambda: pd.CategoricalIndex(["id", "mail"]), "mail"),
    "letter case": (lambda: ["id", "Mail"], "mail"),
    "n-th": (lambda: ["mail", "mail"], "mail#2"),
}


@pytest.mark.parametrize("labels", LABELS)
async def test_columns_of_pandas_may_be_called_anything(
    client: UID2Client, labels: str
) -> None:
    """A column is found by its label, and the labels stay as they are."""
    make, wanted = LABELS[labels]
    frame = pd.DataFrame([[1, "a@example.com"], [2, None]])
    frame.columns = make()
    before = list(frame.columns)

    out = await map_frame(frame, email=wanted, client=client)

    assert list(out.columns)[:2] == before or labels == "missing"
    ends = [one[0] if isinstance(one, tuple) else one for one in out.columns[2:]]
    assert ends == ADDED
    assert list(out.iloc[:, 2].notna()) == [True, False]


async def test_polars_keeps_types(client: UID2Client) -> None:
    """Also those that Arrow or narwhals know nothing about."""
    frame = pl.DataFrame(
        {
            "mail": ["a@example.com", None],
            "categorical": pl.Series(["x", None], dtype=pl.Categorical),
            "enum": pl.Series(["x", None], dtype=pl.Enum(["x", "y"])),
            "list": [[1], None],
            "struct": [{"a": 1}, {"a": None}],
            "zoned": pl.Series(
                [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 2
            ).dt.convert_time_zone("Europe/Berlin"),
            "decimal": pl.Series([decimal.Decimal("1.10")] * 2),
            "int128": pl.Series([1, None], dtype=pl.Int128),
            "null": pl.Series([None, None], dtype=pl.Null),
            "binary": [b"\xff", None],
            "object": pl.Series([object(), object()], dtype=pl.Object),
        }
    )

    out = await map_frame(frame, email="mail", client=client)

    assert out.columns == [*frame.columns, *ADDED]
    for name, kind in frame.schema.items():
        assert out.schema[name] == kind
        assert out[name].to_list() == frame[name].to_list()
    assert out.schema["REFRESH_FROM"] == pl.Datetime("us", "UTC")


async def test_arrow_keeps_types_and_metadata(client: UID2Client) -> None:
    """Of a table and of a stream, whose dictionaries may change from batch to batch."""
    batches = [
        pa.record_batch(
            {
                "mail": [f"{word}@example.com"],
                "word": pa.array([word]).dictionary_encode(),
                "nested": [[{"k": [1]}]],
                "id": pa.array([uuid.UUID(int=1).bytes], pa.uuid()),
                "instant": pa.array([1], pa.timestamp("ns", tz="Europe/Berlin")),
            }
        ).replace_schema_metadata({"made": "by a test"})
        for word in ("a", "b")
    ]
    table = pa.Table.from_batches(batches)

    out = await map_frame(table, email="mail", client=client)
    stream = pa.RecordBatchReader.from_batches(table.schema, batches)
    streamed = await map_frame(stream, email="mail", client=client)

    assert out.schema.metadata == {b"made": b"by a test"}
    assert out.select(table.column_names).equals(table)
    read = streamed.read_all()
    assert read.schema == out.schema
    assert read.to_pylist() == out.to_pylist()


async def test_duckdb_keeps_types_and_its_connection(client: UID2Client) -> None:
    """Arrow knows fewer types; the result joins with other relations as before."""
    types = {
        "mail": "'a@example.com'",
        'a "b"': "1::HUGEINT",
        "id": "'00000000-0000-0000-0000-000000000001'::UUID",
        "price": "1.10::DECIMAL(9,2)",
        "word": "'x'::ENUM('x', 'y')",
        "wait": "INTERVAL 1 MONTH",
        "nested": "{'a': [1, 2]}",
        "zoned": "TIMESTAMPTZ '2026-01-01 00:00:00+01'",
        "exact": "TIMESTAMP_NS '2026-01-01 00:00:00.000000001'",
        "raw": r"'\xFF'::BLOB",
    }
    connection = duckdb.connect()
    columns = [
        f"""{sql} AS "{name.replace('"', '""')}\"""" for name, sql in types.items()
    ]
    connection.sql(f"CREATE TABLE people AS SELECT {', '.join(columns)}")
    people = connection.table("people")

    out = await map_frame(people, email="mail", client=client)

    assert out.columns == [*people.columns, *ADDED]
    assert out.types[: len(types)] == people.types
    assert out.fetchall()[0][: len(types)] == people.fetchall()[0]
    joined = out.set_alias("o").join(people.set_alias("p"), "o.mail = p.mail")
    assert len(joined.fetchall()) == 1
    assert connection.sql("SHOW TABLES").fetchall() == [("people",)]


PERSON = f"SELECT 7 AS id, '{EMAIL}' AS mail"


async def test_duckdb_finds_only_the_result(client: UID2Client) -> None:
    """Whatever the tables, views and columns of the database are called."""
    connection = duckdb.connect()
    connection.execute("CREATE TABLE _uid2_mapped AS SELECT 1 AS c0, 'x' AS c1")
    connection.execute("CREATE VIEW _uid2_input AS SELECT 42")
    tables = connection.sql("SHOW TABLES").fetchall()
    people = connection.sql(f"SELECT 1 AS a, 2 AS \"A\", 3 AS a, '{EMAIL}' AS mail")

    out = await map_frame(people, email="mail", client=client)

    assert out.columns[:4] == people.columns
    assert out.fetchall()[0][:4] == people.fetchall()[0]
    assert connection.sql("SHOW TABLES").fetchall() == tables


@pytest.mark.parametrize(
    "setting", ["python_enable_replacements", "enable_external_access"]
)
async def test_duckdb_that_hides_variables_is_refused(
    client: UID2Client, operator: LocalOperator, setting: str
) -> None:
    """Such a connection could not return the answers, so nobody is asked."""
    connection = duckdb.connect()
    connection.execute(f"SET {setting} = false")

    with pytest.raises(InputError, match="returned as a relation") as caught:
        await map_frame(connection.sql(PERSON), email="mail", client=client)

    assert setting in (caught.value.hint or "")
    assert operator.calls == []


@pytest.mark.parametrize(
    "value",
    [
        "'10:00:00+02'::TIMETZ",
        "'10101'::BIT",
        "340282366920938463463374607431768211455::UHUGEINT",
        "[{'a': MAP {'b': '1'::BIT}}]",
    ],
)
async def test_duckdb_values_that_arrow_changes_are_refused(
    client: UID2Client, operator: LocalOperator, value: str
) -> None:
    """At any depth, before anybody is asked."""
    people = duckdb.connect().sql(f"{PERSON}, {value} AS x")

    with pytest.raises(InputError, match="'x' has the type") as caught:
        await map_frame(people, email="mail", client=client)

    assert "VARCHAR" in (caught.value.hint or "")
    assert operator.calls == []


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.close(),
        lambda connection: connection.execute("DROP TABLE people"),
    ],
)
async def test_duckdb_relations_that_cannot_be_read_are_refused(
    client: UID2Client, end: Callable[[Any], object]
) -> None:
    """With an error of ours, and a hint that applies to DuckDB."""
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE people AS {PERSON}")
    people = connection.table("people")
    end(connection)

    with pytest.raises(InputError, match="cannot be converted") as caught:
        await map_frame(people, email="mail", client=client)

    assert "DuckDB" in (caught.value.hint or "")


ROWS: dict[str, list[Any]] = {
    "id": list(range(6)),
    "mail": ["a@example.com", None, "optout@example.com", "", "nobody", None],
    "tel": ["+12345678901", "+12345678902", "+12345678903", None, None, None],
    "national": ["030 123456", "", "0301234567", None, "1", "030 123456"],
    "land": ["DE", "DE", "de", None, "DE", "US"],
    "INPUT": ["a@example.com", "+12345678901", "x", None, "", "b@example.com"],
    "INPUT_TYPE": ["email", " PHONE", "cookie", None, "phone", "email"],
}
OPTIONS: dict[str, tuple[dict[str, Any], MapOptions]] = {
    "contract columns": ({}, MapOptions()),
    "column and type": ({"column": "INPUT", "type_column": "INPUT_TYPE"}, MapOptions()),
    "several": (
        {"email": "mail", "phone": "tel"},
        MapOptions(identifiers={"email": "mail", "phone": "tel"}),
    ),
    "each": (
        {"email": "mail", "phone": "tel", "options": MapOptions(optout_rule="each")},
        MapOptions(identifiers={"email": "mail", "phone": "tel"}, optout_rule="each"),
    ),
    "explode": (
        {"email": "mail", "phone": "tel", "options": MapOptions(explode=True)},
        MapOptions(identifiers={"email": "mail", "phone": "tel"}, explode=True),
    ),
    "v2, snake": (
        {"email": "mail", "options": MapOptions(api="v2", names="snake")},
        MapOptions(column="mail", type="email", api="v2", names="snake"),
    ),
    "epoch": (
        {"email": "mail", "options": MapOptions(refresh_from="epoch")},
        MapOptions(column="mail", type="email", refresh_from="epoch"),
    ),
    "country": (
        {"phone": "national", "country": "DE"},
        MapOptions(column="national", type="phone", country="DE"),
    ),
    "country column": (
        {"phone": "national", "country_column": "land"},
        MapOptions(column="national", type="phone", country_column="land"),
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
async def test_a_frame_is_mapped_as_its_file_would_be(
    client: UID2Client, operator: LocalOperator, tmp_path: Path, options: str
) -> None:
    """With each of the options, and with each kind of frame."""
    named, file_options = OPTIONS[options]
    if "country" in options:
        pytest.importorskip("phonenumbers")
    table = pa.table(ROWS)
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(table, source)
    await map_file(source, target, client=client, options=file_options)
    expected = pq.read_table(target)

    for library in ("table", "pandas", "polars", "reader"):
        out = await map_frame(MAKERS[library][0](table), client=client, **named)

        found = as_table(out)
        assert found.column_names == expected.column_names
        assert found.to_pylist() == expected.to_pylist(), library


async def test_exploded_rows_repeat_their_index(client: UID2Client) -> None:
    """Each identifier has a row of its own, over more than one chunk."""
    frame = pd.DataFrame(
        {"mail": ["a@example.com"] * 700, "tel": ["+12345678901"] * 700}
    )
    options = MapOptions(explode=True)

    out = await map_frame(
        frame, email="mail", phone="tel", client=client, options=options
    )

    assert list(out.index) == [at for at in range(700) for _ in range(2)]
    assert list(out["MATCHED_TYPE"]) == ["email", "phone"] * 700


VIEWS = {
    "text": pa.array(["a", None], pa.string_view()),
    "bytes": pa.array([b"a", None], pa.binary_view()),
    "runs": pc.run_end_encode(pa.array(["a", None])),
}
CONTACTS = pa.table({"mail": ["a@example.com"] * 2, "tel": ["+12345678901"] * 2})
BOTH: dict[str, Any] = {
    "email": "mail",
    "phone": "tel",
    "options": MapOptions(explode=True),
}


@pytest.mark.parametrize("kind", ["table", "batch", "reader"])
async def test_exploded_rows_repeat_values_of_any_type(
    client: UID2Client, kind: str
) -> None:
    """Also those that Arrow cannot repeat itself. Types are kept."""
    table = CONTACTS
    for name, column in VIEWS.items():
        table = table.append_column(name, column)
    make, expected = MAKERS[kind]

    out = await map_frame(make(table), client=client, **BOTH)

    assert isinstance(out, expected)
    exploded = as_table(out).select(table.column_names)
    assert exploded.schema.types == table.schema.types
    rows = table.to_pylist()
    assert exploded.to_pylist() == [row for row in rows for _ in range(2)]


@pytest.mark.parametrize("kind", ["pandas", "table", "batch", "reader"])
async def test_rows_that_cannot_be_repeated_are_refused(
    client: UID2Client, operator: LocalOperator, kind: str
) -> None:
    """Before anybody is asked."""
    views = pa.array([["a"], None], pa.list_(pa.string_view()))
    table = CONTACTS.append_column("views", views)
    frame = (
        table.to_pandas(types_mapper=pd.ArrowDtype)
        if kind == "pandas"
        else MAKERS[kind][0](table)
    )

    with pytest.raises(InputError, match=r"cannot be (returned|written)"):
        await map_frame(frame, client=client, **BOTH)

    assert operator.calls == []


@pytest.mark.parametrize("library", ["pandas", "polars lazy", "reader"])
async def test_a_state_remembers(
    client: UID2Client, operator: LocalOperator, tmp_path: Path, library: str
) -> None:
    """Only what is new is asked about, and the delta says what has changed."""
    make, _ = MAKERS[library]
    state, delta = tmp_path / "state.db", tmp_path / "delta.csv"
    more = pa.table({"id": [7, 8], "mail": ["new@example.com", "a@example.com"]})

    async def run(table: Any) -> tuple[Any, int, list[tuple[str, str]]]:
        before = sum(call.items for call in operator.calls)
        out = await map_frame(
            make(table),
            email="mail",
            client=client,
            state=state,
            delta=delta,
            options=MapOptions(keys=["id"], force=True),
        )
        with delta.open(encoding="utf-8", newline="") as file:
            changes = [(row["CHANGE"], row["id"]) for row in csv.DictReader(file)]
        asked = sum(call.items for call in operator.calls) - before
        return as_table(out), asked, changes

    first, asked, changes = await run(TABLE)
    assert (asked, changes) == (2, [("ADDED", "0")])
    again, asked, changes = await run(TABLE)
    assert (asked, changes) == (0, [])
    assert again.to_pylist() == first.to_pylist()
    _, asked, changes = await run(more)
    assert (asked, changes) == (1, [("ADDED", "7")])


async def test_a_delta_needs_a_state_and_is_not_overwritten(
    client: UID2Client, tmp_path: Path
) -> None:
    """As with files."""
    frame, delta = TABLE.to_pandas(), tmp_path / "delta.csv"
    with pytest.raises(ConfigError, match="delta"):
        await map_frame(frame, email="mail", client=client, delta=delta)
    delta.write_text("yours")

    with pytest.raises(InputError, match=r"delta\.csv"):
        await map_frame(
            frame, email="mail", client=client, delta=delta, state=tmp_path / "s.db"
        )

    assert delta.read_text() == "yours"


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (pd.DataFrame({"a": ["x"]}), {"email": "mail"}, "no column 'mail'.*are: 'a'"),
    (pd.DataFrame({"a": ["x"]}), {}, "no column 'INPUT'"),
    (pd.DataFrame({"INPUT": ["x"]}), {}, "no column 'INPUT_TYPE'"),
    (pd.DataFrame(), {"email": "mail"}, "has no columns"),
    (pd.DataFrame({"a": [12345678901]}), {"phone": "a"}, "'a' is not text, but int64"),
    (pd.DataFrame({"a": [1.5, None]}), {"phone": "a"}, "'a' is not text, but double"),
    (pd.DataFrame({"a": [b"x"]}), {"phone": "a"}, "'a' is not text, but binary"),
    (pd.DataFrame({"a": pd.Categorical([1])}), {"phone": "a"}, "not text, but int64"),
    (
        pd.DataFrame({"a": [EMAIL, 5]}),
        {"email": "a"},
        "Row 1 of .*'a' is not text, but int",
    ),
    (pd.DataFrame({"a": [EMAIL, b"x"]}), {"email": "a"}, "'a' is not text"),
    (
        pd.DataFrame({"a": pd.Series([EMAIL, "\ud800"], dtype=object)}),
        {"email": "a"},
        "Row 1 of the column 'a' is not valid Unicode",
    ),
    (
        pd.DataFrame(
            {"a": pd.Series([EMAIL] * 10_001 + [b"x"], dtype=object).iloc[1:]}
        ),
        {"email": "a"},
        "'a' (has|is not text)",
    ),
    (pd.DataFrame([["x", "y"]], columns=["a", "a"]), {"email": "a"}, "2 columns 'a'"),
    (pd.DataFrame({"a": ["x"], "uid": [1]}), {"email": "a"}, "already has .*'uid'"),
    (pl.DataFrame({"a": ["x"], "ERROR": [1]}), {"email": "a"}, "already has .*'ERROR'"),
    (pl.DataFrame({"a": [1]}), {"email": "a"}, "'a' is not text, but int64"),
    (
        pl.DataFrame({"a": [object()]}),
        {"email": "a"},
        "'a' cannot be converted|not text",
    ),
    (
        pl.LazyFrame({"a": [EMAIL]}).select(pl.col("a").cast(pl.Int64)),
        {"email": "a"},
        "The frame cannot be converted",
    ),
    (
        duckdb.connect().sql(f"SELECT CAST('{EMAIL}' AS INTEGER) AS a"),
        {"email": "a"},
        "The frame cannot be converted",
    ),
    (pa.table({"a": [[EMAIL]]}), {"email": "a"}, "'a' is not text, but list"),
    (
        pa.table({"a": pa.array([EMAIL.encode() + b"\xff"]).view(pa.string())}),
        {"email": "a"},
        "cannot be read",
    ),
    (pd.Series([EMAIL]), {"email": "a"}, "not Series"),
    (pl.Series([EMAIL]), {"email": "a"}, "not Series"),
    ([{"a": EMAIL}], {"email": "a"}, "not list"),
    ({"a": [EMAIL]}, {"email": "a"}, "not dict"),
    (None, {"email": "a"}, "not NoneType"),
]


@pytest.mark.parametrize(("frame", "named", "says"), WRONG)
async def test_what_cannot_be_mapped_is_refused(
    client: UID2Client,
    operator: LocalOperator,
    frame: Any,
    named: dict[str, Any],
    says: str,
) -> None:
    """Before anybody is asked about, and without showing a value."""
    with pytest.raises(InputError, match=says) as caught:
        await map_frame(frame, client=client, **named)

    assert operator.calls == []
    assert find_leaks(caught.value) == []
    assert find_canaries(f"{caught.value} {caught.value.hint}") == []


@pytest.mark.parametrize(
    "named",
    [
        {"email": "mail", "column": "mail"},
        {"email": "mail", "type_column": "mail"},
        {"email": "mail", "country": "DE"},
    ],
)
async def test_contradictions_are_refused(
    client: UID2Client, named: dict[str, Any]
) -> None:
    """As MapOptions does."""
    with pytest.raises(ConfigError):
        await map_frame(TABLE, client=client, **named)


async def test_a_source_that_fails_shows_nothing(client: UID2Client) -> None:
    """What the caller's own generator raises may hold a row."""

    def batches() -> Iterator[Any]:
        yield TABLE.to_batches()[0]
        raise ValueError(EMAIL)

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())

    with pytest.raises(InputError) as caught:
        await map_frame(reader, email="mail", client=client)

    assert find_leaks(caught.value) == []


async def test_what_failed_is_not_unmapped(
    operator: LocalOperator, client: UID2Client
) -> None:
    """ERROR says why; a rejected key ends the call."""
    operator.fail_next(Fault(status=400, body="{}"))
    out = await map_frame(TABLE.to_pandas(), email="mail", client=client)
    operator.fail_next(Fault(status=401, body='{"status":"unauthorized"}'))

    assert out["ERROR"][0] == "BadRequestError 400"
    assert out["UNMAPPED"].notna().tolist() == [False, True, False, True, True]
    with pytest.raises(AuthError):
        await map_frame(TABLE.to_pandas(), email="mail", client=client)


async def test_a_stream_is_read_as_fast_as_it_is_answered(
    operator: LocalOperator, client: UID2Client
) -> None:
    """Neither the input nor the result has to fit into memory."""
    ahead = []

    def batches() -> Iterator[Any]:
        for at in range(40):
            answered = sum(call.items for call in operator.calls)
            ahead.append(100 * at - answered)
            mails = [f"p{at}.{n}@example.com" for n in range(100)]
            yield pa.record_batch({"mail": mails})

    schema = pa.schema({"mail": pa.string()})
    reader = pa.RecordBatchReader.from_batches(schema, batches())

    out = await map_frame(
        reader,
        email="mail",
        client=client,
        options=MapOptions(batch_size=100, concurrency=2),
    )

    assert sum(batch.num_rows for batch in out) == 4_000
    assert max(ahead) <= 1_000


async def test_the_event_loop_neither_queries_nor_converts(client: UID2Client) -> None:
    """A lazy query and a generator run in another thread."""
    threads = []

    def note(frame: Any) -> Any:
        threads.append(threading.current_thread())
        return frame

    lazy = pl.LazyFrame({"mail": MAILS}).map_batches(note)
    reader = pa.RecordBatchReader.from_batches(
        TABLE.schema, (note(one) for one in TABLE.to_batches())
    )
    await map_frame(lazy, email="mail", client=client)
    await map_frame(reader, email="mail", client=client)

    assert len(threads) >= 2
    assert threading.main_thread() not in threads


async def test_cancelling_leaves_nothing_running(
    operator: LocalOperator, client: UID2Client
) -> None:
    """The call ends at once, with its tasks."""
    operator.fail_next(Fault(delay=60))
    before = asyncio.all_tasks()
    task = asyncio.create_task(map_frame(TABLE, email="mail", client=client))
    while not operator.most_in_flight:  # noqa: ASYNC110 - it is in another thread
        await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert asyncio.all_tasks() == before


async def test_it_tells_of_its_progress(client: UID2Client) -> None:
    """A function gets all rows in the end."""
    told: list[FileProgress] = []

    await map_frame(TABLE, email="mail", client=client, progress=told.append)

    assert told[-1].rows == 5
    assert told[-1].endings["mapped"] == 1


@pytest.mark.parametrize("installed", [True, False])
async def test_a_progress_bar_is_shown_if_there_is_one(
    client: UID2Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
) -> None:
    """Without tqdm there is none, and no error."""
    pytest.importorskip("tqdm")
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    await map_frame(
        TABLE, email="mail", client=client, state=tmp_path / "s.db", progress=True
    )

    assert ("writing: 100%" in capsys.readouterr().err) is installed


@pytest.mark.parametrize("module", ["narwhals", "pyarrow"])
async def test_without_the_extra_it_is_named(
    client: UID2Client, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """The hint is a command to run."""
    frame = TABLE.to_pandas()
    found = await client.map_identities(["a@example.com"])
    monkeypatch.setitem(sys.modules, module, None)

    for call in (lambda: map_frame(frame, email="mail", client=client), found.to_arrow):
        with pytest.raises(InputError) as caught:
            await call()
        assert "uid2-async[frames]" in caught.value.hint


async def test_the_results_of_a_call_become_a_frame(
    client: UID2Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked and what was answered, in order; nothing asked is a frame too."""
    asked = ["a@example.com", "optout@example.com", "+12345678901"]
    found = await client.map_identities(asked)
    empty = await client.map_identities([])

    table = found.to_arrow()

    assert table.column_names == ["INPUT", "INPUT_TYPE", *ADDED]
    assert table["INPUT"].to_pylist() == asked
    assert table["INPUT_TYPE"].to_pylist() == ["email", "email", "phone"]
    assert table["UNMAPPED"].to_pylist() == [None, "OPTOUT", None]
    assert empty.to_arrow().schema == table.schema
    assert list(found.to_pandas()["UID"].notna()) == [True, False, True]
    assert found.to_polars().to_arrow().to_pylist() == table.to_pylist()
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match="polars is not installed"):
        found.to_polars()
