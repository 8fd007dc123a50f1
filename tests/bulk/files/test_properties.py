"""Whatever a file has: other columns equal, rows in order, on every Python."""

from __future__ import annotations

import codecs
import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.bulk.files.conftest import ADDED, cells, convert, rewrite, rewrite_bytes
from uid2_async.errors import InputError

ENCODINGS = ["utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp932"]
# With a NUL, which is refused, and what splits lines elsewhere.
CHARS = "ab,;|\t\"\n\r é'=+-@\x0b\x85\u2028#\\\0\ufeff%{}"
QUIET = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def encodable(encoding: str) -> Any:
    """Choose fields that an encoding has."""

    def fits(text: str) -> bool:
        try:
            return text.encode(encoding).decode(encoding) == text
        except UnicodeError:
            return False

    return st.text(alphabet=[one for one in CHARS if fits(one)], max_size=6)


@attrs.frozen
class CsvFile:
    """A CSV file, and what it was made of."""

    header: list[str]
    rows: list[list[str]]
    data: bytes
    options: dict[str, Any]


@st.composite
def csv_files(draw: Any) -> CsvFile:
    """Make a file by the csv module: any width, delimiter, quoting and encoding."""
    encoding = draw(st.sampled_from(ENCODINGS))
    field = encodable(encoding)
    width = draw(st.sampled_from([1, 2, 3, 7, 200]))
    delimiter = draw(st.sampled_from(",;\t|"))
    header = [f"c{n}" for n in range(width)]
    row = st.lists(field, min_size=width, max_size=width)
    if width == 200:
        row = st.builds(
            lambda some: (some * 200)[:200], st.lists(field, min_size=2, max_size=3)
        )
    rows = draw(st.lists(row, max_size=4))
    if width == 1:
        rows = [one for one in rows if one != [""]]
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=delimiter,
        quoting=csv.QUOTE_ALL,
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
    )
    writer.writerows([header, *rows])
    body = text.getvalue()
    if draw(st.booleans()):
        body = body.rstrip("\r\n")
    options = {"delimiter": delimiter, "encoding": encoding}
    return CsvFile(header, rows, body.encode(encoding), options)


def read_csv(data: bytes, options: dict[str, Any]) -> list[list[str]]:
    """Read CSV by the csv module."""
    text = io.StringIO(data.decode(options["encoding"]), newline="")
    return list(csv.reader(text, delimiter=options["delimiter"], strict=True))


@QUIET
@given(file=csv_files(), step=st.integers(1, 3), safe=st.booleans())
def test_any_csv(tmp_path: Path, file: CsvFile, step: int, *, safe: bool) -> None:
    """Other columns are equal, or made safe; a NUL is refused with its line."""
    options = file.options | {"spreadsheet_safe": safe}
    if b"\0" in "".join("".join(row) for row in file.rows).encode():
        with pytest.raises(InputError, match="NUL"):
            rewrite_bytes(tmp_path, file.data, "csv", **options)
        return

    made = rewrite_bytes(tmp_path, file.data, "csv", step=step, **options)

    header, *rows = read_csv(made, file.options)
    marks = ("=", "+", "-", "@", "\t", "\r")
    expected = [
        [f"'{one}" if safe and one.startswith(marks) else one for one in row]
        for row in file.rows
    ]
    added = zip(*cells(0, len(rows)).values(), strict=True)
    assert header == [*file.header, *ADDED]
    for row, before, new in zip(rows, expected, added, strict=True):
        assert row == [*before, *("" if one is None else str(one) for one in new)]
    if not safe:
        lines = file.data.decode(file.options["encoding"])
        assert made.decode(file.options["encoding"]).startswith(
            lines.rstrip("\r\n")[:1]
        )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=CHARS + "\ud83d", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(alphabet=CHARS, max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)


@QUIET
@given(
    rows=st.lists(
        st.dictionaries(st.text(alphabet=CHARS, max_size=3), VALUES, max_size=4),
        max_size=5,
    ),
    step=st.integers(1, 3),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32"]),
    mark=st.booleans(),
    plain=st.booleans(),
)
def test_any_json_lines(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    step: int,
    encoding: str,
    *,
    mark: bool,
    plain: bool,
) -> None:
    """Each object keeps its own text, and gets three keys more."""
    lines = [json.dumps(row, ensure_ascii=not plain) for row in rows]
    text = "".join(f"{line}\n" for line in lines)
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        return  # half of a surrogate pair, which no file in that encoding has
    if mark and encoding == "utf-8":
        data = codecs.BOM_UTF8 + data

    made = rewrite_bytes(tmp_path, data, "jsonl", step=step, encoding=encoding)

    found = made.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    assert made.startswith(codecs.BOM_UTF8) == (mark and encoding == "utf-8")
    new = zip(*cells(0, len(rows)).values(), strict=True)
    for text, line, values in zip(found.split("\n"), lines, new, strict=False):
        assert text.startswith(line[:-1])
        tail = (
            "," * (line != "{}")
            + json.dumps(dict(zip(ADDED, values, strict=True)), separators=(",", ":"))[
                1:
            ]
        )
        assert text == line[:-1] + tail
    assert found.count("\n") == len(lines)


@QUIET
@given(file=csv_files())
def test_any_csv_converts(tmp_path: Path, file: CsvFile) -> None:
    """By way of JSON lines and Parquet, cells come back; an empty one is missing."""
    if any("\0" in one for row in file.rows for one in row):
        return
    pytest.importorskip("pyarrow")
    (tmp_path / "in.csv").write_bytes(file.data)
    utf8 = {"delimiter": ",", "encoding": "utf-8"}
    for suffix in ("jsonl", "parquet", "arrow"):
        middle = tmp_path / f"middle.{suffix}"
        convert(tmp_path / "in.csv", middle, **file.options)
        how = file.options if suffix == "jsonl" else utf8
        convert(middle, tmp_path / "out.csv", **(how | {"delimiter": ","}))
        found = read_csv(
            (tmp_path / "out.csv").read_bytes().removeprefix(codecs.BOM_UTF8),
            how | {"delimiter": ","},
        )
        if suffix == "jsonl" and not file.rows:
            continue  # nothing tells which columns there would be
        assert found == [file.header, *file.rows]


def arrow_tables() -> Any:
    """Make tables of any of these types, with nulls, and repeated row groups."""
    pa = pytest.importorskip("pyarrow")
    kinds = [
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.float32(), st.floats(width=32)),
        (pa.float64(), st.floats()),
        (pa.bool_(), st.booleans()),
        (pa.string(), st.text(max_size=4)),
        (pa.large_string(), st.text(max_size=4)),
        (pa.binary(), st.binary(max_size=4)),
        (pa.binary(3), st.binary(min_size=3, max_size=3)),
        (
            pa.timestamp("ns", "Europe/Berlin"),
            st.integers(0, 2**52).map(lambda n: 1_000 * n),
        ),
        (pa.timestamp("ms"), st.integers(0, 2**40)),
        (pa.date32(), st.integers(0, 20_000)),
        (pa.time64("us"), st.integers(0, 86_399_999_999)),
        (pa.duration("us"), st.integers(0, 2**50)),
        (pa.decimal128(20, 3), st.decimals(-(10**6), 10**6, places=3)),
        (pa.list_(pa.string()), st.lists(st.text(max_size=2), max_size=2)),
        (
            pa.struct({"a": pa.int32(), "b": pa.list_(pa.float64())}),
            st.fixed_dictionaries(
                {"a": st.integers(0, 9), "b": st.lists(st.floats(), max_size=2)}
            ),
        ),
        (
            pa.map_(pa.string(), pa.int32()),
            st.dictionaries(st.text(max_size=2), st.integers(0, 9)).map(
                lambda one: list(one.items())
            ),
        ),
        (pa.null(), st.none()),
    ]

    @st.composite
    def tables(draw: Any) -> Any:
        chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))
        rows = draw(st.integers(0, 7))
        columns, names = [], []
        for number, (kind, values) in enumerate(chosen):
            cells = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
            column = pa.array(cells, kind)
            if kind == pa.string() and draw(st.booleans()):
                column = column.dictionary_encode()
            columns.append(column)
            names.append(f"c{number}")
        return pa.Table.from_arrays(columns, names=names)

    return tables()


@QUIET
@given(data=st.data(), step=st.integers(1, 3), resumable=st.booleans())
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_any_schema(
    tmp_path: Path, suffix: str, data: Any, step: int, *, resumable: bool
) -> None:
    """Columns keep their types and values, nested and dictionaries too."""
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    module = parquet if suffix == "parquet" else feather
    table = data.draw(arrow_tables())
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, source, row_group_size=3)
    else:
        feather.write_feather(table, source, chunksize=100)
    before = module.read_table(source)

    rewrite(source, target, step=step, resumable=resumable)

    after = module.read_table(target)
    assert after.column_names == [*before.column_names, *ADDED]
    kept = after.select(before.column_names)
    assert kept.schema.equals(before.schema, check_metadata=True)
    assert repr(kept.to_pylist()) == repr(before.to_pylist())


@QUIET
@given(data=st.data())
def test_any_schema_converts(tmp_path: Path, data: Any) -> None:
    """To text whatever the types are, with as many rows, and no foreign error."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = data.draw(arrow_tables())
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    for name in ("out.csv", "out.jsonl", "out.arrow"):
        (tmp_path / name).unlink(missing_ok=True)
        with suppress(InputError):  # of types that Python has no value for
            convert(tmp_path / "in.parquet", tmp_path / name)
        if not (tmp_path / name).exists():
            continue
        lines = (tmp_path / name).read_bytes()
        if name == "out.jsonl":
            found = [json.loads(one) for one in lines.decode().split("\n") if one]
            assert len(found) == table.num_rows
            assert all(list(one) == table.column_names for one in found)
