"""Reading CSV: strict, exact, and silent about values."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.bulk.files.conftest import fields, read_all
from uid2_async.bulk.csv_files import CsvReader
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.bulk.text import BadRow
from uid2_async.errors import InputError

Make = Callable[..., Any]


def test_a_header_of_several_lines(make_reader: Make) -> None:
    """The rows after it are not taken for a part of it, however short they are."""
    reader = make_reader(b'a,"b\nb\nb"\n1,2\n3,4\n5,6\n7,8\n')

    assert reader.header == ["a", "b\nb\nb"]
    assert fields(reader) == [["1", "2"], ["3", "4"], ["5", "6"], ["7", "8"]]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"a,b\n1,2\n", [["1", "2"]]),
        (b"a,b\n1,2", [["1", "2"]]),
        (b"a,b\r\n1,2\r\n", [["1", "2"]]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]]),
        (b'a,b\n"x, y","say ""hi"""\n', [["x, y", 'say "hi"']]),
        (b'a,b\n"x\ny\r\nz",2\n', [["x\ny\r\nz", "2"]]),
        (b"a,b\n\n1,2\n\n\n", [["1", "2"]]),
        (b'a,b\n5" disk, x \n', [['5" disk', " x "]]),
        ("a,b\nZoë,東京\n".encode(), [["Zoë", "東京"]]),
        ("a,b\nx\u2028y,\x0c\n".encode(), [["x\u2028y", "\x0c"]]),
        (b"a,b\n,\n", [["", ""]]),
        (b"\n\r\na,b\n1,2\n", [["1", "2"]]),
        (b"a,b\r\r\n1,2\r\r\n", [["1", "2"]]),
        (b'"a",b\n', []),
        (b'\xef\xbb\xbf"a","b"\r\n', []),
    ],
)
def test_rows(make_reader: Make, data: bytes, rows: list[list[str]]) -> None:
    """Every value is read as it stands; blank lines are no rows."""
    reader = make_reader(data)

    assert reader.header == ["a", "b"]
    assert fields(reader) == rows
    assert reader.bytes_read == len(data)


def test_a_long_field(make_reader: Make) -> None:
    """A field may be far longer than the csv module's own limit, and than a piece."""
    value = "x" * 3_000_000

    assert fields(make_reader(f'a\n{value}\n"{value}\n"\n'.encode())) == [
        [value],
        [f"{value}\n"],
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "in.csv is empty"),
        (b"\xef\xbb\xbf", "in.csv is empty"),
        (b"\n\n", "in.csv is empty"),
        (b"a,b\nsecret\n", "line 2: 1 fields, but the header has 2"),
        (b"a,b\n1,2\n1,secret,3\n", "line 3: 3 fields"),
        (b'a,b\n"1\n2"\n', "line 2: 1 fields"),
        (b'a,b\n1,"secret\n2,3\n', "line 2: a quote is opened here and never closed"),
        (b'a,b\n1,"secret"x\n', "line 2: text follows a closing quote"),
        (b"a,b\r1,secret\r", "line 1: there is a CR that does not end"),
        (b"a,b\n1,\xffsecret\n", "line 2: this is not UTF-8"),
        (b"a,b\n1,secret\xc3", "line 2: this is not UTF-8"),
        (b"a,b\n1,\0secret\n", "line 2: there is a NUL byte"),
        ("a,b\n".encode("utf-16"), "line 1: this is UTF-16"),
        ("a,b\n".encode("utf-32"), "line 1: this is UTF-32"),
        ("a,b\n".encode("utf-16-be"), "line 1: there is a NUL byte"),
    ],
)
def test_what_cannot_be_read(make_reader: Make, data: bytes, expected: str) -> None:
    """What cannot be read whole is refused with its line, not mended or skipped."""
    with pytest.raises(InputError) as caught:
        fields(make_reader(data))

    assert expected in caught.value.message
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x" * (66 << 20), "line 2: the line is too long"),
        (b'"' + b"x\n" * 9 + b"x" * (17 << 20), "longer than 16777216 characters"),
    ],
    ids=["line", "field"],
)
def test_what_never_ends(make_reader: Make, data: bytes, expected: str) -> None:
    """A file without lines, or with one quote too few, does not fill the memory."""
    with pytest.raises(InputError, match=expected):
        fields(make_reader(b"a\n" + data))


@pytest.mark.parametrize("field", [b"\n" * (2 << 20), b"%0120d\n" % 0 * 100_000])
def test_a_row_that_never_ends(make_reader: Make, field: bytes) -> None:
    """Nor does one that goes on from line to line, or from field to field."""
    with pytest.raises(InputError, match="line 2: the row is too long"):
        fields(make_reader(b"a\n" + b'"%b",' % field * 8))


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp932"],
)
def test_other_encodings(make_reader: Make, encoding: str) -> None:
    """They have to be named, and are read like any other."""
    word = "\uff7e" if encoding == "cp932" else "Zoë"
    data = f"a,b\n{word},1\nx,2\n".encode(encoding)
    reader = make_reader(data, encoding=encoding)

    assert reader.header == ["a", "b"]
    assert fields(reader) == [[word, "1"], ["x", "2"]]


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        ("a,b\n".encode("utf-16-le"), "utf-16", "line 1: there is no byte order mark"),
        (b"\xef\xbb\xbfa,b\n", "latin-1", "line 1: this is UTF-8"),
        ("a,b\n".encode("utf-16"), "utf-32", "line 1: this is UTF-16"),
        (b"a,b\n\x81,secret\n", "cp1252", "line 2: this is not CP1252"),
        # One of the characters that code page 932 has twice.
        (b"a,b\n\x87\x90,secret\n", "cp932", "cannot be reproduced in cp932"),
    ],
)
def test_encodings_that_do_not_fit(
    make_reader: Make, data: bytes, encoding: str, words: str
) -> None:
    """What contradicts the encoding, or would not come back as it was, is refused."""
    with pytest.raises(InputError, match=words) as caught:
        fields(make_reader(data, encoding=encoding))

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " "])
def test_other_delimiters(make_reader: Make, delimiter: str) -> None:
    """A tab is one, too."""
    data = f'a{delimiter}b\n1{delimiter}"x{delimiter}y"\n'.encode()

    assert fields(make_reader(data, delimiter=delimiter)) == [["1", f"x{delimiter}y"]]


class Slow(io.BytesIO):
    """A stream that gives little at once."""

    size = 1

    def read1(self, _: int | None = -1, /) -> bytes:
        """Give a few bytes."""
        return super().read(self.size)


ROWS = st.lists(
    st.lists(st.text(alphabet='ab,;"\n\r é', max_size=6), min_size=2, max_size=2),
    max_size=8,
)


@given(rows=ROWS, size=st.integers(1, 9), step=st.integers(1, 4), end=st.booleans())
@settings(max_examples=300)
def test_pieces_do_not_matter(
    rows: list[list[str]], size: int, step: int, *, end: bool
) -> None:
    """Wherever a piece or a step ends, the rows are those of the csv module.

    And the records, put together, are the file.
    """
    text = io.StringIO(newline="")
    line_end = "\r\n" if end else "\n"
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerows([["a", "b"], *rows])
    stream = Slow(text.getvalue().encode())
    stream.size = size
    reader = CsvReader(stream, FileFormatOptions(), name="x")
    reader.select([], ["a", "b"])

    chunks = read_all(reader, step)

    found = [
        [chunk.values("a")[at], chunk.values("b")[at]]
        for chunk in chunks
        for at in range(chunk.count)
    ]
    assert found == rows
    records = [record for chunk in chunks for record in chunk.records]
    assert reader.prefix + reader.first + "".join(records) == text.getvalue()


Row = tuple[list[str], str]


def read_slowly(
    data: str, size: int, step: int, *, done: int = 0
) -> tuple[list[Row], list[tuple[int, str]]]:
    """Read the rows after *done*, and the bad rows, in small pieces and steps."""
    bad: list[tuple[int, str]] = []
    stream = Slow(data.encode("utf-8", "surrogateescape"))
    stream.size = size
    options = FileFormatOptions(comment="#")
    reader = CsvReader(
        stream,
        options,
        name="x",
        on_bad_row=lambda one: bad.append((one.line, one.text)),
    )
    reader.select([], ["a", "b"])
    reader.skip(done)
    rows = [
        ([some.values("a")[at], some.values("b")[at]], some.records[at])
        for some in read_all(reader, step)
        for at in range(some.count)
    ]
    return rows, bad


def read_simply(data: str) -> tuple[list[Row], list[tuple[int, str]]]:
    """Read by the rule itself: each row is parsed from its line to the end."""
    lines = data.splitlines(keepends=True)
    rows, bad, used = [], [], 1
    while used < len(lines):
        if lines[used].startswith("#"):
            used += 1
            continue
        reader = csv.reader(lines[used:], strict=True)
        try:
            row, span = next(reader), reader.line_num
        except csv.Error:
            row, span = ["bad"], 1
        record = "".join(lines[used : used + span])
        shown = record.replace("\udcff", "\N{REPLACEMENT CHARACTER}")
        if len(row) == 2 and shown == record:
            rows.append((row, record))
        elif row:
            bad.append((used + 1, shown))
        used += span
    return rows, bad


@given(
    text=st.lists(
        st.sampled_from(
            [
                "1,2\n",
                '"',
                '""',
                ",",
                "x",
                "\n",
                "#",
                "é",
                "\udcff",
                '1,"x\n',
                'y",z,"w\n',
                '1,""\n',
            ]
        ),
        max_size=14,
    ).map("".join),
    size=st.sampled_from([1, 3, 100]),
    step=st.sampled_from([1, 2, 100]),
    data=st.data(),
)
@settings(max_examples=400)
def test_what_is_not_csv(text: str, size: int, step: int, data: Any) -> None:
    """Of a row that is not CSV only the first line is bad, wherever a piece ends.

    A row with bytes that are not text is bad, too.
    A reader that skips some of the rows finds the same rest.
    """
    text = f"a,b\n{text}"
    rows, bad = read_simply(text)

    assert read_slowly(text, size, step) == (rows, bad)

    done = data.draw(st.integers(0, len(rows)))
    assert read_slowly(text, size, step, done=done) == (rows[done:], bad)


@pytest.mark.parametrize(
    ("rest", "cause"),
    [
        (b"", "a quote is opened here and never closed"),
        (b'3,"z"\n', "text follows a closing quote in line 40004"),
        (b'3,""\n' + b"x" * (17 << 20), "a field is longer than 16777216 characters"),
        (b"\n" * 1_000_000, "the row is too long"),
    ],
)
def test_a_quote_that_is_not_closed(make_reader: Make, rest: bytes, cause: str) -> None:
    """Only its line is bad, and each line after it is parsed a few times at most.

    Each of these lines leaves a quote open, too, if it is read as a row.
    """
    bad: list[BadRow] = []
    lines = b'1,"x\n' + b'y",z,"w\n' * 20_000 + b"1,2\n" * 20_001 + rest
    reader = make_reader(b"a,b\n" + lines, on_bad_row=bad.append)

    found = fields(reader)

    assert found[:20_001] == [["1", "2"]] * 20_001
    assert [one.line for one in bad[:20_001]] == list(range(2, 20_003))
    assert cause in bad[0].cause
    assert {one.cause for one in bad[:20_001]} == {bad[0].cause}


def test_a_row_of_several_lines_names_them(make_reader: Make) -> None:
    """It shows that a quote in one of two lines has taken those between."""
    bad: list[BadRow] = []
    data = b'a,b\n1,"x\n2,y\n3,z",4\n5,6\n'
    reader = make_reader(data, on_bad_row=bad.append)

    assert fields(reader) == [["5", "6"]]
    assert [(one.line, one.cause, one.text) for one in bad] == [
        (2, "3 fields in lines 2 to 4, but the header has 2", '1,"x\n2,y\n3,z",4\n')
    ]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16", "latin-1"])
def test_going_on_behind_any_chunk(
    make_reader: Make, encoding: str, suffix: str
) -> None:
    """A second reader resumes where the first one was."""
    lines = [f'{n},"Zoë\n{n}"' if n % 3 else f"{n},x" for n in range(50)]
    data = "\r\n".join(["a,b", *lines]).encode(encoding)
    packed = gzip.compress(data) if suffix.endswith("gz") else data
    reader = make_reader(packed, suffix, encoding=encoding)
    reader.select([], ["b"])
    chunks = read_all(reader, 7)
    everything = [record for chunk in chunks for record in chunk.records]

    done = 0
    for chunk in chunks:
        done += chunk.count
        again = make_reader(packed, suffix, encoding=encoding)
        again.select([], ["b"])
        again.skip(done)
        rest = [record for one in read_all(again, 7) for record in one.records]
        assert rest == everything[done:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,b\n1,2\n", "not gzip"),
        (b"", "is empty"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "ends too early"),
    ],
)
def test_bad_gzip(make_reader: Make, data: bytes, words: str) -> None:
    """A .gz file that is not gzip, or is truncated, is rejected."""
    with pytest.raises(InputError, match=words):
        fields(make_reader(data, "csv.gz"))
