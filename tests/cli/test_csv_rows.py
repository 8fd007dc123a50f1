"""Reading CSV: strict, exact, and silent about values."""

from __future__ import annotations

import io

import pytest

from uid2_async.cli.csv_rows import Columns, CsvRows, find_columns
from uid2_async.errors import InputError

ADDED = ("UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED")


def read(data: bytes) -> CsvRows:
    """Open *data* as the file in.csv."""
    return CsvRows(io.BytesIO(data), name="in.csv")


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
        (b"a,b\n,\n", [["", ""]]),
        (b"a,b\n", []),
    ],
)
def test_rows(data: bytes, rows: list[list[str]]) -> None:
    """Every value is read as it stands; blank lines are no rows."""
    found = read(data)

    assert found.header == ["a", "b"]
    assert list(found) == rows
    assert found.bytes_read == len(data)


def test_a_long_field() -> None:
    """A field may be far longer than the csv module's own limit."""
    value = "x" * 1_000_000

    assert list(read(f"a\n{value}\n".encode())) == [[value]]


@pytest.mark.parametrize(("data", "end"), [(b"a\n", "\n"), (b"a\r\n", "\r\n")])
def test_line_end(data: bytes, end: str) -> None:
    """The header tells how lines end."""
    assert read(data).line_end == end


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "in.csv is empty"),
        (b"\xef\xbb\xbf", "in.csv is empty"),
        (b"\n\n", "in.csv is empty"),
        (b"a,b\nsecret\n", "line 2: 1 fields, where the header has 2"),
        (b"a,b\n1,2\n1,secret,3\n", "line 3: 3 fields"),
        (b'a,b\n"1\n2"\n', "line 2 to 3: 1 fields"),
        (b'a,b\n1,"secret\n2,3\n', "a quote is opened and never closed"),
        (b'a,b\n1,"secret"x\n', "line 2: text follows a closing quote"),
        (b"a,b\r1,secret\r", "line 1: lines end with CR alone"),
        (b"a,b\n1,\xffsecret\n", "line 2: this is not UTF-8"),
        (b"a,b\n1,\0secret\n", "line 2: there is a NUL byte"),
        ("a,b\n".encode("utf-16"), "line 1: this is UTF-16"),
    ],
)
def test_what_cannot_be_read(data: bytes, expected: str) -> None:
    """What cannot be read whole is refused with its line, not mended or skipped."""
    with pytest.raises(InputError) as caught:
        list(read(data))

    assert expected in caught.value.message
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x" * (64 << 20), "line 2: the line is too long"),
        (b'"' + b"x\n" * 9 + b"x" * (17 << 20), "longer than 16777216 characters"),
    ],
    ids=["line", "field"],
)
def test_what_never_ends(data: bytes, expected: str) -> None:
    """A file without lines, or with one quote too few, does not fill the memory."""
    with pytest.raises(InputError, match=expected):
        list(read(b"a\n" + data))


@pytest.mark.parametrize(
    ("header", "column", "kind", "expected"),
    [
        (["INPUT", "INPUT_TYPE"], None, None, Columns(value=0, kind=1)),
        (["x", "input_type", "Input"], None, None, Columns(value=2, kind=1)),
        (["mail"], "mail", "email", Columns(value=0, constant_kind="email")),
        (["MAIL", "mail"], "mail", "email", Columns(value=1, constant_kind="email")),
        (["Mail"], "mail", "email", Columns(value=0, constant_kind="email")),
        (
            ["INPUT", "INPUT_TYPE"],
            None,
            "phone",
            Columns(value=0, constant_kind="phone"),
        ),
        (["mail", "INPUT_TYPE"], "mail", None, Columns(value=0, kind=1)),
    ],
)
def test_find_columns(
    header: list[str], column: str | None, kind: str | None, expected: Columns
) -> None:
    """Columns are found by option or by contract name, in any letter case."""
    assert find_columns(header, column=column, kind=kind, added=ADDED) == expected


@pytest.mark.parametrize(
    ("header", "column", "kind", "words"),
    [
        (["a", "b"], None, None, ["no column 'INPUT'", "'a', 'b'", "--column"]),
        (["a", "b"], "c", "email", ["no column 'c'", "'a', 'b'"]),
        (["INPUT"], None, None, ["no column 'INPUT_TYPE'", "'INPUT'", "--type"]),
        (["a", "a"], "a", "email", ["more than one column 'a'"]),
        (["A", "a"], "Ä", "email", ["no column"]),
        (["INPUT", "UID"], None, "email", ["already has a column 'UID'", "Rename"]),
        (["INPUT", "uid", "Unmapped"], None, "email", ["'uid', 'Unmapped'"]),
        (["a;INPUT"], None, "email", ["separated by commas"]),
    ],
)
def test_columns_that_are_not_there(
    header: list[str], column: str | None, kind: str | None, words: list[str]
) -> None:
    """The message lists the columns that were found."""
    with pytest.raises(InputError) as caught:
        find_columns(header, column=column, kind=kind, added=ADDED)

    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "value",
    [
        "jane@example.com",
        "+12025550123",
        "202-555-0123",
        "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ=",
        "8b97a0bd4f9dbd9bd2ff0a1f3b8ba50b5d92f5e5e5f7ee56ef1e0bf1a9f9e6ab",
        "A4AAAAPp_KS48A9sW4JGYBxyzj24ivCw7qdoi-y5P3RTyFzN1URWH_AgcP8QnXoZLEt69glhot",
    ],
)
def test_a_file_without_header(value: str) -> None:
    """Where the first row is data, the message does not list it as columns."""
    with pytest.raises(InputError) as caught:
        find_columns(["1", value], column=None, kind="email")

    assert value not in str(caught.value)
    assert "looks like data" in caught.value.message
