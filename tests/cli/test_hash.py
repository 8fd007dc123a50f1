"""``uid2 hash`` normalizes as the operator does, and sends nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Uid2 = Callable[..., Any]

JANE = "jIe0ic41zy4vOfgOKCyy6ASTKlaiE5g+7rQoQH1DtS0="
OTHER = "EGqy3jrjLw5CmWGiAwfjpeBde03W8l6MLlKC3lggjwA="
PHONE = "EObwtHBUqDNZR33LNSMdtt5cafsYFuGmuY4ZLenlue4="
PHONE_HEX = "10e6f0b47054a83359477dcb35231db6de5c69fb1816e1a6b98e192de9e5b9ee"


def values_of(result: Any) -> list[tuple[str | None, str | None, str | None]]:
    """Return hash, type and status of each line."""
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [(one["HASH"], one["HASH_TYPE"], one["HASH_STATUS"]) for one in found]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--value", "Jane@Example.com"], (JANE, "email_hash", None)),
        (["--value", "+12345678901"], (PHONE, "phone_hash", None)),
        (
            ["--type", "email", "--value", "jane@example.com"],
            (JANE, "email_hash", None),
        ),
        (["--type", "email_hash", "--value", JANE], (JANE, "email_hash", None)),
        (["--type", "phone_hash", "--value", PHONE_HEX], (PHONE, "phone_hash", None)),
    ],
)
def test_values(
    uid2: Uid2, arguments: list[str], expected: tuple[str, str, None]
) -> None:
    """Each value is one JSON line: its hash, and the type of that."""
    result = uid2("hash", *arguments)

    assert result.exit_code == 0
    assert values_of(result) == [expected]


def test_invalid_values(uid2: Uid2) -> None:
    """Invalid values keep their line; the code tells that there are some."""
    result = uid2(
        "hash", "--value", "jane@example.com", "--value", "nobody", "--value", "+1"
    )

    assert result.exit_code == 3
    assert values_of(result) == [
        (JANE, "email_hash", None),
        (None, None, "INVALID_IDENTIFIER"),
        (None, None, "INVALID_IDENTIFIER"),
    ]
    assert result.stderr == ("uid2: Rows without a hash: 2 (INVALID_IDENTIFIER 2).\n")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_stdin(uid2: Uid2, mark: bytes) -> None:
    """Lines of stdin are values; a byte order mark is no part of the first one."""
    text = mark + b"jane@example.com\r\n+12345678901\n"
    result = uid2("hash", "--value", "-", stdin=text)

    assert [one[0] for one in values_of(result)] == [JANE, PHONE]


def test_a_line_longer_than_any_block(uid2: Uid2) -> None:
    """However long a line is, it is one value."""
    address = "a" * 1_000_000 + "@example.com"
    result = uid2("hash", "--value", "-", stdin=f"{address}\njane@example.com")

    assert result.exit_code == 0
    assert values_of(result)[1][0] == JANE


def test_a_line_that_is_no_text_is_named(uid2: Uid2) -> None:
    """The message counts lines."""
    lines = [b"person@example.com\n"] * 300
    lines[200] = b"\xff\n"
    result = uid2("hash", "--value", "-", stdin=b"".join(lines))

    assert result.exit_code == 2
    assert "stdin, line 201: this is not UTF-8." in result.stderr


def test_file(uid2: Uid2, tmp_path: Path) -> None:
    """Rows and columns of a file are kept, in order; three columns are appended."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    people = [f"person{number}@example.com" for number in range(30_000)]
    people[11], people[29_000] = "nobody", "+12345678901"
    rows = "".join(f"{number};{one}\n" for number, one in enumerate(people))
    source.write_text(f"id;mail\n{rows}")

    line = ("--column", "mail", "--delimiter", ";")
    result = uid2("hash", str(source), str(target), *line)

    assert result.exit_code == 3
    with target.open(newline="") as file:
        header, *found = csv.reader(file, delimiter=";")
    assert header == ["id", "mail", "HASH", "HASH_TYPE", "HASH_STATUS"]
    assert [row[:2] for row in found] == [[str(n), p] for n, p in enumerate(people)]
    assert found[11][2:] == ["", "", "INVALID_IDENTIFIER"]
    assert found[29_000][2:] == [PHONE, "phone_hash", ""]
    assert len({row[2] for row in found}) == 30_000


def test_hashes_can_be_mapped(uid2: Uid2, tmp_path: Path) -> None:
    """The output is an input of 'uid2 map', with the same answers."""
    source, hashed = tmp_path / "in.csv", tmp_path / "hashed.parquet"
    source.write_text("INPUT\njane@example.com\n+12345678901\n")
    pytest.importorskip("pyarrow")

    assert uid2("hash", str(source), str(hashed)).exit_code == 0
    line = ("--column", "HASH", "--type", "email_hash", "--sandbox", "-q")
    assert uid2("map", str(hashed), str(tmp_path / "out.csv"), *line).exit_code == 0
    line = ("--column", "INPUT", "--type", "email", "--sandbox", "-q")
    assert uid2("map", str(source), str(tmp_path / "same.csv"), *line).exit_code == 0

    def first_uid(name: str) -> str:
        with (tmp_path / name).open(newline="") as file:
            return next(csv.DictReader(file))["UID"]

    assert first_uid("out.csv") == first_uid("same.csv") != ""


def test_nothing(uid2: Uid2) -> None:
    """Without a file or values there is a usage error."""
    result = uid2("hash")

    assert result.exit_code == 2
    assert "give a file, or values with --value" in result.stderr


def test_country(uid2: Uid2) -> None:
    """With --country, phones may be written as that country writes them."""
    pytest.importorskip("phonenumbers")
    phones = "(234) 567-8901\n+1 234 567 8901\ncall me\n12\n11\n"
    line = ("--type", "phone", "--country", "us", "--value", "-")
    result = uid2("hash", *line, stdin=phones)

    assert result.exit_code == 3
    assert values_of(result) == [
        (PHONE, "phone_hash", None),
        (PHONE, "phone_hash", None),
        (None, None, "PHONE_NOT_A_NUMBER"),
        (None, None, "PHONE_TOO_SHORT"),
        (None, None, "PHONE_TOO_SHORT"),
    ]
    assert "PHONE_NOT_A_NUMBER 1, PHONE_TOO_SHORT 2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--country", "US"], "Add --type phone"),
        (["--country", "US", "--type", "email"], "Add --type phone"),
        (["--country", "ZZ", "--type", "phone"], "country is unknown"),
    ],
)
def test_a_country_that_does_not_fit(
    uid2: Uid2, arguments: list[str], words: str
) -> None:
    """A country is for phones, and one that is none is refused before any work."""
    pytest.importorskip("phonenumbers")
    result = uid2("hash", "--value", "x", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
