"""Values come from arguments, files or stdin, and are taken as they stand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from uid2_async.cli.values import as_kind, read_lines, read_one, read_text
from uid2_async.errors import InputError
from uid2_async.models import Email, EmailHash, Phone, PhoneHash


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put two lines into stdin."""
    text = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa@b\r\n c@d \n"))
    monkeypatch.setattr("sys.stdin", text)


def test_arguments() -> None:
    """Arguments are the values themselves."""
    assert list(read_lines([" a@b", "+1"], None)) == [" a@b", "+1"]


def test_stdin(stdin: None) -> None:
    """A hyphen is stdin: line ends go, other white space stays."""
    assert list(read_lines(["-"], None)) == ["a@b", " c@d "]


def test_stdin_as_a_file(stdin: None) -> None:
    """--file - is stdin, too."""
    assert list(read_lines([], "-")) == ["a@b", " c@d "]


def test_file(tmp_path: Path) -> None:
    """Each line is a value, an empty one too, so that results line up."""
    path = tmp_path / "values"
    path.write_text("a@b\n\nc@d")

    assert list(read_lines([], str(path))) == ["a@b", "", "c@d"]


@pytest.mark.parametrize(
    ("arguments", "file", "words"),
    [
        ([], None, "No value was given"),
        (["a"], "file", "not both"),
        (["-", "a"], None, "the only value"),
        ([], "/nowhere/at/all", "cannot be read"),
    ],
)
def test_what_is_refused(arguments: list[str], file: str | None, words: str) -> None:
    """What is ambiguous, or nothing, is refused."""
    with pytest.raises(InputError, match=words):
        list(read_lines(arguments, file))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """The line is named, never shown."""
    path = tmp_path / "values"
    path.write_bytes(b"a@b\nsecret\xff\n")

    with pytest.raises(InputError, match="line 2: this is not UTF-8") as caught:
        list(read_lines([], str(path)))
    assert "secret" not in str(caught.value)


def test_one_value(tmp_path: Path) -> None:
    """Where one value is needed, there must be exactly one."""
    path = tmp_path / "values"
    path.write_text("a@b\n")
    assert read_one("x", None) == "x"
    assert read_one(None, str(path)) == "a@b"

    for text in ("", "a@b\nc@d\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="Exactly one value"):
            read_one(None, str(path))


def test_text(tmp_path: Path) -> None:
    """A whole file is read, without outer white space."""
    path = tmp_path / "tokens.json"
    path.write_text(' {\n"a": 1}\n\n')

    assert read_text(str(path)) == '{\n"a": 1}'


def test_kinds() -> None:
    """Without a kind, a leading + means a phone and all else an email."""
    assert as_kind("+1", None) == Phone("+1")
    assert as_kind("a", None) == Email("a")
    assert as_kind("a", "email_hash") == EmailHash("a")
    assert as_kind("a", "phone_hash") == PhoneHash("a")
    assert as_kind("a", "phone") == Phone("a")
