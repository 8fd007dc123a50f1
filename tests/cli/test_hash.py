"""``uid2 hash`` normalizes as the operator does, and sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Uid2 = Callable[..., Any]

JANE = "jIe0ic41zy4vOfgOKCyy6ASTKlaiE5g+7rQoQH1DtS0="
PHONE = "EObwtHBUqDNZR33LNSMdtt5cafsYFuGmuY4ZLenlue4="


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["Jane@Example.com"], f"email\t{JANE}"),
        (["+12345678901"], f"phone\t{PHONE}"),
        (["--type", "email", "jane@example.com"], f"email\t{JANE}"),
        (["--type", "email_hash", JANE], f"email_hash\t{JANE}"),
        (
            [
                "--type",
                "phone_hash",
                "10e6f0b47054a83359477dcb35231db6de5c69fb1816e1a6b98e192de9e5b9ee",
            ],
            f"phone_hash\t{PHONE}",
        ),
    ],
)
def test_values(uid2: Uid2, arguments: list[str], line: str) -> None:
    """Each value is one line: its type, a tab, its hash."""
    result = uid2("hash", *arguments)

    assert (result.exit_code, result.stdout) == (0, f"{line}\n")


def test_invalid_values(uid2: Uid2) -> None:
    """Invalid values keep their line; the exit code says that there are some."""
    result = uid2("hash", "jane@example.com", "nobody", "+1")

    assert result.exit_code == 3
    assert result.stdout == f"email\t{JANE}\nemail\tINVALID\nphone\tINVALID\n"
    assert result.stderr == "uid2: Invalid values: 2.\n"


def test_stdin(uid2: Uid2) -> None:
    """Lines of stdin are values."""
    result = uid2("hash", "-", stdin="jane@example.com\r\n+12345678901\n")

    assert result.stdout == f"email\t{JANE}\nphone\t{PHONE}\n"


def test_file(uid2: Uid2, tmp_path: Path) -> None:
    """Lines of a file are values."""
    (tmp_path / "values").write_text("jane@example.com\n")
    result = uid2("hash", "--file", str(tmp_path / "values"))

    assert result.stdout == f"email\t{JANE}\n"


def test_nothing(uid2: Uid2) -> None:
    """Without values there is a usage error."""
    result = uid2("hash")

    assert result.exit_code == 2
    assert result.stderr.startswith("uid2: No value is given.\nHint: ")


def test_country(uid2: Uid2) -> None:
    """With --country, phones may be written as that country writes them."""
    pytest.importorskip("phonenumbers")
    result = uid2(
        *("hash", "--type", "phone", "--country", "us"),
        *("(234) 567-8901", "+1 234 567 8901", "call me", "12", "11"),
    )

    assert result.exit_code == 3
    assert result.stdout == f"phone\t{PHONE}\n" * 2 + "phone\tINVALID\n" * 3
    assert result.stderr.splitlines() == [
        "uid2: Invalid values: 3.",
        "uid2: 2 of them: The phone number is too short.",
        "uid2: 1 of them: The text is not a phone number.",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--country", "US", "x"], "add --type phone"),
        (["--country", "US", "--type", "email", "x"], "add --type phone"),
        (["--country", "ZZ", "--type", "phone", "x"], "country is unknown"),
    ],
)
def test_a_country_that_does_not_fit(
    uid2: Uid2, arguments: list[str], words: str
) -> None:
    """A country is for phones, and one that is none is refused before any work."""
    pytest.importorskip("phonenumbers")
    result = uid2("hash", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_jobs_keep_the_order(uid2: Uid2, tmp_path: Path) -> None:
    """Several processes print what one prints, and exit as one does."""
    values = [f"person{number}@example.com" for number in range(30_000)]
    values[11], values[29_000] = "nobody", "+12345678901"
    (tmp_path / "values").write_text("\r\n".join(values))

    alone = uid2("hash", "--file", str(tmp_path / "values"))
    several = uid2("hash", "--jobs", "2", "--file", str(tmp_path / "values"))

    assert several.stdout == alone.stdout
    assert (several.exit_code, alone.exit_code) == (3, 3)
    lines = alone.stdout.splitlines()
    assert len(lines) == 30_000
    assert (lines[11], lines[29_000]) == ("email\tINVALID", f"phone\t{PHONE}")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_line_that_is_no_text_is_named(uid2: Uid2, tmp_path: Path, jobs: str) -> None:
    """The message counts lines through all of the file, in any process."""
    lines = [b"person@example.com\n"] * 30_000
    lines[20_000] = b"\xff\n"
    (tmp_path / "values").write_bytes(b"".join(lines))
    result = uid2("hash", "--jobs", jobs, "--file", str(tmp_path / "values"))

    assert result.exit_code == 2
    assert "line 20001: this is not UTF-8." in result.stderr


def test_a_line_longer_than_any_block(uid2: Uid2) -> None:
    """However long a line is, it is one value."""
    address = "a" * 1_000_000 + "@example.com"
    result = uid2("hash", "-", stdin=f"{address}\njane@example.com")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == f"email\t{JANE}"


def test_a_byte_order_mark_is_no_part_of_the_first_value(uid2: Uid2) -> None:
    """Files that Windows wrote begin with one."""
    result = uid2("hash", "-", stdin=b"\xef\xbb\xbfjane@example.com\n")

    assert result.stdout == f"email\t{JANE}\n"
