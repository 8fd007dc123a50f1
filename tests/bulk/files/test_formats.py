"""Layouts: what options there are, and which are refused."""

from __future__ import annotations

import pytest

from tests.bulk.files.conftest import layout
from uid2_async.bulk.files.formats import Format, is_gzipped
from uid2_async.errors import ConfigError


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r"])
def test_delimiters_that_are_refused(delimiter: str) -> None:
    """One character, and no quote or line end."""
    with pytest.raises(ConfigError, match="A delimiter is one character"):
        layout("csv", delimiter=delimiter)


@pytest.mark.parametrize("encoding", ["", "no-such", "hex", "utf-7", "iso-2022-jp"])
def test_encodings_that_are_refused(encoding: str) -> None:
    """One that is not known, or in which a byte means what those before say."""
    with pytest.raises(ConfigError, match="no such encoding"):
        layout("csv", encoding=encoding)


def test_encodings_get_their_usual_names() -> None:
    """The one with a byte order mark is UTF-8: the mark is kept where there is one."""
    assert layout("csv", encoding="UTF8").encoding == "utf-8"
    assert layout("csv", encoding="utf-8-sig").encoding == "utf-8"
    assert layout("csv", encoding="latin1").encoding == "iso8859-1"


def test_names_and_formats() -> None:
    """Text is handed on as it is; a suffix tells of compression."""
    assert [one.is_text for one in Format] == [True, True, False, False]
    assert is_gzipped("a.csv.GZ")
    assert not is_gzipped("a.csv")
