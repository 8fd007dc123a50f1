"""Files of rows: what was in them stays, columns are appended, defects are refused."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from uid2_async.cli.csv_files import open_target
from uid2_async.cli.row_files import (
    CHUNK_ROWS,
    Cells,
    Format,
    Shape,
    format_of,
    open_table,
)
from uid2_async.errors import InputError

CSV, JSONL, PARQUET = Format
SHAPE = Shape(
    wanted={"--column": "T"}, added={"UID": str, "SITE_ID": int, "STATUS": str}
)
TOKEN = "A4AAAAPp_KS48A9sW4JGYBxyzj24ivCw7qdoi-y5P3RTyFzN1URWH_AgcP8QnXoZLEt69glhotVh"


def work(values: Sequence[Sequence[str]]) -> Iterable[Cells]:
    """Answer values that begin with g, and refuse all others."""
    for one in values[0]:
        yield (one.upper(), 7, None) if one[:1] == "g" else (None, None, "BAD")


def rewrite(
    source: Path, target: Path, kind: Format, shape: Shape = SHAPE
) -> list[int]:
    """Rewrite a file; return how many rows each part had."""
    sizes: list[int] = []

    def counting(values: Sequence[Sequence[str]]) -> Iterable[Cells]:
        sizes.append(len(values[0]))
        return work(values)

    with (
        open_table(str(source), kind, shape) as table,
        open_target(str(target)) as out,
    ):
        table.rewrite(out, counting)
    return sizes


def rewrite_bytes(
    folder: Path, data: bytes, kind: Format, shape: Shape = SHAPE
) -> bytes:
    """Rewrite what a file of *data* holds."""
    (folder / "in").write_bytes(data)
    rewrite(folder / "in", folder / "out", kind, shape)
    return (folder / "out").read_bytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b'a,T\n"x, ""y""",good\n 1 ,\n',
            b'a,T,UID,SITE_ID,STATUS\n"x, ""y""",good,GOOD,7,\n 1 ,,,,BAD\n',
        ),
        (
            b'\xef\xbb\xbft,a\r\ng,"1\r2"\r\n',
            b't,a,UID,SITE_ID,STATUS\r\n"g","1\r2","G","7",""\r\n',
        ),
        (b"T\n", b"T,UID,SITE_ID,STATUS\n"),
    ],
)
def test_csv(tmp_path: Path, data: bytes, expected: bytes) -> None:
    """Fields and line ends stay; what is missing is an empty field."""
    assert rewrite_bytes(tmp_path, data, CSV) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            '{"n": 1.10, "T":"g\\u00fc", "big":123456789012345678901234567890 }\r\n',
            (
                '{"n": 1.10, "T":"g\\u00fc", "big":123456789012345678901234567890 ,'
                '"UID":"GÜ","SITE_ID":7,"STATUS":null}\n'
            ),
        ),
        (
            '{"T":"g"}\n\n{"a":"}"}\n{}\n{"T":null}\n{"T":3}',
            (
                '{"T":"g","UID":"G","SITE_ID":7,"STATUS":null}\n'
                '{"a":"}","UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
                '{"UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
                '{"T":null,"UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
                '{"T":3,"UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
            ),
        ),
        ("", ""),
    ],
)
def test_jsonl(tmp_path: Path, data: str, expected: str) -> None:
    """Lines stay to the last digit; what is missing or no text is a failed row."""
    assert rewrite_bytes(tmp_path, data.encode(), JSONL).decode() == expected


def test_parquet(tmp_path: Path) -> None:
    """Columns keep their types and values, and the file its metadata."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "n": pa.array([1, None, 3], pa.int16()),
        "t": pa.array(["g1", None, "x"]).dictionary_encode(),
        "when": pa.array([1, 2, 3], pa.timestamp("us", tz="UTC")),
        "nested": pa.array([[{"a": 1}], [], None]),
    }
    before = pa.table(columns).replace_schema_metadata({"made by": "a test"})
    parquet.write_table(before, tmp_path / "in.parquet")

    rewrite(tmp_path / "in.parquet", tmp_path / "out.parquet", PARQUET)
    after = parquet.read_table(tmp_path / "out.parquet")

    assert after.select(list(columns)).equals(before)
    assert after.schema.metadata[b"made by"] == b"a test"
    assert after.column("UID").to_pylist() == ["G1", None, None]
    assert after.column("SITE_ID").to_pylist() == [7, None, None]
    assert after.column("SITE_ID").type == pa.int32()
    assert after.column("STATUS").to_pylist() == [None, "BAD", "BAD"]


def test_empty_parquet(tmp_path: Path) -> None:
    """A file without rows gets the columns."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"T": pa.array([], "string")}), tmp_path / "in")

    rewrite(tmp_path / "in", tmp_path / "out", PARQUET)

    found = parquet.read_table(tmp_path / "out")
    assert (found.num_rows, found.column_names) == (
        0,
        ["T", "UID", "SITE_ID", "STATUS"],
    )


@pytest.mark.parametrize("kind", Format)
def test_files_are_worked_on_in_parts(tmp_path: Path, kind: Format) -> None:
    """No more than one part of a file is in memory."""
    size, most = CHUNK_ROWS * 2 + 1, CHUNK_ROWS
    source = tmp_path / "in"
    match kind:
        case Format.CSV:
            source.write_text("T\n" + "g\n" * size)
        case Format.JSONL:
            source.write_text('{"T":"g"}\n' * size)
        case Format.PARQUET:
            pa = pytest.importorskip("pyarrow")
            size, most = 65_536 * 2 + 1, 65_536
            pa.parquet.write_table(pa.table({"T": ["g"] * size}), source)

    sizes = rewrite(source, tmp_path / "out", kind)

    assert (sum(sizes), max(sizes)) == (size, most)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (CSV, b"", ["is empty"]),
        (CSV, b"a,b\n", ["no column 'T'", "'a', 'b'", "--column NAME"]),
        (CSV, b"T,uid\n", ["already has a column 'uid'"]),
        (CSV, b"T\nx,y\n", ["line 2: 2 fields"]),
        (CSV, TOKEN.encode() + b"\nx\n", ["the first row looks like data"]),
        (JSONL, b'{"a":1,"b":2}\n', ["no column 'T'", "'a', 'b'", "--column NAME"]),
        (JSONL, b'{"T":"x","UID":1}\n', ["already has a column 'UID'"]),
        (JSONL, b'{"T":"x"}\n{"T":"x","Site_Id":1}\n', ["a column 'Site_Id'"]),
        (JSONL, b'{"T":"x"}\n\n{"T":\n', ["line 3: this is no JSON object"]),
        (JSONL, b'{"T":"\\ud800"}', ["line 1: this is no JSON object"]),
        (JSONL, b'["T"]\n', ["line 1: this is no JSON object"]),
        (JSONL, b'{"T":"x"}\n{"T":"\xff"}\n', ["line 2: this is not UTF-8"]),
        (JSONL, b'{"%s":"x"}\n' % TOKEN.encode(), ["looks like data"]),
    ],
)
def test_defects(tmp_path: Path, kind: Format, data: bytes, words: list[str]) -> None:
    """A file that cannot be read whole is refused, without a value, and leaves none."""
    with pytest.raises(InputError) as caught:
        rewrite_bytes(tmp_path, data, kind)

    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__context__ is None
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_defects_of_parquet(tmp_path: Path) -> None:
    """What is no Parquet, cut, or without a column of text is refused."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    whole = io.BytesIO()
    parquet.write_table(
        pa.table({"T": [f"g{at}" for at in range(10_000)], "n": [1] * 10_000}), whole
    )
    data = whole.getvalue()
    numbers = Shape(wanted={"--column": "n"}, added={"UID": str})
    taken = Shape(wanted={"--column": "T"}, added={"N": int})
    broken = data[:4] + bytes(2_000) + data[2_004:]
    for bad, shape, words in (
        (b"PAR1", SHAPE, "cannot be read as Parquet"),
        (data[:-20], SHAPE, "cannot be read as Parquet"),
        (broken, SHAPE, "cannot be read as Parquet"),
        (data, numbers, "the column 'n' is no text, but int64"),
        (data, taken, "already has a column 'n'"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            rewrite_bytes(tmp_path, bad, PARQUET, shape)
        assert caught.value.__context__ is None
        assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_parquet_without_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(InputError, match="needs pyarrow") as caught:
        rewrite_bytes(tmp_path, b"PAR1", PARQUET)

    assert caught.value.hint == "pip install 'uid2-async[arrow]'"


@pytest.mark.parametrize(
    ("source", "target", "given", "expected"),
    [
        ("a.csv", "b.csv", None, CSV),
        ("a.CSV", "-", None, CSV),
        ("-", "b.ndjson", None, JSONL),
        ("a.jsonl", "b.txt", None, JSONL),
        ("a.parquet", "b.parquet", None, PARQUET),
        ("a.txt", "-", JSONL, JSONL),
        ("a.csv", "b.jsonl", None, "different formats"),
        ("-", "-", None, "do not tell the format"),
        ("a", "b.txt", None, "do not tell the format"),
        ("a.parquet", "-", None, "Parquet cannot be read from stdin"),
        ("-", "a", PARQUET, "Parquet cannot be read from stdin"),
    ],
)
def test_formats(
    source: str, target: str, given: Format | None, expected: Format | str
) -> None:
    """The option tells the format, or else the suffixes, which must agree."""
    if isinstance(expected, Format):
        assert format_of(source, target, given) is expected
    else:
        with pytest.raises(InputError, match=expected):
            format_of(source, target, given)


def test_every_line_of_jsonl_stays_json(tmp_path: Path) -> None:
    """Whatever white space stands at the end, an object comes out."""
    data = b' { "T" : "g" } \t\n{ }\t\n'

    lines = rewrite_bytes(tmp_path, data, JSONL).splitlines()

    assert [json.loads(one)["UID"] for one in lines] == ["G", None]
