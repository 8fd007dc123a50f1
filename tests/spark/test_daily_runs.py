"""Daily runs into real Delta and Iceberg tables, and streams."""

from __future__ import annotations

import csv
import runpy
from base64 import b64decode, b64encode
from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from uid2_async import UID2Client
from uid2_async.bulk import MappingState, map_file
from uid2_async.bulk.exports import export_state
from uid2_async.errors import ConfigError, InputError, JobError
from uid2_async.integrations.arrow import IdentityColumns
from uid2_async.integrations.spark import (
    _hash_people,
    map_dataframe,
    map_incrementally,
)
from uid2_async.operator import Fault, LocalOperator

pytestmark = [
    pytest.mark.spark,
    pytest.mark.parametrize("spark", [2], indirect=True, scope="module"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully:FutureWarning"),
]

MAIL: Any = {"column": "mail", "type": "email"}
WORKER = "worker_credentials"


def address(number: int) -> str:
    """Name a person."""
    return f"person{number}@example.com"


def make_people(spark: Any, numbers: Any) -> Any:
    """Make a DataFrame of them, the first one twice, and of somebody invalid."""
    mails = [*map(address, numbers), address(numbers[0]).upper(), "nobody"]
    return spark.createDataFrame([(mail,) for mail in mails], "mail string")


def answered(operator: LocalOperator) -> int:
    """Count the identities that the operator has answered about."""
    return sum(call.items for call in operator.calls if call.status == 200)


def texts(rows: Any) -> list[tuple[str, ...]]:
    """Make sorted tuples of rows, with the instants as seconds."""

    def text(cell: Any) -> str:
        if isinstance(cell, datetime):
            return str(int(cell.replace(tzinfo=UTC).timestamp()))
        return cell or ""

    return sorted(tuple(map(text, row)) for row in rows)


def read_csv(path: Path) -> list[list[str]]:
    """Read rows without their header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


async def map_with_state(
    operator: LocalOperator, folder: Path, mails: list[str], now: datetime
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Do the day's run with a state in SQLite; return its delta and all it knows."""
    people, delta, known = folder / "in.csv", folder / "delta.csv", folder / "known.csv"
    lines = ["INPUT,INPUT_TYPE", *(f"{mail},email" for mail in mails), ""]
    people.write_text("\n".join(lines), encoding="utf-8")
    for path in (folder / "out.csv", delta, known):
        path.unlink(missing_ok=True)
    state = MappingState(folder / "state.db", clock=lambda: now, shared_folders=True)
    async with (
        UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
        ) as client,
        state,
    ):
        await map_file(
            people, folder / "out.csv", client=client, state=state, delta=delta
        )
        await export_state(state, str(known))
    # All but BUCKET_ID.
    rows = [[*row[:6], row[7]] for row in read_csv(known)]
    return texts(read_csv(delta)), texts(rows)


KNOWN = [
    "INPUT_TYPE",
    "IDENTITY_HASH",
    "UID",
    "PREV_UID",
    "REFRESH_FROM",
    "UNMAPPED",
    "CHECKED",
]


def rotate(spark: Any, name: str, known: Any, delta: Any) -> None:
    """Let one row of the table be from before a rotation, and expect what follows."""
    row = next(row for row in known if row[1] == email_hash(address(5)))
    kind, identity, uid, _, *others = row
    spark.sql(f"UPDATE {name} SET UID = 'before' WHERE IDENTITY_HASH = '{identity}'")  # noqa: S608 - a hash
    known[known.index(row)] = (kind, identity, uid, "before", *others)
    delta.append(("ROTATED", kind, identity, uid, "before"))


def email_hash(mail: str) -> str:
    """Return the first-level hash."""
    return b64encode(sha256(mail.encode()).digest()).decode()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("table_format", ["delta", "iceberg"])
async def test_days_are_those_of_a_state(
    spark: Any, operator: LocalOperator, tmp_path: Path, table_format: Any
) -> None:
    """Who is asked, what is kept and what has changed: as with a state in SQLite."""
    table = {"delta": str(tmp_path / "mapping"), "iceberg": "ice.uid2.mapping"}
    name = {"delta": f"delta.`{tmp_path}/mapping`", "iceberg": "ice.uid2.mapping"}
    seen: Counter[str] = Counter()
    for day, numbers in ((0, range(80)), (1, range(82)), (30, range(1, 82))):
        now = operator.now + timedelta(days=day)
        (operator.opt_in if day == 30 else operator.opt_out)(address(7))
        if day == 30:
            operator.opt_out(address(3))
        mails = [*map(address, numbers), "nobody"]
        delta, known = await map_with_state(operator, tmp_path, mails, now)
        if day == 30:
            rotate(spark, name[table_format], known, delta)
        asked = answered(operator)
        run = map_incrementally(
            make_people(spark, numbers),
            table[table_format],
            table_format=table_format,
            now=now,
            **MAIL,
        )

        assert texts(run.changes.collect()) == sorted(delta)
        assert texts(spark.table(name[table_format]).select(KNOWN).collect()) == sorted(
            known
        )
        assert run.asked == answered(operator) - asked
        assert run.invalid == 1
        assert run.failed == 0
        seen.update(change for change, *_ in delta)
        seen[f"asked on day {day}"] = run.asked
        run.mark_exported()
    assert seen["asked on day 0"] == 80
    assert 2 <= seen["asked on day 1"] < 20
    assert seen["OPTED_OUT"] == 1
    # Whose UID an export has taken back is not kept.
    outdated = "OLD_UID > ''"
    map_incrementally(
        make_people(spark, [90]), table[table_format], now=now, **MAIL
    ).mark_exported()
    assert spark.table(name[table_format]).where(outdated).count() == 0
    shown = str(spark.table(name[table_format]).collect())
    assert "@" not in shown


@pytest.mark.timeout(600)
def test_a_run_that_failed_is_repeated(
    spark: Any, operator: LocalOperator, tmp_path: Path
) -> None:
    """After the answers and before the merge, or before the changes are written."""
    people = make_people(spark, range(50))
    table = str(tmp_path / "mapping")
    name = f"delta.`{table}`"
    map_incrementally(people.where("false"), table, **MAIL)
    spark.sql(f"ALTER TABLE {name} ADD CONSTRAINT full CHECK (UID IS NULL)")

    with pytest.raises(Exception, match="DELTA_VIOLATE_CONSTRAINT"):
        map_incrementally(people, table, **MAIL)

    assert answered(operator) == 50
    assert spark.table(name).count() == 0
    spark.sql(f"ALTER TABLE {name} DROP CONSTRAINT full")
    second = map_incrementally(people, table, **MAIL)
    assert (second.asked, second.mapped) == (50, 50)
    changes, rows = texts(second.changes.collect()), texts(spark.table(name).collect())
    # Nothing was marked as exported: the changes are those of the run before.
    third = map_incrementally(people, table, **MAIL)
    assert third.asked == 0
    assert answered(operator) == 100
    assert texts(third.changes.collect()) == changes
    assert texts(spark.table(name).collect()) == rows
    assert len(changes) == 50
    third.mark_exported()
    late = map_incrementally(make_people(spark, range(51)), table, **MAIL)
    assert late.changes.count() == 1
    with pytest.raises(JobError, match="A later run has changed the table"):
        second.mark_exported()


@pytest.mark.timeout(600)
def test_a_daily_run_keeps_to_the_budget(
    spark: Any, operator: LocalOperator, tmp_path: Path
) -> None:
    """All of it is used, never more; failed ones are due again."""
    operator.fail_next(Fault(status=400, body="{}"))
    operator.fail_next(Fault(delay=0.5), times=1_000)
    people = spark.range(8_000).selectExpr(
        "concat('person', id, '@example.com') as mail", "'other' as UID"
    )
    options = {**MAIL, "credentials": f"{WORKER}:small_batches"}

    run = map_incrementally(people, str(tmp_path / "mapping"), **options)

    assert operator.most_in_flight == 20
    assert run.asked == 8_000
    assert run.failed == 100
    assert run.mapped == answered(operator) == 7_900
    assert run.changes.count() == 7_900


def test_hashing_takes_no_secret_along(spark: Any, operator: LocalOperator) -> None:
    """Nor does it need one."""
    wanted = IdentityColumns(column="mail", kind="email", names="upper")
    hashed = _hash_people(make_people(spark, range(3)), wanted)

    execution = hashed._jdf.queryExecution()
    plan = execution.toString()
    function = execution.logical().child().productElement(0).func()
    command = bytes(
        int(byte) & 0xFF for byte in function.command().mkString(",").split(",")
    )
    assert b"HashTask" in command
    for text in (operator.api_key, operator.client_secret):
        assert text not in plan
        assert text.encode() not in command
    assert b64decode(operator.client_secret) not in command


@pytest.mark.timeout(600)
def test_streams(spark: Any, operator: LocalOperator, tmp_path: Path) -> None:
    """Both ways: mapped as they come, and merged batch by batch."""
    source, target = str(tmp_path / "in"), str(tmp_path / "out")
    table = str(tmp_path / "mapping")
    make_people(spark, range(20)).write.csv(source)

    def write(df: Any, name: str) -> Any:
        return df.writeStream.trigger(availableNow=True).option(
            "checkpointLocation", str(tmp_path / name)
        )

    def merge(batch: Any, _: int) -> None:
        run = map_incrementally(batch, table, **MAIL)
        run.changes.write.mode("append").parquet(target + "-changes")
        run.mark_exported()

    stream = spark.readStream.schema("mail string").csv(source)
    mapped = map_dataframe(stream, **MAIL)
    assert write(mapped, "one").format("parquet").start(target).awaitTermination(200)
    assert write(stream, "two").foreachBatch(merge).start().awaitTermination(200)

    found = spark.read.parquet(target)
    assert found.where("UID is not null").count() == 21
    assert found.where("UNMAPPED is not null").count() == 1
    assert spark.read.parquet(target + "-changes").count() == 20
    with pytest.raises(ConfigError, match="partitions of a stream"):
        map_dataframe(stream, repartition=False, **MAIL)
    with pytest.raises(InputError, match="stream"):
        map_incrementally(stream, table, **MAIL)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"recheck_after": timedelta(0)}, ConfigError, "at least one second"),
        ({"table_format": "hudi"}, ConfigError, "'delta' or 'iceberg'"),
        ({"credentials": "module"}, ConfigError, "module:function"),
        ({"mapping_table": "./mapping"}, ConfigError, "must be absolute"),
        ({"column": "nosuch"}, InputError, "nosuch"),
        ({}, InputError, "lacks the columns INPUT_TYPE, .*CHANGED"),
    ],
)
def test_what_cannot_work_is_refused(
    spark: Any, tmp_path: Path, options: dict[str, Any], error: Any, says: str
) -> None:
    """Before anybody is asked."""
    table = str(tmp_path / "other")
    spark.range(1).write.format("delta").save(table)

    with pytest.raises(error, match=says):
        map_incrementally(
            make_people(spark, [1]), **{"mapping_table": table, **MAIL, **options}
        )


@pytest.mark.timeout(600)
def test_the_example_runs_day_after_day(
    spark: Any,
    operator: LocalOperator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the demo data; the second day has nobody to ask about."""
    examples = Path(__file__).parents[2] / "examples"
    daily = runpy.run_path(str(examples / "spark_daily.py"))["daily"]
    people = spark.read.csv(
        str(examples / "customers.csv"), header=True, escape='"', multiLine=True
    )
    table = str(tmp_path / "mapping")

    daily(people, table)
    asked = answered(operator)
    daily(people, table)

    out = capsys.readouterr().out
    assert f"asked {asked}, failed 0" in out
    assert "asked 0, failed 0" in out
    assert answered(operator) == asked > 0
    assert spark.read.format("delta").load(f"{table}_changes").count() > 0
