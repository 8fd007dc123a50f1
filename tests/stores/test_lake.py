"""Delta Lake tables are read at their current version, never as bare files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uid2_async import UID2Client
from uid2_async.bulk import MapOptions, map_file
from uid2_async.bulk.estimate import estimate_file
from uid2_async.errors import InputError
from uid2_async.operator import LocalOperator

OPTIONS = MapOptions(column="mail", type="email")


@pytest.fixture
def run(
    operator: LocalOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run a job in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, target: str, **more: Any) -> Any:
        async def job() -> Any:
            async with UID2Client.from_env() as client:
                return await map_file(
                    source, target, client=client, options=OPTIONS, **more
                )

        return asyncio.run(job())

    return run


def write_table(location: str) -> None:
    """Write a partitioned table of three people, one of whom is deleted."""
    deltalake = pytest.importorskip("deltalake")
    arrow = pytest.importorskip("pyarrow")
    rows = {
        "id": [1, 2, 3],
        "mail": [f"person{n}@example.com" for n in range(3)],
        "day": ["a", "a", "b"],
    }
    deltalake.write_deltalake(location, arrow.table(rows), partition_by=["day"])
    deltalake.DeltaTable(location).delete("id = 2")


def read(path: str) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file, sorted."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: str(row["id"]))


def test_the_current_version(run: Any) -> None:
    """Rows that were deleted are not there, partitions are columns, types are kept."""
    write_table("table")

    summary = run("table", "out.parquet")

    assert summary.mapped == 2
    assert [(row["id"], row["day"]) for row in read("out.parquet")] == [
        (1, "a"),
        (3, "b"),
    ]
    assert estimate_file("table", options=OPTIONS).rows == 2
    with pytest.raises(InputError, match="is a Delta Lake table"):
        run(str(next(Path("table").glob("day=a/*.parquet"))), "x.parquet")
    with pytest.raises(InputError, match="is a Delta Lake table"):
        run("table/**/*.parquet", "x")


def test_text_at_any_depth(run: Any) -> None:
    """It has types that other programs know, not views of the memory."""
    deltalake = pytest.importorskip("deltalake")
    pa, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    text, bytes_ = pa.string(), pa.binary()
    nested = pa.struct([("b", bytes_), ("t", pa.list_(text))])
    value = {"b": b"longer than twelve bytes", "t": ["longer than twelve bytes"]}
    columns = {
        "mail": pa.array(["a@example.com"]),
        "texts": pa.array([value["t"]], pa.list_(text)),
        "nested": pa.array([[value]], pa.list_(nested)),
    }
    deltalake.write_deltalake("table", pa.table(columns))

    run("table", "out.parquet")

    assert "view" not in str(parquet.read_schema("out.parquet"))
    (row,) = parquet.read_table("out.parquet").to_pylist()
    assert (row["texts"], row["nested"]) == (value["t"], [value])


def test_timestamps_of_spark(run: Any) -> None:
    """INT96 timestamps keep their values, whatever the year."""
    deltalake = pytest.importorskip("deltalake")
    arrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    years = [datetime(year, 1, 1, tzinfo=UTC) for year in (1600, 1999, 9999)]
    rows = {"id": [1, 2, 3], "mail": ["a@example.com"] * 3, "until": years}
    deltalake.write_deltalake("table", arrow.table(rows))
    (path,) = Path("table").glob("*.parquet")
    (log,) = Path("table/_delta_log").glob("*.json")
    before = path.stat().st_size
    table = parquet.read_table(path)
    parquet.write_table(table, path, use_deprecated_int96_timestamps=True)
    assert parquet.ParquetFile(path).schema.column(2).physical_type == "INT96"
    sizes = (f'"size":{size}' for size in (before, path.stat().st_size))
    log.write_text(log.read_text().replace(*sizes))

    run("table", "out.parquet")

    assert [row["until"] for row in read("out.parquet")] == years


def test_a_table_in_a_store(run: Any, bucket: Any) -> None:
    """It is found by its log; Iceberg and Hudi are refused with what to do."""
    write_table(bucket.url("table"))
    for name in ("ice/metadata/v1.metadata.json", "hudi/.hoodie/x"):
        bucket.put(name, b"{}")
        bucket.put(f"{name.partition('/')[0]}/part-0.parquet", b"")

    run(bucket.url("table"), "out.parquet")

    assert [row["id"] for row in read("out.parquet")] == [1, 3]
    for source, kind in (
        ("table/**/*.parquet", "Delta Lake"),
        ("ice", "Iceberg"),
        ("ice/*.parquet", "Iceberg"),
        ("hudi", "Hudi"),
    ):
        with pytest.raises(InputError, match=f"is a {kind} table") as caught:
            run(bucket.url(source), "x")
        assert kind == "Delta Lake" or "Spark" in caught.value.hint


def test_one_file_of_a_table_in_a_store(run: Any, bucket: Any) -> None:
    """It is refused, as a local one is: it may contain rows that were deleted."""
    write_table(bucket.url("lake/table"))
    key = next(one for one in bucket.listed() if one.endswith(".parquet"))
    for source in (key, key.rpartition("/")[0] + "/"):
        with pytest.raises(InputError, match="is a Delta Lake table"):
            run(bucket.url(source), "x.parquet")


def test_a_resumed_job_keeps_its_version(run: Any) -> None:
    """Rows that were deleted since the job began are mapped as they were."""
    write_table("table")
    deltalake = pytest.importorskip("deltalake")

    def delete(_: Any) -> None:
        deltalake.DeltaTable("table").delete("id = 3")
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - ours, in the middle of the job
        run("table", "out.parquet", on_progress=delete)

    run("table", "out.parquet")

    assert [row["id"] for row in read("out.parquet")] == [1, 3]


def test_a_table_that_cannot_be_read(run: Any) -> None:
    """A feature that deltalake lacks, or a damaged log, is an error, not other rows."""
    write_table("table")
    log = max(Path("table/_delta_log").glob("*.json"))
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7}
    features = {"readerFeatures": ["a-feature"], "writerFeatures": ["a-feature"]}
    with log.open("a") as file:
        file.write("\n" + json.dumps({"protocol": {**protocol, **features}}) + "\n")
    with pytest.raises(InputError, match="cannot be read") as caught:
        run("table", "out.parquet")
    assert "Spark" in caught.value.hint
    assert not Path("out.parquet").exists()
