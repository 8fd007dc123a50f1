"""Reading JSON lines: strict, exact, and silent about values."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.bulk.files.conftest import read_all, select
from tests.bulk.files.test_csv_reader import Slow
from uid2_async.bulk.columns import find_identifiers
from uid2_async.bulk.json_lines import JsonReader
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.bulk.text import BadRow
from uid2_async.errors import InputError

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"a":"x"}\n{"a":"y"}\n', ["x", "y"]),
        (b'\n{"a":"x"}\r\n \n{"a":"y"}', ["x", "y"]),
        (b'\xef\xbb\xbf{"a":"x"}\n', ["x"]),
        (b'{"a":"}\\n\\u00fc"}\n{}\n{"a":null}\n', ["}\nü", "", ""]),
        (b'{"b":1}\n{"a":"x"}\n', ["", "x"]),
        (b'{"a":12025550123}\n{"a":1.50}\n{"a":true}', ["12025550123", "1.50", "true"]),
        (b' { "A" : "x" , "b":[{"a":1}] } \n', ["x"]),
    ],
)
def test_values(make_reader: Make, data: bytes, values: list[str]) -> None:
    """A string is read as such, a number as it stands there, what lacks as empty."""
    reader = make_reader(data, "jsonl")
    reader.select([], ["a"])

    found = [value for chunk in read_all(reader, 1) for value in chunk.values("a")]

    assert found == values
    assert reader.bytes_read == len(data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp932"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_no_rows(make_reader: Make, data: bytes, encoding: str) -> None:
    """A file without objects has no rows, and whatever column is asked for."""
    if data and encoding != "utf-8":
        return
    reader = make_reader(data, "jsonl", encoding=encoding)
    reader.select([0], ["b"])

    assert read_all(reader) == []


def test_no_row_that_can_be_read(make_reader: Make) -> None:
    """A file of bad rows only has no header, and its columns have no values."""
    bad: list[BadRow] = []
    reader = make_reader(b"oops\n[]\n", "jsonl", on_bad_row=bad.append)
    found = find_identifiers(reader.header, column="a", kind=None, several={})
    reader.select(found.wanted, ["b"])

    (rows,) = read_all(reader)

    assert rows.count == 0
    assert [one.values for one in found.identities(rows)] == [[]]
    assert [one.line for one in bad] == [1, 2]


def test_a_key_that_the_first_objects_lack(make_reader: Make) -> None:
    """An optional key need not be in the first line, but in one of a thousand."""
    select(make_reader(b"{}\n" * 999 + b'{"a":"x"}\n', "jsonl"), "a")
    late = make_reader(b'{"b":"x"}\n' * 1_000 + b'{"a":"x"}\n', "jsonl")

    with pytest.raises(InputError, match="no column 'a'") as caught:
        select(late, "a")

    assert "as in the file" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (b'{"a":1}\n{"b":1}', ["a", "b"]),
        (b'{"a":1}\n\n\nbad\n{"b":1}', ["a", "b"]),
        (b"{}\n" * 999 + b'{"a":1}\n{"b":1}\n', ["a"]),
        (b'{"a":"%s"}\n' % (b"x" * 2_000) * 999 + b'{"b":1}\n{"c":1}', ["a", "b"]),
        (b'{"a":"%s"}\n' % (b"x" * (1 << 23)) * 2 + b'{"b":1}\n', ["a"]),
        (b'{"a":"%s"}\n' % (b"x" * (1 << 24)) + b'{"b":1}\n', ["a"]),
    ],
)
@pytest.mark.parametrize("size", [None, 1 << 10, 1 << 22])
def test_the_header_is_the_keys_of_the_first_lines(
    data: bytes, header: list[str], size: int | None
) -> None:
    """However much is read at once: 1,000 lines, or those in 16 Mi characters."""
    stream = Slow(data)
    stream.size = size or len(data)
    reader = JsonReader(
        stream, FileFormatOptions(), name="x", on_bad_row=lambda _: None
    )

    assert reader.header == header


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":"x"}\n\n{"a":\n', "line 3: this is not a JSON object"),
        (b'["secret"]\n', "line 1: this is not a JSON object"),
        (b'{"a":"secret"} x\n', "line 1: this is not a JSON object"),
        (b'{"a":' + b"[" * 100_000, "line 1: this is not a JSON object"),
        (b'{"a":"x"}\n{"a":"\xffsecret"}\n', "line 2: this is not UTF-8"),
        (b'{"a":"x"}\n{"a":"\0"}\n', "line 2: there is a NUL byte"),
        ('{"a":"x"}\n'.encode("utf-16"), "line 1: this is UTF-16"),
        (b'{"a":"x","Uid":1}\n', "already has a column 'Uid'"),
        (b'{"a":"x"}\n' * 2_000 + b'{"uid":1}\n', "already has a column 'uid'"),
    ],
)
def test_what_cannot_be_read(make_reader: Make, data: bytes, words: str) -> None:
    """What cannot be read whole is refused with its line, and without a value."""

    def read() -> None:
        reader = make_reader(data, "jsonl")
        reader.select([], added=["UID"])
        read_all(reader)

    with pytest.raises(InputError) as caught:
        read()

    assert words in caught.value.message
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("rows", [b"{}\n", b"{}\n" * 1_500 + b'{"mail": "x"}\n'])
def test_objects_without_keys(make_reader: Make, rows: bytes) -> None:
    """Rows without any column are not a file without rows."""
    reader = make_reader(rows, "jsonl")
    with pytest.raises(InputError, match="the first objects have no keys"):
        reader.select([0])


def test_a_line_that_never_ends(make_reader: Make) -> None:
    """It does not fill the memory."""
    data = b'{"a":1}\n{"a":"' + b"x" * (66 << 20)

    with pytest.raises(InputError, match="line 2: the line is too long"):
        read_all(make_reader(data, "jsonl"))


ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=4)))


@given(rows=ROWS, size=st.integers(1, 9), step=st.integers(1, 4))
@settings(max_examples=200)
def test_pieces_do_not_matter(rows: list[dict[str, str]], size: int, step: int) -> None:
    """Wherever a piece or a step ends, the rows are those of the json module."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    stream = Slow(text.encode())
    stream.size = size
    reader = JsonReader(stream, FileFormatOptions(), name="x")
    names = [name for name in "abc" if name in reader.header]
    select(reader, *names)

    chunks = read_all(reader, step)

    assert "".join(record for chunk in chunks for record in chunk.records) == text
    for name in names:
        index = reader.header.index(name)
        found = [value for chunk in chunks for value in chunk.values(index)]
        assert found == [row.get(name, "") for row in rows]


def test_going_on_behind_any_chunk(make_reader: Make) -> None:
    """A second reader resumes where the first one was."""
    data = "\r\n".join(
        "" if n % 7 == 0 else json.dumps({"a": f"Zoë{n}"}, ensure_ascii=False)
        for n in range(50)
    )
    data = f"\N{ZERO WIDTH NO-BREAK SPACE}{data}"
    chunks = read_all(make_reader(data.encode(), "jsonl"), 3)
    everything = [record for chunk in chunks for record in chunk.records]

    done = 0
    for chunk in chunks:
        done += chunk.count
        again = make_reader(data.encode(), "jsonl")
        again.skip(done)
        rest = [record for one in read_all(again, 3) for record in one.records]
        assert rest == everything[done:]


def test_a_pipe_is_read_as_it_comes() -> None:
    """After the lines of the header, what is written is there before the rest is."""

    class Pipe(io.BytesIO):
        """A stream that gives a line at once and would wait for more."""

        def read1(self, _: int | None = -1, /) -> bytes:
            return self.readline()

        def read(self, _: int | None = -1, /) -> bytes:
            raise AssertionError

    pipe = Pipe(b'{"a":"x"}\n' * 1_001)
    reader = JsonReader(pipe, FileFormatOptions(), name="stdin")
    select(reader, "a")

    chunk = reader.take(1_001)

    assert chunk is not None
    assert chunk.values(0) == ["x"] * 1_000
    assert len(pipe.readline()) == 10
