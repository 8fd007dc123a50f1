"""Jobs from and to PostgreSQL: types are kept, and a table is whole or not there."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async import UID2Client
from uid2_async.bulk import MapOptions, Query, Table, map_file
from uid2_async.errors import ConfigError, InputError, JobError, UID2Error
from uid2_async.operator import LocalOperator

OPTIONS = MapOptions(column="email", type="email")


@pytest.fixture
def run(
    operator: LocalOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run a job in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(source: Any, target: Any, **more: Any) -> Any:
        async def job() -> Any:
            settings = {"options": OPTIONS, **more}
            async with UID2Client.from_env(max_batch_size=20) as client:
                return await map_file(source, target, client=client, **settings)

        return asyncio.run(job())

    return run


PEOPLE = "SELECT id, email FROM people ORDER BY id"


def count(server: Any, table: str = "mapped") -> int:
    """Count the rows of a table that have a raw UID."""
    return int(server.run(f'SELECT count("UID") FROM {table}')[0][0])  # noqa: S608 - ours


def test_types_are_kept(server: Any, run: Any, tmp_path: Path) -> None:
    """Columns have the types they had, and added ones those of their content."""
    query = Query(server.uri(), "SELECT * FROM typed ORDER BY id;")

    summary = run(query, Table(server.uri(), "mapped"))

    assert summary.outputs == (f"postgresql://127.0.0.1:{server.port}/postgres#mapped",)
    types = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = '{}'::regclass AND attnum > 0"
    )
    before, after = (dict(server.run(types.format(t))) for t in ("typed", "mapped"))
    before |= {"v": "character varying", "n": "numeric"}  # without their lengths
    assert {name: after[name] for name in before} == before
    assert after["REFRESH_FROM"] == "timestamp with time zone"
    names = ", ".join(before)
    same = f"SELECT {names} FROM typed EXCEPT SELECT {names} FROM mapped"  # noqa: S608 - ours
    assert server.run(same) == []
    assert list(tmp_path.iterdir()) == []
    run(query, "out.csv")
    assert "6f1c0f9e-7a86-4b40-8d3c-1f2b3c4d5e6f" in Path("out.csv").read_text()


def test_types_of_other_sources(server: Any, run: Any, operator: LocalOperator) -> None:
    """Their values are kept; what cannot be stored is refused before a request."""
    pa, ipc = map(pytest.importorskip, ("pyarrow", "pyarrow.ipc"))
    largest = 2**64 - 1
    columns = {
        "email": pa.array(["a@example.com"]),
        "big": pa.array([largest], pa.uint64()),
        "bigs": pa.array([[largest, None]], pa.list_(pa.uint64())),
        "day": pa.array([86_400_000], pa.date64()),
        "kind": pa.array(["x"]).dictionary_encode(),
        "ids": pa.array([["x"]], pa.list_(pa.string(), 1)),
    }

    def write(more: Any) -> None:
        table = pa.table(columns | more)
        with ipc.new_file("in.arrow", table.schema) as writer:
            writer.write_table(table)

    write({})
    run("in.arrow", Table(server.uri(), "mapped"))
    names = "big, bigs, day::text, kind, ids"
    assert server.run(f"SELECT {names} FROM mapped") == [  # noqa: S608 - ours
        (str(largest), [str(largest), None], "1970-01-02", "x", ["x"])
    ]
    asked = len(operator.calls)
    write({"s": pa.array([{"a": 1}]), "l": pa.array([[["a"]]])})
    with pytest.raises(InputError, match=r"types of columns: 's' \(struct.*, 'l' \("):
        run("in.arrow", Table(server.uri(), "other"))
    assert len(operator.calls) == asked


def test_other_types_are_read_as_text(server: Any, run: Any) -> None:
    """What the driver would change is the text that psql shows, even identifiers."""
    server.run(
        "CREATE EXTENSION IF NOT EXISTS citext; CREATE TYPE mood AS ENUM ('Happy');"
        "CREATE TABLE odd AS SELECT 'A@example.com'::citext AS email, "
        "12.34::money AS price, 'Happy'::mood AS mood, '[1,5)'::int4range AS span, "
        "'10.0.0.1/8'::inet AS host, B'101' AS bits, ARRAY[['a']]::citext[] AS many, "
        "3000000000::oid AS number"
    )
    query = Query(server.uri(), "SELECT * FROM odd -- all")
    cells = ["A@example.com", "$12.34", "Happy", "[1,5)", "10.0.0.1/8", "101", "{{a}}"]
    cells.append("3000000000")

    run(query, "out.csv")
    run(query, Table(server.uri(), "mapped"))

    line = Path("out.csv").read_text().splitlines()[1]
    assert next(csv.reader([line]))[:8] == cells
    names = "email, price, mood, span, host, bits, many, number"
    stored = f"SELECT {names} FROM mapped"  # noqa: S608 - ours
    assert server.run(stored) == [tuple(cells)]


@pytest.mark.parametrize(
    "value",
    [
        "ARRAY[[1,2],[3,4]]",
        "'[3:4]={1,2}'::int[]",
        "'infinity'::timestamp",
        "'-infinity'::date",
        "ARRAY['infinity'::timestamptz]",
    ],
)
def test_values_that_would_change_are_refused(
    server: Any, run: Any, operator: LocalOperator, value: str
) -> None:
    """Nothing is sent, and the hint leads to a query that is exact."""
    sql = "SELECT 'a@example.com' AS email, {} AS x"
    with pytest.raises(InputError) as caught:
        run(Query(server.uri(), sql.format(value)), "out.csv")
    assert "::text" in caught.value.hint
    assert operator.calls == []

    cast = f"({value})::text"
    run(Query(server.uri(), sql.format(cast)), Table(server.uri(), "mapped"))

    exact = server.run(f"SELECT {cast}")
    assert server.run("SELECT x FROM mapped") == exact


def test_metadata_of_changed_values(server: Any, run: Any) -> None:
    """A file may have other values than the query did from which its types came."""
    pa, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    sql = "SELECT 'a@example.com' AS email, 1.5::numeric(3,1) AS n, 'x'::varchar AS v"
    run(Query(server.uri(), sql), "in.parquet")
    table = parquet.read_table("in.parquet").select(["email", "n", "v"])
    kinds = table.schema.field("n").type
    number = pa.ExtensionArray.from_storage(kinds, pa.array(["12345.678"]))
    table = table.set_column(1, table.schema.field("n"), number)
    field = table.schema.field("v").with_type(pa.int64())
    table = table.set_column(2, field, pa.array([2**40]))
    parquet.write_table(table, "in.parquet")

    run("in.parquet", Table(server.uri(), "mapped"))

    assert server.run("SELECT n::text, v FROM mapped") == [("12345.678", 2**40)]


LONG = "x" * 64
TARGETS: dict[str, tuple[str, Any, str]] = {
    "no schema": ("none.mapped", "fail", "does not have the schema"),
    "a view": ("a_view", "replace", "not a table|rejects"),
    "missing columns": ("people", "append", "does not have a column"),
    "another type": ("numbers", "append", "of another type"),
    "dependents": ("based", "replace", "cannot replace"),
    "no right": ("secret.mapped", "fail", "denies permission"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_is_tried_before_anything_is_sent(
    server: Any, run: Any, operator: LocalOperator, case: str
) -> None:
    """What the server would reject at the end is rejected at the start."""
    server.run(
        "CREATE TABLE based (id int); CREATE VIEW a_view AS SELECT * FROM based;"
        'CREATE TABLE numbers (email int, "UID" text, "PREV_UID" text, '
        '"REFRESH_FROM" timestamptz, "UNMAPPED" text, "ERROR" text);'
        "CREATE SCHEMA IF NOT EXISTS secret; DROP ROLE IF EXISTS guest;"
        "CREATE ROLE guest LOGIN PASSWORD 'guest'"
    )
    Path("in.csv").write_text("email\na@example.com\n")
    table, if_exists, message = TARGETS[case]
    uri = server.uri()
    if case == "no right":
        uri = uri.replace(f"owner:{PASSWORD}", "guest:guest")

    with pytest.raises(InputError, match=message):
        run("in.csv", Table(uri, table, if_exists))

    assert operator.calls == []
    assert list(Path().iterdir()) == [Path("in.csv")]


@pytest.mark.parametrize("name", ["ctid", "", LONG, "a"])
def test_names_that_a_table_cannot_have(
    server: Any, run: Any, operator: LocalOperator, name: str
) -> None:
    """They are refused before anything is sent, and never cut."""
    Path("in.csv").write_text(f"a,email,{name}\n1,a@example.com,2\n")
    with pytest.raises(InputError):
        run("in.csv", Table(server.uri(), "mapped"))
    assert operator.calls == []
    for table in (LONG, "uid2_async_jobs", "public.uid2_async_jobs", "pg_temp.x"):
        with pytest.raises(ConfigError, match="name of a table"):
            Table(server.uri(), table)


def test_repeated_columns_of_a_query(server: Any, run: Any) -> None:
    """Columns with the same name are rejected, not mixed up."""
    sql = "SELECT 'a@example.com' AS email, 1 AS n, ARRAY[2] AS n"
    with pytest.raises(InputError, match="cannot have the columns 'n'"):
        run(Query(server.uri(), sql), Table(server.uri(), "mapped"))


def test_no_table_has_the_name_of_the_rows(server: Any, run: Any) -> None:
    """The staging table cannot clash with a table of the user."""
    server.run(
        "CREATE TABLE uid2_async_rows AS SELECT *, NULL::timestamptz AS x FROM people"
    )
    target = Table(server.uri(), "uid2_async_rows", "replace")
    for sql in (PEOPLE, "SELECT * FROM uid2_async_rows"):
        run(Query(server.uri(), sql.replace("*", "id, email")), target)
        assert count(server, "uid2_async_rows") == 300


def test_a_character_that_a_table_cannot_have(server: Any, run: Any) -> None:
    """It is named with its row and column, and its value is not shown."""
    pa, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    columns = {"email": ["a@example.com"] * 2, "note": ["x", "canary\0"]}
    parquet.write_table(pa.table(columns), "in.parquet")
    with pytest.raises(InputError, match=r"NUL.*row 2, column 'note'") as caught:
        run("in.parquet", Table(server.uri(), "mapped"))
    assert "canary" not in str(caught.value)
    assert "restart" in caught.value.hint


def test_jobs_at_once(server: Any, run: Any, tmp_path: Path) -> None:
    """They write one table after the other, even the first of all."""
    run(Query(server.uri(), PEOPLE), "out.arrow")
    target = Table(server.uri(), "mapped", "append")
    errors: list[Exception] = []

    def deliver(job: str) -> None:
        try:
            target.deliver(tmp_path / "out.arrow", job=job * 64)
        except UID2Error as error:
            errors.append(error)

    threads = [threading.Thread(target=deliver, args=(one,)) for one in "abcd"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert errors == []
    assert count(server) == 4 * 300


def test_if_exists(server: Any, run: Any) -> None:
    """A table that exists stays, is replaced, or gets more rows."""
    query = Query(server.uri(), PEOPLE)
    run(query, Table(server.uri(), "mapped"))
    with pytest.raises(InputError, match="already exists"):
        run(query, Table(server.uri(), "mapped"))
    run(query, Table(server.uri(), "mapped", "replace"))
    assert count(server) == 300
    run(query, Table(server.uri(), "mapped", "append"))
    assert count(server) == 600
    run(query, Table(server.uri(), "new", "append"))
    assert count(server, "new") == 300


# A table that rejects one of the people.
LIMITED = (
    'CREATE TABLE mapped (id int, email text, "UID" text, "PREV_UID" text, '
    '"REFRESH_FROM" timestamptz, "UNMAPPED" text, "ERROR" text, CHECK (id <> 250))'
)


def test_a_table_is_whole_or_not_there(server: Any, run: Any) -> None:
    """A row that the table rejects undoes all, and nothing of it is shown."""
    server.run(LIMITED)
    target = Table(server.uri(), "mapped", "append")
    with pytest.raises(InputError, match="rejects a row") as caught:
        run(Query(server.uri(), PEOPLE), target)
    assert "person" not in str(caught.value)
    assert server.run("SELECT count(*) FROM mapped") == [(0,)]

    server.run("ALTER TABLE mapped DROP CONSTRAINT mapped_id_check")
    assert run(Query(server.uri(), PEOPLE), target).resumed_rows == 300
    assert count(server) == 300


def test_a_job_inserts_once(server: Any, run: Any, tmp_path: Path) -> None:
    """A job that was killed after its transaction is done when it is run again."""
    query, target = Query(server.uri(), PEOPLE), Table(server.uri(), "mapped", "append")
    run(query, "out.arrow")
    for _ in range(2):
        target.deliver(tmp_path / "out.arrow", job="a" * 64)
    assert count(server) == 300
    target.deliver(tmp_path / "out.arrow", job="b" * 64)
    assert count(server) == 600


def test_only_its_own_job_finds_a_new_table(
    server: Any, run: Any, tmp_path: Path
) -> None:
    """A job that has delivered can be resumed; for others, the table exists."""
    pa = pytest.importorskip("pyarrow")
    run(Query(server.uri(), PEOPLE), "out.arrow")
    target = Table(server.uri(), "mapped")
    target.deliver(tmp_path / "out.arrow", job="a" * 64)
    schema = pa.schema([("id", pa.int32())])
    target.rehearse(schema, job="a" * 64)
    with pytest.raises(InputError, match="already exists"):
        target.rehearse(schema, job="b" * 64)
    assert server.run("SELECT count(*) FROM uid2_async_jobs") == [(1,)]


def test_the_query_runs_once(server: Any, run: Any, operator: LocalOperator) -> None:
    """A job that is resumed maps the rows of then; another query is another job."""

    def delete(_: Any) -> None:
        server.run("DELETE FROM people")

    server.run(LIMITED)
    target = Table(server.uri(), "mapped", "append")
    with pytest.raises(InputError, match="rejects a row"):
        run(Query(server.uri(), PEOPLE), target, on_progress=delete)
    assert server.run("SELECT count(*) FROM people") == [(0,)]
    with pytest.raises(JobError, match="option source"):
        run(Query(server.uri(), f"{PEOPLE} DESC"), target)
    server.run("DROP TABLE mapped")
    asked = len(operator.calls)
    run(Query(server.uri(), PEOPLE), target)
    assert count(server) == 300
    assert len(operator.calls) == asked


def test_a_restart_in_the_middle(server: Any, run: Any) -> None:
    """The server may be gone when the table is due; the next run writes it."""
    stopped: list[bool] = []

    def stop(_: Any) -> None:
        if not stopped:
            stopped.append(True)
            server.stop()

    query, target = Query(server.uri(), PEOPLE), Table(server.uri(), "mapped")
    try:
        with pytest.raises(JobError, match="cannot be reached") as caught:
            run(query, target, on_progress=stop)
    finally:
        server.start()
    assert "run the same command again" in caught.value.hint
    assert server.run("SELECT to_regclass('mapped')") == [(None,)]

    assert run(query, target).resumed_rows == 300
    assert count(server) == 300


@pytest.mark.parametrize("seed", range(int(os.environ.get("UID2_KILLS", "2"))))
def test_killed_at_any_moment(
    server: Any, command: Any, tmp_path: Path, seed: int
) -> None:
    """There is no table or all of it, and every row is there once."""
    dice = random.Random(seed)  # noqa: S311 - a moment
    line = (
        "map",
        server.uri(),
        server.uri(),
        "--query",
        PEOPLE,
        "--to-table",
        "mapped",
    )
    line += ("--if-exists", "append", "--column", "email", "--type", "email", "-q")
    line += ("--batch-size", "5", "--concurrency", "2")
    process = command(*line)
    time.sleep(1 + 2 * dice.random())
    process.kill()
    process.communicate()
    exists = server.run("SELECT to_regclass('mapped')") != [(None,)]
    is_done = exists and not list(tmp_path.glob("*uid2-job"))
    assert not exists or count(server) == 300
    if is_done:
        return

    process = command(*line)
    _, errors = process.communicate(timeout=100)

    assert process.returncode == 0, errors
    assert count(server) == 300
    assert list(tmp_path.iterdir()) == []


PASSWORD = "canary-password"


def test_what_is_wrong_is_named(
    server: Any, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither password nor query are in an error, a log, a repr or the job's folder."""
    good = server.uri()
    elsewhere = f"postgresql://owner:{PASSWORD}@127.0.0.1:1/postgres"
    cases: list[tuple[Any, Any, str, str]] = [
        (
            Query(server.uri("wrong-canary"), PEOPLE),
            "x.csv",
            "denies access",
            "password",
        ),
        (Query(elsewhere, PEOPLE), "x.csv", "cannot be reached", "port"),
        (Query(good + "x", PEOPLE), "x.csv", "does not exist", "database"),
        (
            Query(good, "SELECT 'canary@example.com' FROM nothing"),
            "x.csv",
            "does not have a table",
            "",
        ),
        (
            Query(good, "SELEC 'canary@example.com'"),
            "x.csv",
            "rejects the statement",
            "psql",
        ),
        (
            Query(good, PEOPLE),
            Table(good, "none.mapped"),
            "does not have the schema",
            "Create",
        ),
        (good, "x.csv", "with a query", "sql=QUERY"),
    ]
    texts = [
        repr(end) for case in cases for end in case[:2] if not isinstance(end, str)
    ]
    for source, target, message, hint in cases:
        with pytest.raises((InputError, JobError), match=message) as caught:
            run(source, target)
        assert hint in caught.value.hint
        texts.append(str(caught.value))
    shown = " ".join(texts) + caplog.text
    assert "canary" not in shown
    with pytest.raises(ConfigError, match="begin with postgresql"):
        Query("mysql://owner:canary@host/db", PEOPLE)
    with pytest.raises(ConfigError, match="TABLE or SCHEMA"):
        Table(good, "a.b.c")


def test_the_log_has_no_password(server: Any, run: Any) -> None:
    """Nor does it have the query; both are digested or left out."""
    server.run(LIMITED)
    with pytest.raises(InputError):
        run(
            Query(server.uri(), PEOPLE + " -- canary"),
            Table(server.uri(), "mapped", "append"),
        )
    (log,) = Path().glob(".*.uid2-job/log")
    assert "mapped" in log.read_text()
    assert "canary" not in log.read_text()
