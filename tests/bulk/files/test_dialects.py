"""Files as Excel, Google, Spark, Snowflake and others write them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.bulk.files.conftest import (
    ADDED,
    convert,
    fields,
    read_all,
    rewrite_bytes,
    select,
)
from uid2_async.bulk.columns import IdentifierColumns, InputWarnings, find_identifiers
from uid2_async.bulk.files import TableWriter, open_reader
from uid2_async.bulk.job import read_check
from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.bulk.text import BadRow
from uid2_async.errors import ConfigError, InputError, JobError
from uid2_async.protocol.hash_spelling import HashSpelling

Make = Callable[..., Any]
E = "x@example.com"


@pytest.mark.parametrize(
    ("data", "options", "header", "rows"),
    [
        (b"id\temail\n1\tx\n", {"delimiter": "\t"}, ["id", "email"], [["1", "x"]]),
        (
            b"sep=;\r\nid;email\r\n1;x\r\n",
            {"sep_line": True},
            ["id", "email"],
            [["1", "x"]],
        ),
        (
            b'# Read me,\n#\n\nid,email\n# it\'s "not a row\n1,x\n\n#2,y\n"3\n#,",z\n',
            {"comment": "#"},
            ["id", "email"],
            [["1", "x"], ["3\n#,", "z"]],
        ),
        (
            b"email , id\n x ,1\n",
            {"strip_header": True},
            ["email", "id"],
            [[" x ", "1"]],
        ),
        (
            b'id, "email"\n1, "x, y"\n',
            {"skip_initial_space": True},
            ["id", "email"],
            [["1", "x, y"]],
        ),
        (
            b'n,e\n"say \\"hi\\", \\\\",C:\\new\\\n"a\\\\\\"b",\\\n\\N,"c\\d"\n',
            {"escape": "\\"},
            ["n", "e"],
            [['say "hi", \\', "C:\\new\\"], ['a\\"b', "\\"], ["\\N", "c\\d"]],
        ),
        (b"a,b\n\\N,NULL\n", {"null": "\\N"}, ["a", "b"], [["", "NULL"]]),
    ],
)
def test_csv_dialects(
    make_reader: Make,
    data: bytes,
    options: dict[str, Any],
    header: list[str],
    rows: list[list[str]],
) -> None:
    """Each is read by an option of its own; nothing is guessed."""
    reader = make_reader(data, **options)

    assert reader.header == header
    assert fields(reader) == rows


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"id\temail\n1\tx\n", "use `delimiter`"),
        (b"sep=;\nid;email\n1;x\n", "Use `sep_line=True`"),
        (b"# Instructions\nemail\nx\n", 'use `comment="#"`'),
        (b"email ,id\nx,1\n", "use `strip_header=True`"),
        (b'id, "email"\n1, "x"\n', "`skip_initial_space=True`"),
        (b'name,email\n"say \\"hi\\"",x\n', r'use `escape="\\"`'),
        (b'[{"email": "x"}]\n', 'Use `format="jsonl"`'),
        (b"Email,x,Email\na,b,c\n", "'email#1' is the first"),
        (b"id,email\n1,x\n   \n", "Remove the line"),
    ],
)
def test_what_the_message_advises(make_reader: Make, data: bytes, hint: str) -> None:
    """What is not plain CSV is refused with the option that reads it."""

    def read() -> None:
        reader = make_reader(data)
        select(reader, "email")
        read_all(reader)

    with pytest.raises(InputError) as caught:
        read()

    assert hint in f"{caught.value} {caught.value.hint}"
    assert "in.csv" in str(caught.value)


def test_a_tsv_is_split_at_tabs(make_reader: Make) -> None:
    """Its name says so."""
    assert make_reader(b"a\tb\n1\t2,3\n", "tsv").header == ["a", "b"]
    packed = gzip.compress(b"a\tb\n", mtime=0)
    assert make_reader(packed, "tsv.gz").header == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        (
            b"sep=;\r\nid;T\r\n1;x\r\n",
            {"sep_line": True},
            b"sep=;\r\nid;T;UID;REFRESH_FROM;ERROR\r\n1;x;;;ServerError, HTTP 500\r\n",
        ),
        (
            b"# Hi\nT\n1\n# x\n2\n",
            {"comment": "#"},
            b'T,UID,REFRESH_FROM,ERROR\n1,,,"ServerError, HTTP 500"\n2,uid1,1,\n',
        ),
        (
            b'T\n"\\""\n',
            {"escape": "\\"},
            b'T,UID,REFRESH_FROM,ERROR\n"\\"",,,"ServerError, HTTP 500"\n',
        ),
        (
            b'T, b\n"1", 2\n',
            {"skip_initial_space": True, "strip_header": True},
            b'T, b,UID,REFRESH_FROM,ERROR\n"1", 2,,,"ServerError, HTTP 500"\n',
        ),
    ],
)
def test_dialects_are_written_as_they_are_read(
    tmp_path: Path, data: bytes, options: dict[str, Any], expected: bytes
) -> None:
    """Rows keep their text; a sep= line stays, comments and blank lines do not."""
    assert rewrite_bytes(tmp_path, data, "csv", **options) == expected


@pytest.mark.parametrize(
    "option",
    [
        {"escape": '"'},
        {"escape": ","},
        {"escape": ";", "delimiter": ";"},
        {"comment": ""},
        {"comment": '"'},
        {"comment": ",#"},
    ],
)
def test_options_that_are_refused(option: dict[str, Any]) -> None:
    """What cannot be told from other marks."""
    with pytest.raises(ConfigError):
        FileFormatOptions(**option).for_file(Path("in.csv"))


def test_sep_lines_that_are_none(make_reader: Make) -> None:
    """The option is for files that have one."""
    with pytest.raises(InputError, match="not sep= and a delimiter"):
        make_reader(b"id,email\n", sep_line=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\3\4rest", "a ZIP archive or an Excel workbook"),
        (gzip.compress(b"a\n", mtime=0), "compressed by gzip"),
        (b"PAR1\x15\0", "Parquet"),
        (b"ARROW1\0\0", "an Arrow file"),
        (b"\x28\xb5\x2f\xfdxxx", "compressed by zstd"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (bz2.compress(b"a\n", 1), "compressed by bzip2"),
        (bz2.compress(b"a\n"), "compressed by bzip2"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_is_not_text(
    make_reader: Make, data: bytes, words: str, suffix: str
) -> None:
    """It is called by its name."""
    with pytest.raises(InputError, match=words):
        make_reader(data, suffix)


@pytest.mark.parametrize("name", ["PAR1", "ARROW1", "BZh9", "PK", "(\xb5/"])
def test_headers_like_other_formats(make_reader: Make, name: str) -> None:
    """A column may have the name by which a file of another format begins."""
    assert make_reader(f"{name},b\n".encode()).header == [name, "b"]


# --- JSON lines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b'{"email":"x","score":NaN,"big":12345678901234567890.10}',
        b'{"email":"x","low":-Infinity,"name":"x\\ud83d"}',
        b'{"email":"x","deep":[{"a":"\\udc00"}]}',
    ],
)
def test_odd_json_in_other_fields(
    make_reader: Make, tmp_path: Path, line: bytes
) -> None:
    """NaN and half of an emoji are passed on as they are."""
    reader = make_reader(line + b"\n", "jsonl")
    select(reader, "email")
    (rows,) = read_all(reader)
    assert rows.values(0) == ["x"]

    made = rewrite_bytes(tmp_path, line + b"\n", "jsonl")

    assert made.startswith(line[:-1] + b',"UID":')


@pytest.mark.parametrize(
    "value",
    [b'["x"]', b'{"value":"x"}', b'["x",NaN]', b"12025550147", b"true", b"1.5", b"NaN"],
)
def test_identifiers_that_are_not_strings(make_reader: Make, value: bytes) -> None:
    """They are refused, as in Parquet; as a key of a delta they are JSON."""
    data = b'{"email":"[x"}\n{"email":%b}\n\n{"email":"y"}\n' % value
    data += b'{"email":%b}\n' % value
    bad: list[BadRow] = []
    reader = make_reader(data, "jsonl", on_bad_row=bad.append)
    select(reader, "email")
    rows = [one for some in read_all(reader) for one in some.values(0)]
    assert rows == ["[x", "y"]
    assert [(one.line, one.cause) for one in bad] == [
        (2, "an identifier is not a string"),
        (5, "an identifier is not a string"),
    ]
    reader = make_reader(data, "jsonl")
    reader.select([0], ["email"])
    with pytest.raises(InputError, match="line 2: an identifier is not a string"):
        read_all(reader)
    reader = make_reader(data, "jsonl")
    reader.select([], ["email"])
    (rows,) = read_all(reader)
    assert rows.values("email")[1] == value.decode()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_json_lines_in_other_encodings(make_reader: Make, encoding: str) -> None:
    """The option counts for them, too."""
    data = '{"email":"é"}\n'.encode(encoding)
    reader = make_reader(data, "jsonl", encoding=encoding)
    select(reader, "email")

    assert [one.values(0) for one in read_all(reader)] == [["é"]]


# --- Columns --------------------------------------------------------------------------


def test_names_that_are_repeated(make_reader: Make) -> None:
    """The n-th is named, or all are taken in order of preference."""
    data = b"Email,Phone,Email,email#2\na,b,c,d\n"
    reader = make_reader(data)
    found = find_identifiers(
        reader.header, column=None, kind=None, several={"email": "Email#*"}
    )
    assert [kind for kind, _ in found.columns] == ["email", "email"]
    reader.select(found.wanted)
    (rows,) = read_all(reader)
    assert [one.values for one in found.identities(rows)] == [["a"], ["c"]]

    second = find_identifiers(reader.header, column="Email#2", kind="email", several={})
    assert second.wanted == [2]
    only = find_identifiers(reader.header, column="Phone#*", kind="phone", several={})
    assert only.wanted == [1]
    plain = find_identifiers(reader.header, column="email#2", kind="email", several={})
    assert plain.wanted == [3]
    with pytest.raises(InputError, match="no column 'Email#3'"):
        find_identifiers(reader.header, column="Email#3", kind="email", several={})


@pytest.mark.parametrize("nothing", ["", "null", "NULL", "nan", "None"])
def test_the_hash_of_nothing(make_reader: Make, nothing: str) -> None:
    """It is not an identifier, and it is counted: one person would be made of many."""
    digest = sha256(nothing.encode())
    spelled = [digest.hexdigest(), digest.hexdigest().upper()]
    spelled.append(b64encode(digest.digest()).decode())
    reader = make_reader("\n".join(["h", *spelled, "x", ""]).encode())
    columns = IdentifierColumns([("email_hash", 0)])
    reader.select(columns.wanted)
    (rows,) = read_all(reader)

    (found,) = columns.identities(rows)

    assert found.values == [None, None, None, "x"]
    assert found.hashes_of_nothing == 3


def test_what_is_odd_about_identifiers(make_reader: Make) -> None:
    """It is counted, for those who wonder why nothing is mapped."""
    odd = "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf_F5HVRQ="
    data = f"e,h\nu@example.com,{odd}\nu@example.com\u200b,{odd}\nU <u@example.com>,\n"
    reader = make_reader(data.encode())
    columns = IdentifierColumns([("email", 0), ("email_hash", 1)])
    reader.select(columns.wanted)
    (rows,) = read_all(reader)
    found = columns.identities(rows)

    warnings = InputWarnings()
    warnings.add(found, [[b"1", b"2", None], [None, None, None]])

    assert warnings.counts == {
        "email with an invisible character": 1,
        "email with more than an address": 1,
        str(HashSpelling.BASE64URL): 2,
    }


# --- Spreadsheets ---------------------------------------------------------------------


@pytest.mark.parametrize("value", ["=1", "+12025550147", "-a@x", "@a", "\tx", "\rx"])
def test_safe_output_is_understood(tmp_path: Path, value: str) -> None:
    """What was made safe is read as what it was, by every command."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["id", "v"], ["1", value]])
    made = rewrite_bytes(
        tmp_path, text.getvalue().encode(), "csv", spreadsheet_safe=True
    )
    assert f"'{value}" in made.decode()
    path = tmp_path / "again.csv"
    path.write_bytes(made)

    with closing(open_reader(path, FileFormatOptions())) as reader:
        reader.select([1], ["v"])  # as a key, it is passed on unchanged
        (rows,) = read_all(reader)
        assert (rows.values(1), rows.values("v")) == ([value], [f"'{value}"])
    again = rewrite_bytes(
        tmp_path,
        made.replace(b"UID", b"U")
        .replace(b"REFRESH_FROM", b"R")
        .replace(b"ERROR", b"E"),
        "csv",
        spreadsheet_safe=True,
    )
    assert f"''{value}" not in again.decode()


# --- Faults before the first request --------------------------------------------------


def open_email(path: Path, on_bad_row: Any) -> tuple[Any, None]:
    """Open a file and find the column email."""
    how = FileFormatOptions().for_file(path)
    reader = open_reader(path, how, on_bad_row=on_bad_row)
    try:
        columns = find_identifiers(
            reader.header, column="email", kind="email", several={}, name=reader.name
        )
        reader.select(columns.wanted, added=ADDED)
    except BaseException:
        reader.close()
        raise
    return reader, None


def openers(folder: Path, files: dict[str, bytes]) -> list[Any]:
    """Write files; return what opens each."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [partial(open_email, folder / name) for name in sorted(files)]


def test_the_precheck_names_every_fault(tmp_path: Path) -> None:
    """A ragged line, an empty part, a stray file: each with its file and line."""
    opens = openers(
        tmp_path,
        {
            "a.csv": b"id,email\n1,secret\n2,secret,x\n3,secret\n4\n",
            "b.csv": b"",
            "c.csv": b"mail\nsecret\n",
            "d.txt": b"Exported by X\n",
            "e.csv": b"email\n\xff\n",
            "f.csv": b"email,UID\nsecret,\n",
            "g.csv": b"email\nsecret\n",
            "h.csv": b'email\n"secret\n',
            "i.jsonl": b'{"email":"secret"}\n[]\n',
        },
    )

    with pytest.raises(InputError) as caught:
        read_check(opens)

    message = caught.value.message
    assert "9 errors" in message
    assert message.isprintable()
    for words in (
        "a.csv, line 3: 3 fields",
        "a.csv, line 5: 1 fields",
        "b.csv is empty",
        "c.csv: there is no column 'email'",
        "d.txt: there is no column 'email'",
        "e.csv, line 2: this is not UTF-8",
        "f.csv already has a column 'UID'",
        "h.csv, line 2: a quote is opened here",
        "i.jsonl, line 2: this is not a JSON object",
    ):
        assert message.count(words) == 1, words
    assert "secret" not in str(caught.value)


def test_the_precheck_stops_at_its_limit(tmp_path: Path) -> None:
    """A file with the wrong delimiter has a fault in each line."""
    opens = openers(tmp_path, {"a.csv": b"id,email\n" + b"1\n" * 100})

    with pytest.raises(InputError, match=r"20 errors .* The first 20 are"):
        read_check(opens)


def test_bad_rows_are_collected(tmp_path: Path) -> None:
    """With somebody who collects them they are no fault, and the others are read."""
    data = b'id,email\n1,a\n2\n3,"b\nb"\n4,"x"y\n\n5,c\n6,Zo\xeb\n'
    more = b'[]\n{"email":"d"}\nx\n{"email":"\xc3"}\n'
    opens = openers(tmp_path, {"a.csv": data, "b.jsonl": more})
    bad: list[BadRow] = []

    read_check(opens, bad.append)

    assert [(one.line, one.text) for one in bad] == [
        (3, "2\n"),
        (6, '4,"x"y\n'),
        (9, "6,Zo\N{REPLACEMENT CHARACTER}\n"),
        (1, "[]\n"),
        (3, "x\n"),
        (4, '{"email":"\N{REPLACEMENT CHARACTER}"}\n'),
    ]
    assert [one.cause for one in bad if "\ufffd" in one.text] == [
        "this is not UTF-8"
    ] * 2
    assert "secret" not in repr(bad)


# --- Conversion -----------------------------------------------------------------------


def test_formats_convert(tmp_path: Path) -> None:
    """Text stays text, an empty CSV cell is missing, numbers of JSON keep digits."""
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "in.csv"
    source.write_text('id,t\n1,"a, ""b"""\n2,\n', newline="")
    expected = [{"id": "1", "t": 'a, "b"'}, {"id": "2", "t": None}]

    convert(source, tmp_path / "a.jsonl")
    convert(source, tmp_path / "a.parquet")
    convert(source, tmp_path / "a.arrow")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == expected
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == expected
    assert feather.read_table(tmp_path / "a.arrow").to_pylist() == expected
    for name in ("a.jsonl", "a.parquet", "a.arrow"):
        convert(tmp_path / name, tmp_path / "back.csv")
        assert (tmp_path / "back.csv").read_bytes() == source.read_bytes()
    convert(source, tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == 'id\tt\n1\t"a, ""b"""\n2\t\n'

    source.write_text("id,t\n1,NULL\n2,\n")
    convert(source, tmp_path / "a.tsv", null="NULL")
    assert (tmp_path / "a.tsv").read_text() == "id\tt\n1\tNULL\n2\t\n"

    odd = '{"odd":NaN,"n": {"x": 1.50, "é":"\\u00e9\\ud83d"} , "m":1.10,"s":"é"}\n'
    (tmp_path / "n.jsonl").write_text(odd, encoding="utf-8")
    convert(tmp_path / "n.jsonl", tmp_path / "n.csv")
    with (tmp_path / "n.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    deep = '{"x": 1.50, "é":"\\u00e9\\ud83d"}'
    assert rows == [["odd", "n", "m", "s"], ["NaN", deep, "1.10", "é"]]

    (tmp_path / "n.jsonl").write_text('{"n":1.10,"l":[1, "x"]}\n{"n":null}\n')
    convert(tmp_path / "n.jsonl", tmp_path / "n.csv")
    assert (tmp_path / "n.csv").read_text() == 'n,l\n1.10,"[1, ""x""]"\n,\n'


def test_types_convert_to_text(tmp_path: Path) -> None:
    """Numbers and instants are text in CSV; in JSON numbers stay numbers."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "n": pa.array([1, None]),
            "f": pa.array([1.5, float("nan")]),
            "b": pa.array([True, None]),
            "w": pa.array([1, None], pa.timestamp("us", "UTC")),
            "l": pa.array([[{"a": "x"}], None]),
            "x": pa.array([b"\0\xff", None]),
            "k": pa.array(["a", None]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")

    convert(tmp_path / "in.parquet", tmp_path / "a.csv")
    convert(tmp_path / "in.parquet", tmp_path / "a.jsonl")

    assert list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))[1:] == [
        ["1", "1.5", "true", "1970-01-01 00:00:00.000001Z", '[{"a":"x"}]', "AP8=", "a"],
        ["", "nan", "", "", "", "", ""],
    ]
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "n": 1,
        "f": 1.5,
        "b": True,
        "w": "1970-01-01 00:00:00.000001Z",
        "l": [{"a": "x"}],
        "x": "AP8=",
        "k": "a",
    }
    assert set(json.loads(lines[1]).values()) == {None}


@pytest.mark.parametrize("target", ["a.jsonl", "a.parquet"])
def test_repeated_names_are_not_converted(tmp_path: Path, target: str) -> None:
    """Others than CSV need names that differ."""
    (tmp_path / "in.csv").write_text("a,a\n1,2\n")

    with pytest.raises(InputError, match="several columns 'a'"):
        convert(tmp_path / "in.csv", tmp_path / target)


def test_a_key_that_comes_late(tmp_path: Path) -> None:
    """It has no place in a file with columns, and is not dropped."""
    data = '{"a":"x"}\n' * 1_500 + '{"a":"x","late":1}\n'
    (tmp_path / "in.jsonl").write_text(data)

    with pytest.raises(InputError, match="missing in the first 1,000 rows"):
        convert(tmp_path / "in.jsonl", tmp_path / "a.csv")


def test_a_value_that_the_encoding_lacks(tmp_path: Path) -> None:
    """It is refused, and not shown."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    parquet.write_table(pa.table({"a": ["東京", "大阪"]}), tmp_path / "in.parquet")

    with pytest.raises(
        InputError, match="column 'a' cannot be written in iso8859-1"
    ) as caught:
        convert(tmp_path / "in.parquet", tmp_path / "a.csv", encoding="latin-1")
    assert caught.value.__cause__ is caught.value.__context__ is None
    convert(tmp_path / "in.parquet", tmp_path / "a.csv", encoding="utf-16")
    assert (tmp_path / "a.csv").read_bytes().decode("utf-16") == "a\n東京\n大阪\n"
    resumed = {"encoding": "utf-16", "step": 1, "die_after": 1}
    convert(tmp_path / "in.parquet", tmp_path / "b.csv", **resumed)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


# --- Tables of our own ----------------------------------------------------------------

COLUMNS = {"UID": Content.TEXT, "SINCE": Content.INSTANT}


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet", "t.arrow"]
)
def test_tables(tmp_path: Path, name: str) -> None:
    """They are written in the format of their name, private, and when whole."""
    path = tmp_path / name
    with closing(TableWriter(path, COLUMNS)) as table:
        table.write({"UID": ["a\r4", None], "SINCE": [1, None]})
        table.write({"UID": ["=x"], "SINCE": [2]})
        assert not path.exists()
        table.finish()

    assert table.rows == 3
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [name]
    convert(path, tmp_path / "out.csv", iso=False)
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.reader(file))
    assert found[1][0] == "a\r4"
    assert [row[0] for row in found] == ["UID", "a\r4", "", "=x"]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_that_is_not_finished(tmp_path: Path, name: str) -> None:
    """Nothing is left of it."""
    with closing(TableWriter(tmp_path / name, COLUMNS)) as table:
        table.write({"UID": ["a"], "SINCE": [1]})

    assert list(tmp_path.iterdir()) == []


def test_a_column_of_its_own(tmp_path: Path) -> None:
    """An empty row is not a blank line, which would be passed over."""
    with closing(TableWriter(tmp_path / "t.csv", {"UID": Content.TEXT})) as table:
        table.write({"UID": ["", None, "x"]})
        table.finish()

    assert (tmp_path / "t.csv").read_text() == 'UID\n""\n""\nx\n'


@pytest.mark.parametrize(
    ("blank", "rest", "suffix"),
    [
        (b"\n", b"a\n1\n", "csv"),
        (b"#\n", b"a\n1\n", "csv"),
        (b"\n", b'{"a":"1"}\n', "jsonl"),
    ],
)
def test_blank_lines_before_the_header_cost_little(
    make_reader: Make, blank: bytes, rest: bytes, suffix: str
) -> None:
    """Their time does not grow with the square of their number."""
    started = time.process_time()
    reader = make_reader(blank * 260_000 + rest, suffix, comment="#")
    reader.select([0])
    (rows,) = read_all(reader)

    assert rows.values(0) == ["1"]
    assert time.process_time() - started < 3  # 0.1 s; the square took 10 s


def test_a_table_that_cannot_be_begun(tmp_path: Path, failing: Any) -> None:
    """Nothing is left of it."""
    with pytest.raises(JobError, match="cannot be written"):
        TableWriter(tmp_path / "t.csv", COLUMNS, disk=failing(1).disk())

    assert list(tmp_path.iterdir()) == []


def test_blank_lines_cost_little(make_reader: Make) -> None:
    """Each step passes over a bounded number of them."""
    reader = make_reader(b"a\n" + b"\n" * 300_000 + b"1\n")
    reader.select([0])
    counts = [rows.count for rows in read_all(reader, 500)]

    assert sum(counts) == 1
    assert len(counts) < 700
