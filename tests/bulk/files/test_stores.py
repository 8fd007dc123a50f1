"""URLs as inputs and outputs, as far as no store is needed; see tests/stores."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk import Query, Table
from uid2_async.bulk.paths import FileFormatOptions
from uid2_async.bulk.stores import (
    _S3,
    Pipe,
    _explain,
    expand_locations,
    is_url,
    locate,
    through_files,
)
from uid2_async.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("url", "extra", "package"),
    [
        ("s3://bucket/in.csv", "s3", "s3fs"),
        ("gs://bucket/in.csv", "gcs", "gcsfs"),
        ("az://bucket/in.csv", "azure", "adlfs"),
        ("https://host.example/in.csv?signature=canary", "https", "fsspec"),
    ],
)
def test_a_missing_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, extra: str, package: str
) -> None:
    """The error names it, as pip takes it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the extra '{extra}'") as caught:
        locate(url)
    assert f"pip install 'uid2-async[{extra}]'" in caught.value.hint
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/in.csv", "scheme"),
        ("file:///in.csv", "scheme"),
        ("http://host.example/in.csv", "in the clear"),
        ("https://user:canary@host.example/in.csv", "credentials in it"),
        ("s3://key:canary@bucket/in.csv", "credentials in it"),
        ("s3://key:can/canary@bucket/in.csv", "credentials in it"),
        ("https://user:11/canary@host.example/in.csv", "credentials in it"),
        ("https://user:ab/canary@host.example/in.csv", "credentials in it"),
        ("az://box/in.csv?sv=1&sig=canary", "credentials in it"),
        ("s3://bucket/in.csv?X-Amz-Signature=canary", "credentials in it"),
        ("jdbc:postgresql://host/db?user=a&password=canary", "connection string"),
        ("host=db.example password=canary", "connection string"),
        ("postgresql://owner:canary@host/db", "with a query"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    """Before anything is opened; what is in them is not repeated."""
    for ends in ((url, "out.csv"), ("in.csv", url)):
        with pytest.raises(InputError, match=message) as caught:
            expand_locations(*ends)
        assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_paths_are_paths(tmp_path: Path) -> None:
    """Colons and slashes in a path make no URL of it."""
    for name in ("a:b", "c:/x", "/s3:/x", "x//y"):
        assert not is_url(name)
        assert locate(name) == Path(name)


def test_databases_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names it; the password is in no repr, name or error."""
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    uri = "postgresql://owner:canary@host:1/db?password=canary"
    query, table = Query(uri, "SELECT 'canary'"), Table(uri, "mapped")
    with pytest.raises(InputError, match="extra 'sql'") as caught:
        query.fetch(tmp_path / "copy.arrow")
    assert "pip install 'uid2-async[sql]'" in caught.value.hint
    shown = f"{query!r} {table!r} {query.name} {table.name} {query.identify()}"
    assert "canary" not in f"{shown} {caught.value}"
    for wrong in ("", "a.b.c", ".x"):
        with pytest.raises(ConfigError):
            Table(uri, wrong)
    with pytest.raises(ConfigError, match="empty"):
        Query(uri, " ")


@pytest.mark.parametrize("password", ["4711/canary", "4711#canary", "4711?canary"])
@pytest.mark.parametrize("rest", ["@host/db", "@host:1/db?a=b", "@host"])
def test_passwords_that_end_the_host(password: str, rest: str) -> None:
    """A URI whose password is not escaped is refused, and no part of it is shown."""
    uri = f"postgresql://owner:{password}{rest}"
    for end in (lambda: Query(uri, "SELECT 1"), lambda: Table(uri, "mapped")):
        with pytest.raises(ConfigError, match="be valid") as caught:
            end()
        shown = f"{caught.value} {caught.value.hint}"
        assert "canary" not in shown
        assert "4711" not in shown


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "canary"), "No space left"),
        (OSError(errno.EBUSY, "canary"), "throttling"),
        (PermissionError("canary"), "denied"),
        (TimeoutError("canary"), "cannot be reached"),
        (RuntimeError("canary"), "RuntimeError"),
    ],
)
def test_failures_are_explained_by_class(error: Exception, words: str) -> None:
    """Whatever a store's library raises, its text is not shown."""
    found: Any = _explain(error, "s3://bucket/in.csv", _S3)[1]
    assert isinstance(error, OSError) or "AWS_ACCESS_KEY_ID" in found.hint
    assert words in found.message
    assert found.hint
    assert "canary" not in str(found)


@pytest.mark.parametrize("target", ["-", "b", "b.csv", "b.tsv", "b.tsv.gz", "b.jsonl"])
@pytest.mark.parametrize("given", [{}, {"delimiter": "\t"}, {"format": "csv"}])
def test_stdin_that_is_read_twice(target: str, given: dict[str, str]) -> None:
    """Its copy is read, and the output written, as without a copy."""
    options = FileFormatOptions(**given)
    (pair,) = expand_locations("-", target)

    spooled = through_files(pair, options, spool=True)

    assert isinstance(spooled.source, Pipe)
    assert spooled.target == pair.target
    assert spooled.formats(options) == pair.formats(options)
