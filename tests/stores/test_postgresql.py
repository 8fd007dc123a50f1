"""Jobs from and to PostgreSQL: types are kept, and a table is whole or not there."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uid2_async import UID2Client
from uid2_async.bulk import MapOptions, Query, Table, map_file
from uid2_async.errors import ConfigError, InputError, JobError
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
    before["v"] = "character varying"  # its length is not told
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


def test_a_table_is_whole_or_not_there(server: Any, run: Any) -> None:
    """A row that the table rejects undoes all, and nothing of it is shown."""
    server.run(
        'CREATE TABLE mapped (id int, email text, "UID" text, "PREV_UID" text, '
        '"REFRESH_FROM" timestamptz, "UNMAPPED" text, "ERROR" text, '
        "CHECK (id <> 250))"
    )
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


def test_the_query_runs_once(server: Any, run: Any, operator: LocalOperator) -> None:
    """A job that is resumed maps the rows of then; another query is another job."""

    def delete(_: Any) -> None:
        server.run("DELETE FROM people")

    server.run("CREATE TABLE mapped (id int)")
    target = Table(server.uri(), "mapped", "append")
    with pytest.raises(InputError, match="does not have a column"):
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
    server.run("CREATE TABLE mapped (id int)")
    with pytest.raises(InputError):
        run(
            Query(server.uri(), PEOPLE + " -- canary"),
            Table(server.uri(), "mapped", "append"),
        )
    (log,) = Path().glob(".*.uid2-job/log")
    assert "mapped" in log.read_text()
    assert "canary" not in log.read_text()
