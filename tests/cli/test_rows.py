"""Files of rows: what was in them stays, columns are appended, defects are refused."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from uid2_async.bulk.paths import Content, FileFormatOptions
from uid2_async.cli.rows import CHUNK_ROWS, Columns, RowFiles, RowJob, Work
from uid2_async.errors import InputError, JobError

ADDED = {"UID": Content.TEXT, "SITE_ID": Content.INTEGER, "STATUS": Content.TEXT}
TOKEN = "A4AAAAPp_KS48A9sW4JGYBxyzj24ivCw7qdoi-y5P3RTyFzN1URWH_AgcP8QnXoZLEt69glhotVh"


def work(values: Sequence[Sequence[str]]) -> Columns:
    """Answer values that begin with g, and refuse all others."""
    good = [one[:1] == "g" for one in values[0]]
    return (
        [one.upper() if ok else None for one, ok in zip(values[0], good, strict=True)],
        [7 if ok else None for ok in good],
        [None if ok else "BAD" for ok in good],
    )


def rewrite(
    source: Path | str,
    target: Path | str,
    prepare: Callable[[], Work] = lambda: work,
    *,
    force: bool = False,
    **options: Any,
) -> None:
    """Rewrite a file; that rows failed is no error here."""
    job = RowJob(
        option="--uid",
        files=RowFiles(source=str(source), target=str(target), force=force),
        options=FileFormatOptions(),
        wanted={"--column": "T"},
        added=ADDED,
        result="a raw UID",
        **options,
    )
    with suppress(typer.Exit):
        job.run(prepare)


def rewrite_bytes(folder: Path, data: bytes, suffix: str) -> bytes:
    """Rewrite what a file of *data* holds."""
    (folder / f"in.{suffix}").write_bytes(data)
    rewrite(folder / f"in.{suffix}", folder / f"out.{suffix}")
    return (folder / f"out.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b'a,T\n"x, ""y""",good\n 1 ,\n',
            b'a,T,UID,SITE_ID,STATUS\n"x, ""y""",good,GOOD,7,\n 1 ,,,,BAD\n',
        ),
        (
            b'\xef\xbb\xbft,a\r\ng,"1\r2"\r\n',
            b'\xef\xbb\xbft,a,UID,SITE_ID,STATUS\r\ng,"1\r2",G,7,\r\n',
        ),
        (b"T\n", b"T,UID,SITE_ID,STATUS\n"),
    ],
)
def test_csv(tmp_path: Path, data: bytes, expected: bytes) -> None:
    """Rows and line ends stay; what is missing is an empty field."""
    assert rewrite_bytes(tmp_path, data, "csv") == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            '{"n": 1.10, "T":"g\\u00fc" }\r\n',
            '{"n": 1.10, "T":"g\\u00fc","UID":"GÜ","SITE_ID":7,"STATUS":null}\r\n',
        ),
        (
            '{"T":"g"}\n\n{"a":"}"}\n{"T":null}',
            (
                '{"T":"g","UID":"G","SITE_ID":7,"STATUS":null}\n'
                '{"a":"}","UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
                '{"T":null,"UID":null,"SITE_ID":null,"STATUS":"BAD"}\n'
            ),
        ),
        ("", ""),
    ],
)
def test_jsonl(tmp_path: Path, data: str, expected: str) -> None:
    """Lines stay to the last digit; what is missing is a failed row."""
    assert rewrite_bytes(tmp_path, data.encode(), "jsonl").decode() == expected


def test_what_is_not_a_string(tmp_path: Path) -> None:
    """A number in JSON lines is an error, as a column of numbers in Parquet is."""
    with pytest.raises(InputError, match="line 2: an identifier is not a string"):
        rewrite_bytes(tmp_path, b'{"T":"g"}\n{"T":3}\n', "jsonl")


def test_parquet(tmp_path: Path) -> None:
    """Columns keep their types, and what is appended has its own."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    before = pa.table({"T": ["g1", None, "x"], "nested": [[{"a": 1}], [], None]})
    parquet.write_table(before, tmp_path / "in.parquet")

    rewrite(tmp_path / "in.parquet", tmp_path / "out.parquet")
    after = parquet.read_table(tmp_path / "out.parquet")

    assert after.select(["T", "nested"]).equals(before)
    assert after.column("UID").to_pylist() == ["G1", None, None]
    assert after.column("SITE_ID").to_pylist() == [7, None, None]
    assert after.column("SITE_ID").type == pa.int32()
    assert after.column("STATUS").to_pylist() == [None, "BAD", "BAD"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_are_worked_on_in_parts(tmp_path: Path, suffix: str) -> None:
    """No more than one part of a file is in memory."""
    size = CHUNK_ROWS * 7 + 1
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    match suffix:
        case "csv":
            source.write_text("T\n" + "g\n" * size)
        case "jsonl":
            source.write_text('{"T":"g"}\n' * size)
        case _:
            pa = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pa.table({"T": ["g"] * size}), source)
    sizes: list[int] = []

    def counting(values: Sequence[Sequence[str]]) -> Columns:
        sizes.append(len(values[0]))
        return work(values)

    rewrite(source, target, lambda: counting)

    assert sum(sizes) == size
    assert max(sizes) <= CHUNK_ROWS
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [source, target]


@pytest.mark.parametrize(
    ("suffix", "data", "words"),
    [
        ("csv", b"", ["is empty"]),
        ("csv", b"a,b\n", ["no column 'T'", "'a', 'b'", "--column NAME"]),
        ("csv", b"T,uid\n", ["already has a column 'uid'"]),
        ("csv", b"T\nx,y\n", ["line 2: 2 fields"]),
        ("csv", TOKEN.encode() + b"\nx\n", ["the first row looks like data"]),
        ("jsonl", b'{"a":1,"b":2}\n', ["no column 'T'", "--column NAME"]),
        ("jsonl", b'{"T":"x"}\n{"T":"x","Site_Id":1}\n', ["a column 'Site_Id'"]),
        ("jsonl", b'{"T":"x"}\n\n{"T":\n', ["line 3: this is not a JSON object"]),
        ("jsonl", b'{"%s":"x"}\n' % TOKEN.encode(), ["looks like data"]),
        ("parquet", b"PAR1", ["cannot be read as Parquet"]),
        ("arrow", b"ARROW1", ["cannot be read as Arrow"]),
    ],
)
def test_defects(tmp_path: Path, suffix: str, data: bytes, words: list[str]) -> None:
    """A file that cannot be read whole is refused, without a value, and leaves none."""
    with pytest.raises(InputError) as caught:
        rewrite_bytes(tmp_path, data, suffix)

    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in words), text
    assert TOKEN not in text
    assert caught.value.__context__ is None
    assert [one.name for one in tmp_path.iterdir()] == [f"in.{suffix}"]


def test_nothing_is_prepared_for_what_is_refused(tmp_path: Path) -> None:
    """Keys are fetched when all else is in order."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("T\ng\n")
    target.write_text("old")

    with pytest.raises(InputError, match="already exists"):
        rewrite(source, target, pytest.fail)

    rewrite(source, target, force=True)
    assert target.read_text() == "T,UID,SITE_ID,STATUS\ng,G,7,\n"


def test_two_commands_at_once(tmp_path: Path) -> None:
    """On one output, the second is refused; on two like names, each has its rows."""
    source, other = tmp_path / "in.csv", tmp_path / "other.csv"
    source.write_text("T\ngood\n")
    other.write_text("T\ngreat\n")
    first, second = (tmp_path / f"{'x' * 40}{at}.csv" for at in "12")

    def meanwhile() -> Work:
        with pytest.raises(JobError, match=r"1\.csv is being written by process"):
            rewrite(other, first, pytest.fail)
        rewrite(other, second)
        return work

    rewrite(source, first, meanwhile)

    assert first.read_text().endswith("\ngood,GOOD,7,\n")
    assert second.read_text().endswith("\ngreat,GREAT,7,\n")
    assert set(tmp_path.iterdir()) == {source, other, first, second}


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """The new one takes its place when it is whole."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("T\ng\n")
    target.write_text("old")

    def failing(_: Sequence[Sequence[str]]) -> Columns:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - any will do
        rewrite(source, target, lambda: failing, force=True)

    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_pipe_with_a_name(tmp_path: Path) -> None:
    """A shell may hand over the output of a program under a name."""
    pipe, target = tmp_path / "pipe.csv", tmp_path / "out.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("T\ng\n",))
    writer.start()

    rewrite(pipe, target)

    writer.join()
    assert target.read_text() == "T,UID,SITE_ID,STATUS\ng,G,7,\n"


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while rows are written removes the unfinished output."""
    (tmp_path / "in.csv").write_text("T\ngood\n")

    def terminated(_: Sequence[Sequence[str]]) -> Columns:
        signal.raise_signal(signal.SIGTERM)
        return ["G"], [7], [None]

    with pytest.raises(SystemExit):
        rewrite(tmp_path / "in.csv", tmp_path / "out.csv", lambda: terminated)

    assert [one.name for one in tmp_path.iterdir()] == ["in.csv"]


def test_an_output_that_could_not_be_written(tmp_path: Path) -> None:
    """It is refused before the keys are loaded, and nothing is written."""
    source = tmp_path / "in.csv"
    source.write_text("T,x,x\ng,1,2\n")

    def prepare() -> Work:
        raise AssertionError

    for target in ("out.parquet", "out.jsonl"):
        with pytest.raises(InputError, match="several columns 'x'"):
            rewrite(source, tmp_path / target, prepare)
    assert list(tmp_path.iterdir()) == [source]
