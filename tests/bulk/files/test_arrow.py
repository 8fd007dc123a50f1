"""Parquet and Arrow: columns keep types and values, whatever they are."""

from __future__ import annotations

import csv
import decimal
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.bulk.files.conftest import (
    ADDED,
    cells,
    convert,
    read_all,
    rewrite,
    select,
)
from uid2_async.bulk.arrow import ArrowOutput
from uid2_async.bulk.columns import find_column
from uid2_async.bulk.files import open_output, open_reader
from uid2_async.bulk.paths import Content, FileFormatOptions, Format
from uid2_async.bulk.private_files import Disk
from uid2_async.errors import InputError, JobError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

FORMATS = ["parquet", "arrow"]


def table(rows: int = 30) -> Any:
    """Make a table of many types."""
    numbers = range(rows)
    columns = {
        "t": pa.array([f"user{n}@example.com" if n % 4 else None for n in numbers]),
        "large": pa.array([f"+1202555{n:04}" for n in numbers], pa.large_string()),
        "small": pa.array([f"k{n % 3}" for n in numbers]).dictionary_encode(),
        "n": pa.array([n if n % 5 else None for n in numbers], pa.int16()),
        "when": pa.array(list(numbers), pa.timestamp("us", tz="UTC")),
        "money": pa.array([decimal.Decimal(n) for n in numbers], pa.decimal128(9, 2)),
        "nested": pa.array(
            [[{"a": n, "b": [str(n)]}] if n % 2 else [] for n in numbers]
        ),
        "bytes": pa.array([bytes([n % 256]) for n in numbers]),
        "nothing": pa.nulls(rows),
    }
    return pa.table(columns).replace_schema_metadata({"made by": "a test"})


def store(data: Any, path: Path, rows: int = 7) -> None:
    """Write *data* with so many rows in a group."""
    if path.suffix == ".parquet":
        parquet.write_table(data, path, row_group_size=rows)
    else:
        feather.write_feather(data, path, chunksize=rows)


def fetch(path: Path) -> Any:
    """Read a file."""
    return (parquet if path.suffix == ".parquet" else feather).read_table(path)


@pytest.fixture(params=FORMATS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make a file of each format."""
    path = tmp_path / f"in.{request.param}"
    store(table(), path)
    return path


def test_columns_stay(source: Path) -> None:
    """Columns keep their types, nulls and order, and the file its metadata."""
    before = fetch(source)
    target = source.with_name(f"out{source.suffix}")

    rewrite(source, target, step=4)
    after = fetch(target)

    assert after.select(before.column_names).equals(before)
    assert after.schema.metadata[b"made by"] == b"a test"
    assert after.column_names[len(before.column_names) :] == list(ADDED)
    assert after.column("UID").type == pa.string()
    assert after.column("UID").to_pylist() == cells(0, 30)["UID"]
    assert after.column("ERROR").to_pylist() == cells(0, 30)["ERROR"]


def test_instants(source: Path) -> None:
    """They are timestamps in UTC, or seconds since the epoch."""
    target = source.with_name(f"out{source.suffix}")
    rewrite(source, target)
    assert fetch(target).column("REFRESH_FROM").type == pa.timestamp("us", "UTC")
    assert fetch(target).column("REFRESH_FROM")[1].as_py() == datetime(
        1970, 1, 1, 0, 0, 1, tzinfo=UTC
    )

    rewrite(source, target, iso=False)
    assert fetch(target).column("REFRESH_FROM").type == pa.int64()
    assert (
        fetch(target).column("REFRESH_FROM").to_pylist() == cells(0, 30)["REFRESH_FROM"]
    )


def test_integers(source: Path) -> None:
    """They have 32 bits."""
    target = source.with_name(f"out{source.suffix}")
    rewrite(
        source,
        target,
        added={"SITE_ID": Content.INTEGER},
        make=lambda _, rows: {"SITE_ID": [None] * rows},
    )

    assert fetch(target).column("SITE_ID").type == pa.int32()
    assert fetch(target).column("SITE_ID").null_count == 30


@pytest.mark.parametrize("lost", [0, 3])
def test_going_on(source: Path, lost: int) -> None:
    """Wherever the process dies, the rows are those of an unbroken run."""
    whole = source.with_name(f"whole{source.suffix}")
    rewrite(source, whole, step=4)

    for steps in range(10):
        target = source.with_name(f"out{steps}{source.suffix}")
        rewrite(source, target, step=4, die_after=steps, lost=lost)
        assert fetch(target).equals(fetch(whole))
        for part in source.parent.glob("part*"):
            part.unlink()


def test_reading_on_behind_any_chunk(source: Path) -> None:
    """A second reader resumes where the first one was."""
    how = FileFormatOptions(format=Format(source.suffix[1:]))
    reader = open_reader(source, how)
    (index,) = select(reader, "t")
    chunks = read_all(reader, 4)
    assert reader.bytes_read == source.stat().st_size
    everything = [value for chunk in chunks for value in chunk.values(index)]
    assert everything == [f"user{n}@example.com" if n % 4 else "" for n in range(30)]

    for done in range(0, 31, 3):
        again = open_reader(source, how)
        again.select([index])
        again.skip(done)
        rest = [value for one in read_all(again, 4) for value in one.values(index)]
        assert rest == everything[done:]
        again.close()
    reader.close()


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_rows(tmp_path: Path, file_format: str) -> None:
    """A file without rows gets the columns."""
    store(table(0), tmp_path / f"in.{file_format}")
    target = tmp_path / f"out.{file_format}"

    rewrite(tmp_path / f"in.{file_format}", target)

    assert fetch(target).num_rows == 0
    assert fetch(target).column_names[-3:] == list(ADDED)


@pytest.mark.parametrize("column", ["t", "large", "small", "nothing"])
def test_text(source: Path, column: str) -> None:
    """Text is text in each of its types; nulls are empty; any letter case will do."""
    reader = open_reader(source, FileFormatOptions())
    index = find_column(reader.header, column.upper())
    reader.select([index], ["n", "nested"])
    chunks = read_all(reader)
    reader.close()

    found = [value for chunk in chunks for value in chunk.values(index)]
    assert found == [value or "" for value in table().column(column).to_pylist()]
    assert [value for chunk in chunks for value in chunk.values("n")][:2] == ["", "1"]


@pytest.mark.parametrize("column", ["n", "when", "nested", "bytes", "money"])
def test_no_text(source: Path, column: str) -> None:
    """A number is no identifier: a phone has lost its plus and its zeros."""
    reader = open_reader(source, FileFormatOptions())

    with pytest.raises(
        InputError, match=f"column '{column}' is not text, but"
    ) as caught:
        select(reader, column)

    reader.close()
    advice = "Cast it to a string" if column == "bytes" else "Export it as a string"
    assert advice in caught.value.hint


def test_columns_of_the_same_name(tmp_path: Path) -> None:
    """Those that are not read pass through; one that is must be the only one."""
    path = tmp_path / "in.arrow"
    data = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with pa.ipc.new_file(path, data.schema) as writer:
        writer.write_table(data)

    rewrite(path, tmp_path / "out.arrow")

    with pa.ipc.open_file(tmp_path / "out.arrow") as file:
        assert file.read_all().column_names[:2] == ["a", "a"]
    reader = open_reader(path, FileFormatOptions())
    with pytest.raises(InputError, match="there are 2 columns 'a'"):
        select(reader, "a")
    reader.close()


def test_a_row_for_each_identifier(source: Path) -> None:
    """Rows may be repeated, with all that is in them."""
    how = FileFormatOptions(format=Format(source.suffix[1:]))
    reader = open_reader(source, how)
    output = open_output(reader, how, source.with_name("part"), added=ADDED)
    while (chunk := reader.take(3)) is None:
        reader.load()
    output.write(output.format(chunk, cells(1, 4), [0, 1, 1, 2]))
    output.sync()
    target = source.with_name(f"out{source.suffix}")
    output.finish(target)
    reader.close()

    expected = fetch(source).take([0, 1, 1, 2])
    assert (
        fetch(target).select(expected.column_names).to_pylist() == expected.to_pylist()
    )


@pytest.mark.parametrize("resumable", [True, False])
def test_a_write_that_fails(source: Path, *, resumable: bool) -> None:
    """Whether a part or the output cannot be written, the error says why."""
    target = source.with_name(f"out{source.suffix}")
    how = FileFormatOptions(format=Format(source.suffix[1:]))
    with closing(open_reader(source, how)) as reader:
        part = source.with_name("part")
        output = open_output(reader, how, part, added=ADDED, resumable=resumable)
        while (chunk := reader.take(30)) is None:
            reader.load()
        output.write(output.format(chunk, cells(1, chunk.count)))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        try:
            with pytest.raises(JobError, match="cannot be written: File too large"):
                output.finish(target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            output.close()

    assert not target.exists()


def test_a_name_that_is_not_text(source: Path) -> None:
    """Names of files are bytes on POSIX, and need not be UTF-8."""
    target = source.with_name(os.fsdecode(b"out-\xff") + source.suffix)

    rewrite(source, target)

    found = target.rename(source.with_name(f"out{source.suffix}"))
    assert fetch(found).num_rows == fetch(source).num_rows


NS = pa.timestamp("ns")
AT = 1_700_000_000_123_456_789
INSTANT = "2023-11-14 22:13:20.123456789"


def dictionary(kind: Any, *values: Any) -> Any:
    """Make a dictionary column."""
    indexes = pa.array(range(len(values)), pa.int8())
    return pa.DictionaryArray.from_arrays(indexes, pa.array(values, kind))


def in_list(array: Any) -> Any:
    """Make a list of all values, and one that is null."""
    return pa.ListArray.from_arrays(pa.array([0, None, len(array)], pa.int32()), array)


def in_runs(array: Any) -> Any:
    """Make a column of runs of two."""
    ends = pa.array(range(2, 2 * len(array) + 1, 2), pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, array)


def in_extension(array: Any) -> Any:
    """Make a column of a type that Arrow does not know."""
    return pa.ExtensionArray.from_storage(pa.opaque(array.type, "a", "b"), array)


TIMES = pa.array([AT], NS)
BOOLS = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8()))
# A column, and the JSON values of its rows.
NESTED: dict[str, tuple[Any, list[Any]]] = {
    "list": (in_list(TIMES), [[INSTANT], None]),
    "zone": (pa.array([[AT]], pa.list_(pa.timestamp("ns", "UTC"))), [[INSTANT + "Z"]]),
    "struct": (
        pa.array(
            [[{"x": AT, "y": 1}, None], []],
            pa.large_list(pa.struct([("x", NS), ("y", pa.date32())])),
        ),
        [[{"x": INSTANT, "y": "1970-01-02"}, None], []],
    ),
    "fixed": (
        pa.array([[123_456_789], None], pa.list_(pa.time64("ns"), 1)),
        [["00:00:00.123456789"], None],
    ),
    "map": (
        pa.array(
            [[("k", [AT, None])], None, [("l", None)]],
            pa.map_(pa.string(), pa.list_(pa.duration("ns"))),
        ),
        [[["k", [str(AT), None]]], None, [["l", None]]],
    ),
    "view": (pa.array([[AT], None, []], pa.list_view(NS)), [[INSTANT], None, []]),
    "large_view": (
        pa.array([[[AT // 1000]]], pa.list_(pa.large_list_view(pa.timestamp("us")))),
        [[[INSTANT[:-3]]]],
    ),
    "dictionary": (in_list(dictionary(NS, AT)), [[INSTANT], None]),
    "lists": (
        in_list(dictionary(pa.list_(NS), [AT], [])),
        [[[INSTANT], []], None],
    ),
    "runs": (in_list(in_runs(TIMES)), [[INSTANT, INSTANT], None]),
    "extension": (in_list(in_extension(TIMES)), [[INSTANT], None]),
    "bools": (in_list(BOOLS), [[False, True], None]),
    "no_fields": (pa.array([{}, None], pa.struct([])), [{}, None]),
    "numbers": (
        pa.array([[1e300, float("nan"), 0.5]]).cast(pa.list_(pa.float32())),
        [[None, None, 0.5]],
    ),
    "halves": (
        in_list(pa.array([0.5, float("nan")], pa.float32()).cast(pa.float16())),
        [[0.5, None], None],
    ),
    "decimals": (
        pa.array([[decimal.Decimal("1.50")]], pa.list_(pa.decimal128(9, 2))),
        [["1.50"]],
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_values(tmp_path: Path, name: str) -> None:
    """They are JSON, in which times are written as those of columns."""
    array, expected = NESTED[name]
    before = pa.concat_arrays([array.slice(1), array])  # offsets are not always 0
    with pa.ipc.new_file(
        tmp_path / "in.arrow", pa.schema([("a", array.type)])
    ) as writer:
        writer.write_table(pa.table({"a": array}))
        writer.write_table(pa.table({"a": before.slice(len(array) - 1)}))

    for suffix in ("csv", "jsonl"):
        convert(tmp_path / "in.arrow", tmp_path / f"out.{suffix}")

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["a"] for line in lines] == expected * 2
    with (tmp_path / "out.csv").open() as file:
        found = [row["a"] and json.loads(row["a"]) for row in csv.DictReader(file)]
    assert found == [one if one is not None else "" for one in expected * 2]


def test_values_that_are_no_text(tmp_path: Path) -> None:
    """What Python cannot represent is refused by the name of its column."""
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [TIMES])
    twice = pa.StructArray.from_arrays([TIMES, TIMES], ["x", "x"])
    late = pa.array([AT], pa.timestamp("us"))
    for array in (union, twice, late, in_list(late)):
        schema = pa.schema([("a", array.type)])
        with pa.ipc.new_file(tmp_path / "in.arrow", schema) as writer:
            writer.write_table(pa.table({"a": array}))
        with pytest.raises(InputError, match="column 'a' cannot be written"):
            convert(tmp_path / "in.arrow", tmp_path / "out.csv")


def test_keys(tmp_path: Path) -> None:
    """A key of any type has the text that a CSV output would have."""
    columns = {
        "ns": (TIMES, INSTANT),
        "bytes": (pa.array([b"ab"]), "YWI="),
        "bool": (pa.array([True]), "true"),
        "float": (pa.array([0.1], pa.float32()), "0.1"),
        "list": (in_list(TIMES).slice(0, 1), f'["{INSTANT}"]'),
        "null": (pa.nulls(1), ""),
    }
    data = {name: array for name, (array, _) in columns.items()}
    store(pa.table(data), tmp_path / "in.parquet")

    with closing(open_reader(tmp_path / "in.parquet", FileFormatOptions())) as reader:
        reader.select([], list(columns))
        (rows,) = read_all(reader)

    found = {name: rows.values(name) for name in columns}
    assert found == {name: [text] for name, (_, text) in columns.items()}


def test_half_floats(tmp_path: Path) -> None:
    """NaN and infinity of each float type are text in CSV, and null in JSON."""
    values = pa.array([0.5, float("nan"), float("-inf"), None])
    kinds = {"h": pa.float16(), "f": pa.float32(), "d": pa.float64()}
    columns = {
        name: values.cast(pa.float32()).cast(kind) for name, kind in kinds.items()
    }
    store(pa.table(columns), tmp_path / "in.parquet")

    for suffix in ("csv", "jsonl"):
        convert(tmp_path / "in.parquet", tmp_path / f"out.{suffix}")

    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:] == [",".join([text] * 3) for text in ("0.5", "nan", "-inf", "")]
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        assert len(set(json.loads(line).values())) == 1


YEARS = (1, 1600, 1969, 1999, 9999)


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_int96(tmp_path: Path, suffix: str) -> None:
    """The timestamps of Spark keep their values, whatever the year, at any depth."""
    kind = pa.timestamp("us")
    # Before 1970, pyarrow writes other times than midnight in a form of its own.
    times = ["00:00:00.000000" if year < 1970 else "04:05:06.000007" for year in YEARS]
    texts = [f"{year:04}-02-03 {at}" for year, at in zip(YEARS, times, strict=True)]
    instants = pa.array(texts).cast(kind)
    data = pa.table(
        {
            "a": instants,
            "b": pa.array([[one] for one in instants.to_pylist()], pa.list_(kind)),
            "c": pa.array(
                [[("k", one)] for one in instants.to_pylist()],
                pa.map_(pa.string(), kind),
            ),
        }
    )
    parquet.write_table(
        data,
        tmp_path / "in.parquet",
        row_group_size=2,
        use_deprecated_int96_timestamps=True,
    )

    convert(tmp_path / "in.parquet", tmp_path / f"out.{suffix}")

    if suffix == "csv":
        with (tmp_path / "out.csv").open() as file:
            assert [row["a"] for row in csv.DictReader(file)] == texts
    else:
        assert fetch(tmp_path / f"out.{suffix}").to_pylist() == data.to_pylist()


def test_int96_in_nanoseconds(tmp_path: Path) -> None:
    """Nanoseconds stay; with other years in the file, Arrow has no unit for both."""
    data = pa.table({"a": pa.array([AT, 1], NS)})
    old = {"use_deprecated_int96_timestamps": True}
    parquet.write_table(data, tmp_path / "in.parquet", **old)

    convert(tmp_path / "in.parquet", tmp_path / "out.parquet")

    assert fetch(tmp_path / "out.parquet").equals(data)
    late = pa.array([253_402_300_799_000_000] * 2, pa.timestamp("us"))
    both = pa.table({"b": late, "a": data["a"]})
    parquet.write_table(both, tmp_path / "in.parquet", **old)
    with pytest.raises(InputError, match="cannot be read exactly: 'b', 'a'") as caught:
        open_reader(tmp_path / "in.parquet", FileFormatOptions())
    assert "INT64" in caught.value.hint


def test_nested_dictionaries(tmp_path: Path) -> None:
    """Row groups may have different ones, as those of polars do."""
    texts = [f"{group}{n % 7}" for group in "abc" for n in range(10)]
    tags = in_list(pa.array(texts).dictionary_encode())
    lists = pa.ListArray.from_arrays(range(31), tags.values)
    data = pa.table({"a": lists, "n": range(30)})
    schema = data.schema
    with parquet.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for at in range(0, 30, 10):
            plain = data.slice(at, 10).column("a").cast(pa.list_(pa.string()))
            again = plain.cast(schema.field("a").type)
            writer.write_table(pa.table([again, data["n"].slice(at, 10)], schema))

    rewrite(tmp_path / "in.parquet", tmp_path / "out.parquet", step=4, die_after=3)
    convert(tmp_path / "in.parquet", tmp_path / "out.jsonl")

    after = fetch(tmp_path / "out.parquet").select(["a", "n"])
    assert after.schema.equals(schema)
    assert after.to_pylist() == data.to_pylist()
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["a"] for line in lines] == [[text] for text in texts]
    with pytest.raises(InputError, match=r"'a' \(list.*dictionary"):
        rewrite(tmp_path / "in.parquet", tmp_path / "out.arrow")


def test_dictionaries_that_grow(tmp_path: Path) -> None:
    """A file whose batches extend their dictionary is written like that again."""
    path = tmp_path / "in.arrow"
    parts = [["x"], ["x", "y"], ["x", "y", "z"]]
    batches = [
        pa.record_batch(
            {"a": pa.DictionaryArray.from_arrays(pa.array([len(one) - 1]), one)}
        )
        for one in parts
    ]
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_file(path, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)

    rewrite(path, tmp_path / "out.arrow", step=1)

    with pa.ipc.open_file(tmp_path / "out.arrow") as file:
        assert file.read_all().column("a").to_pylist() == ["x", "y", "z"]


def damage(data: bytes) -> dict[str, bytes]:
    """Break a file in several ways."""
    return {
        "empty": b"",
        "text": b"t,n\nsecret,1\n",
        "magic": b"PAR1",
        "cut": data[:-20],
        "holes": data[:64] + bytes(len(data) // 2) + data[64 + len(data) // 2 :],
    }


@pytest.mark.parametrize("how", damage(b""))
def test_what_cannot_be_read(source: Path, how: str) -> None:
    """What is none of the format, cut or damaged is refused, without a value."""
    source.write_bytes(damage(source.read_bytes())[how])
    target = source.with_name(f"out{source.suffix}")

    with pytest.raises(InputError, match="cannot be read as") as caught:
        rewrite(source, target)

    assert source.suffix[1:].capitalize() in caught.value.message
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not target.exists()


def test_a_column_that_is_there_already(tmp_path: Path) -> None:
    """It is refused in any letter case."""
    store(pa.table({"uid": ["x"]}), tmp_path / "in.parquet")

    reader = open_reader(tmp_path / "in.parquet", FileFormatOptions())
    with pytest.raises(InputError, match="already has a column 'uid'"):
        reader.select([], added=ADDED)
    reader.close()


@pytest.mark.parametrize("name", ["pyarrow", "pyarrow.parquet"])
def test_without_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One line says what to install."""
    store(table(), tmp_path / "in.parquet")
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(InputError, match="need pyarrow") as caught:
        open_reader(tmp_path / "in.parquet", FileFormatOptions())

    assert caught.value.hint == "pip install 'uid2-async[arrow]'"


def open_part(source: Path, **options: Any) -> ArrowOutput:
    """Open an output with some rows."""
    how = FileFormatOptions(format=Format(source.suffix[1:]))
    part = source.with_name("part")
    with closing(open_reader(source, how)) as reader:
        output = open_output(reader, how, part, added=ADDED, **options)
        done = 0
        for some in read_all(reader):
            output.write(output.format(some, cells(done, some.count)))
            done += some.count
    assert isinstance(output, ArrowOutput)
    return output


def test_killed_before_the_rename_was_noted(source: Path) -> None:
    """The output is written again from its parts, and is the same."""
    target = source.with_name(f"out{source.suffix}")
    output = open_part(source)
    output.sync()
    shutil.copytree(source.parent, source.parent / "killed")
    output.finish(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in source.parent.glob("part*")] == []

    again = open_part(source.parent / "killed" / source.name, saved=1)
    again.close()
    again.finish(target)
    whole = target.read_bytes()
    assert fetch(target).num_rows == 30

    again.finish(target)
    assert target.read_bytes() == whole
    target.unlink()
    with pytest.raises(JobError, match="its saved part are missing"):
        again.finish(target)


@pytest.mark.parametrize("rows", [0, 30])
def test_written_once(source: Path, rows: int) -> None:
    """What is not to be resumed is written straight away, and placed when whole."""
    store(table(rows), source)
    target = source.with_name(f"out{source.suffix}")

    rewrite(source, target, step=4, resumable=False)

    assert fetch(target).num_rows == rows
    assert fetch(target).column("UID").to_pylist() == cells(0, rows)["UID"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in source.parent.glob("part*")] == []


def test_written_again(source: Path) -> None:
    """What a killed run has left of an output is replaced, even if it was longer."""
    target = source.with_name(f"out{source.suffix}")
    source.with_name("part").write_bytes(b"x" * 100_000)

    rewrite(source, target, resumable=False)

    assert fetch(target).num_rows == 30


def fail(number: int) -> Callable[..., Any]:
    """Make a system call that fails."""

    def call(*_: object) -> Any:
        raise OSError(number, "a defect")

    return call


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_disk_that_fails_at_the_end(source: Path, call: str, parts: int) -> None:
    """Nothing has the final name then, and no other file is left."""
    target = source.with_name(f"out{source.suffix}")
    saved = open_part(source).sync()
    if parts == 2:
        saved = open_part(source, saved=saved).sync()
    output = open_part(source, saved=saved, disk=Disk(**{call: fail(5)}))
    output.close()

    with pytest.raises(JobError, match="Input/output error"):
        output.finish(target)

    names = sorted(one.name for one in source.parent.iterdir())
    assert names == [source.name, *(f"part.{n:05}" for n in range(parts))]


def test_a_full_disk(source: Path) -> None:
    """A part that could not be written is made again."""
    output = open_part(source, disk=Disk(fsync=fail(28)))
    with pytest.raises(JobError, match="No space left"):
        output.sync()

    target = source.with_name(f"out{source.suffix}")
    rewrite(source, target)

    assert fetch(target).num_rows == 30


NO_PARQUET = {
    "interval": pa.month_day_nano_interval(),
    "scale": pa.decimal128(5, -2),
    "runs": pa.list_(pa.run_end_encoded(pa.int32(), pa.string())),
    "union": pa.dense_union([pa.field("a", pa.int8())]),
    "nothing": pa.struct([("a", pa.struct([]))]),
    "empty": pa.binary(0),
}


def test_types_that_parquet_lacks(tmp_path: Path) -> None:
    """They are refused by name before a row is read, without Arrow's own words."""
    schema = pa.schema({"t": pa.string(), **NO_PARQUET})
    with pa.ipc.new_file(tmp_path / "in.arrow", schema):
        pass

    with (
        closing(open_reader(tmp_path / "in.arrow", FileFormatOptions())) as reader,
        pytest.raises(InputError, match="cannot be written: 'interval'") as caught,
    ):
        open_output(
            reader,
            FileFormatOptions(format=Format.PARQUET),
            tmp_path / "part",
            added=ADDED,
        )

    assert all(f"'{name}' (" in caught.value.message for name in NO_PARQUET)
    assert "'t'" not in caught.value.message
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not (tmp_path / "part").exists()


def test_types_that_only_arrow_has(tmp_path: Path) -> None:
    """In Parquet, they become the nearest type that has their values."""
    ids = pa.array([b"x" * 16], pa.binary(16))
    columns = {
        "dictionary": dictionary(pa.list_(pa.int8()), [1, 2], []),
        "seconds": pa.array([1, None], pa.timestamp("s")),
        "days": pa.array([86_400_000, None], pa.date64()),
        "ids": in_list(pa.ExtensionArray.from_storage(pa.uuid(), ids)),
    }
    data = pa.table(columns)
    with pa.ipc.new_file(tmp_path / "in.arrow", data.schema) as writer:
        writer.write_table(data)

    rewrite(tmp_path / "in.arrow", tmp_path / "out.parquet", step=1)

    after = fetch(tmp_path / "out.parquet").select(list(columns))
    assert after.to_pylist() == data.to_pylist()


def test_each_column_keeps_its_compression(tmp_path: Path) -> None:
    """Leaves of nested columns too; an added column has that of the first one."""
    data = table().select(["t", "n", "nested", "bytes"])
    codecs = {
        "t": "ZSTD",
        "n": "UNCOMPRESSED",
        "nested.list.element.a": "LZ4",
        "nested.list.element.b.list.element": "BROTLI",
        "bytes": "GZIP",
    }
    compression = {
        path: "NONE" if codec == "UNCOMPRESSED" else codec
        for path, codec in codecs.items()
    }
    parquet.write_table(data, tmp_path / "in.parquet", compression=compression)

    rewrite(tmp_path / "in.parquet", tmp_path / "out.parquet")

    group = parquet.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0)
    leaves = map(group.column, range(group.num_columns))
    assert {leaf.path_in_schema: leaf.compression for leaf in leaves} == {
        **codecs,
        **dict.fromkeys(ADDED, "ZSTD"),
    }


DUCKDB = Path(__file__).parent / "parquet"


def test_types_that_arrow_does_not_know(tmp_path: Path) -> None:
    """What would be written as another type is refused by name."""
    with pytest.raises(InputError, match=r"'i' \(Interval\)") as caught:
        rewrite(DUCKDB / "interval.parquet", tmp_path / "out.parquet")

    assert "Cast or drop" in caught.value.hint
    rewrite(DUCKDB / "interval.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize("name", ["time_utc", "types"])
def test_parquet_is_written_as_it_was(tmp_path: Path, name: str) -> None:
    """A time in UTC, a UUID, JSON and enums; compressed as the input is."""
    if name == "types" and pa.__version__ < "21":  # which does not know UUIDs
        with pytest.raises(InputError, match="types cannot be written"):
            rewrite(DUCKDB / f"{name}.parquet", tmp_path / "out.parquet")
        return
    rewrite(DUCKDB / f"{name}.parquet", tmp_path / "out.parquet")

    before = parquet.ParquetFile(DUCKDB / f"{name}.parquet")
    after = parquet.ParquetFile(tmp_path / "out.parquet")
    for at in range(len(before.schema)):
        one, other = before.schema.column(at), after.schema.column(at)
        known = {"JSON": "String"}
        logical = str(one.logical_type)
        assert str(other.logical_type) in (logical, known.get(logical))
        assert (
            after.metadata.row_group(0).column(at).compression
            == before.metadata.row_group(0).column(at).compression
        )


@pytest.mark.parametrize("bits", range(8))
def test_a_damaged_file_does_not_end_the_process(tmp_path: Path, bits: int) -> None:
    """Every byte that may be an offset is tried; each batch is validated in full."""
    store(table(20).select(["t", "large", "small", "nested"]), tmp_path / "in.arrow")
    whole = (tmp_path / "in.arrow").read_bytes()
    path = tmp_path / "damaged.arrow"
    for at in range(bits, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(InputError):
            rewrite(path, tmp_path / "out.arrow")
