"""Columns are found by their names, and what is in them is taken for identifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.bulk.files.conftest import read_all
from uid2_async.bulk.columns import IdentifierColumns, find_identifiers, refuse_taken
from uid2_async.errors import InputError

ADDED = ("UID", "PREV_UID", "REFRESH_FROM", "UNMAPPED")


def find(header: list[str], **how: Any) -> IdentifierColumns:
    """Find the columns of *header*."""
    return find_identifiers(
        header, **{"column": None, "kind": None, "several": {}} | how
    )


@pytest.mark.parametrize(
    ("header", "how", "kinds", "wanted"),
    [
        (["INPUT", "INPUT_TYPE"], {}, ("",), [0, 1]),
        (["x", "input_type", "Input"], {}, ("",), [2, 1]),
        (["mail"], {"column": "mail", "kind": "email"}, ("email",), [0]),
        (["MAIL", "mail"], {"column": "mail", "kind": "email"}, ("email",), [1]),
        (["Mail"], {"column": "mail", "kind": "email"}, ("email",), [0]),
        (["INPUT", "INPUT_TYPE"], {"kind": "phone"}, ("phone",), [0]),
        (["a", "INPUT_TYPE"], {"column": "a"}, ("",), [0, 1]),
        (
            ["E", "p"],
            {"several": {"phone": "P", "email_hash": "e"}},
            ("phone", "email_hash"),
            [1, 0],
        ),
        ([], {"column": "a", "kind": "email"}, ("email",), [0]),
    ],
)
def test_columns(
    header: list[str], how: dict[str, Any], kinds: tuple[str, ...], wanted: list[int]
) -> None:
    """They are found by option or by contract name, in any letter case."""
    found = find(header, **how)

    assert (tuple(kind for kind, _ in found.columns), found.wanted) == (kinds, wanted)


def test_identifiers(make_reader: Callable[..., Any]) -> None:
    """What is empty is none; the order is that of preference."""
    reader = make_reader(b"E,p\n,+1\n,\n ,x\n")
    columns = find(reader.header, several={"phone": "p", "email": "E"})
    reader.select(columns.wanted)
    (rows,) = read_all(reader)

    phones, emails = columns.identities(rows)

    assert (phones.kinds, phones.values) == ("phone", ["+1", None, "x"])
    assert (emails.kinds, emails.values) == ("email", [None, None, " "])


def test_kinds_that_each_row_tells(make_reader: Callable[..., Any]) -> None:
    """They may be in any letter case, with white space around them."""
    reader = make_reader(b"i,t\na, Email \n,phone\nc,shoe size\n")
    columns = IdentifierColumns([("", 0)], kind_column=1)
    reader.select(columns.wanted)
    (rows,) = read_all(reader)

    (found,) = columns.identities(rows)

    assert found.kinds == ["email", "phone", "shoe size"]
    assert found.values == ["a", None, "c"]


@pytest.mark.parametrize(
    ("header", "how", "words"),
    [
        (["a", "b"], {}, ["no column 'INPUT'", "'a', 'b'", "`column=NAME`"]),
        (["a", "b"], {"column": "c", "kind": "email"}, ["no column 'c'", "'a', 'b'"]),
        (["INPUT"], {}, ["no column 'INPUT_TYPE'", "'INPUT'", "`type`"]),
        (
            ["a", "a"],
            {"column": "a"},
            ["there are 2 columns 'a'", "'a#1' is the first"],
        ),
        (["A", "a"], {"column": "ä"}, ["no column"]),
        (["A", "a"], {"column": "Á", "kind": "email"}, ["no column"]),
        (
            ["a"],
            {"several": {"phone": "b"}},
            ["no column 'b'", 'Use `identifiers={"phone": COLUMN}` with'],
        ),
        (["a;INPUT"], {}, ["separated by something else", "use `delimiter`"]),
    ],
)
def test_columns_that_are_not_there(
    header: list[str], how: dict[str, Any], words: list[str]
) -> None:
    """The message lists the columns that were found."""
    with pytest.raises(InputError) as caught:
        find(header, **how)

    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in words), text


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
        find(["1", value], kind="email")

    assert value not in str(caught.value)
    assert "looks like data" in caught.value.message


def test_names_that_are_taken() -> None:
    """A column that will be added must not be there, in any letter case."""
    refuse_taken(["INPUT"], ADDED)
    with pytest.raises(InputError, match="'uid', 'Unmapped'") as caught:
        refuse_taken(["INPUT", "uid", "Unmapped"], ADDED)

    assert "Rename or drop it" in caught.value.hint
