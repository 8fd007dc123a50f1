# ruff: noqa: ASYNC240 - the files of a test are small
"""What inputs and options show is refused before the first request."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from day_operator import Day
from uid2_async import MapOptions, errors, map_file, refresh_state
from uid2_async.bulk import RefreshOptions
from uid2_async.bulk.options import JobSummary

ROWS = 2_000
MAILS = [f"p{n}@example.com" for n in range(ROWS)]


def write_csv(path: Path, header: str = "mail,x") -> None:
    """Write rows of two columns."""
    path.write_text(f"{header}\n" + "".join(f"{one},1\n" for one in MAILS))


def lines(last: str) -> Callable[[Path], None]:
    """Return what writes JSON lines, whose last one is *last*."""
    rows = "".join(f'{{"mail":"{one}","x":"1"}}\n' for one in MAILS)

    def write(path: Path) -> None:
        path.write_text(f'{rows}{{"mail":"last@example.com",{last}}}\n')

    return write


def table(name: str, kind: Any = None) -> Callable[[Path], None]:
    """Return what writes a table whose second column has a name and a type."""
    kind = kind or pa.string()
    made = pa.table({"mail": MAILS, name: pa.nulls(ROWS, kind)})

    def write(path: Path) -> None:
        if path.suffix == ".parquet":
            pq.write_table(made, path)
            return
        with ipc.new_file(path, made.schema) as writer:
            writer.write_table(made)

    return write


def half_name(path: Path) -> None:
    """Write JSON lines with a key that is not Unicode."""
    path.write_text('{"mail":"p@example.com","x\\ud83d":1}\n' * ROWS)


LAST = f"line {ROWS + 1}"
HALF = f"{LAST}: a value is not valid Unicode"
LATE = f"{LAST}: a key is missing"
LATIN = {"encoding": "latin-1"}
EXPLODE = {"explode": True}
REPEATED = "several columns 'x'"
# The input, how it is written, the output, the options, and the refusal.
REFUSED: list[tuple[str, Callable[[Path], None], str, dict[str, Any], str]] = [
    ("csv", lambda path: write_csv(path, "mail,x,x"), "parquet", {}, REPEATED),
    ("csv", lambda path: write_csv(path, "mail,x,x"), "arrow", {}, REPEATED),
    ("csv", lambda path: write_csv(path, "mail,x,x"), "jsonl", {}, REPEATED),
    ("jsonl", lines('"late":1'), "csv", {}, LATE),
    ("jsonl", lines('"late":1'), "parquet", {}, LATE),
    ("jsonl", lines('"x":"\\ud83d"'), "csv", {}, HALF),
    ("jsonl", lines('"x":"\\udc00 \\ud83d"'), "parquet", {}, HALF),
    ("jsonl", lines('"x":"\\u20ac"'), "csv", LATIN, f"{LAST}: a value cannot"),
    ("jsonl", lines('"uid":1'), "jsonl", {}, f"{LAST} already has a column 'uid'"),
    ("jsonl", half_name, "csv", {}, "the name of the column"),
    ("jsonl", half_name, "parquet", {}, "the name of the column"),
    ("arrow", table("\u20ac"), "csv", LATIN, "the name of the column '\u20ac'"),
    ("parquet", table("\u20ac"), "jsonl", LATIN, "the name of the column '\u20ac'"),
    ("arrow", table("x", pa.month_day_nano_interval()), "parquet", {}, "'x' (month"),
    ("arrow", table("x", pa.list_(pa.string_view())), "arrow", EXPLODE, "The rows"),
]


async def run(source: Path, target: Any, day: Day, **more: Any) -> JobSummary:
    """Map the column mail."""
    paths = {name: more.pop(name) for name in ("state", "delta") if name in more}
    options = MapOptions(column="mail", type="email", **{"batch_size": 100, **more})
    async with day.client() as client:
        return await map_file(source, target, client=client, options=options, **paths)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("kind", "write", "to", "options", "words"), REFUSED)
async def test_an_output_that_could_not_be_written(
    tmp_path: Path,
    kind: str,
    write: Callable[[Path], None],
    to: str,
    options: dict[str, Any],
    words: str,
    *,
    with_state: bool,
) -> None:
    """It costs no request, leaves nothing, and a mended input needs no restart."""
    source, target, day = tmp_path / f"in.{kind}", tmp_path / f"out.{to}", Day("first")
    more = {**options, **({"state": tmp_path / "people.db"} if with_state else {})}
    write(source)
    with pytest.raises(errors.InputError, match=re.escape(words)) as caught:
        await run(source, target, day, **more)

    assert day.asked == 0
    assert "@example.com" not in f"{caught.value.message}{caught.value.hint}"
    left = {one.name.split(".")[0] for one in tmp_path.iterdir()}
    assert left <= {"in", "people"}

    good = lines('"x":"1"') if kind == "jsonl" else table("x")
    (write_csv if kind == "csv" else good)(source)
    summary = await run(source, target, day, **more)
    assert (summary.complete, summary.resumed_rows) == (True, 0)


@pytest.mark.parametrize(
    ("write", "to", "options", "words"),
    [one[1:] for one in REFUSED if LAST in one[4]],
)
async def test_a_late_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    to: str,
    options: dict[str, Any],
    words: str,
) -> None:
    """Without the check, or on stdin, a row that cannot be converted has its line."""
    source, target = tmp_path / "in.jsonl", tmp_path / f"out.{to}"
    write(source)
    with pytest.raises(errors.InputError, match=re.escape(words)):
        await run(source, target, Day("first"), precheck=False, **options)

    with TextIOWrapper(BytesIO(source.read_bytes())) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        piped = {**options, "format": "jsonl"}
        with pytest.raises(errors.InputError, match=re.escape(words)):
            await run(Path("-"), tmp_path / f"piped.{to}", Day("first"), **piped)


async def test_the_check_before_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is mapped to stdout is checked too."""
    source, day = tmp_path / "in.csv", Day("first")
    mails = "".join(f"p{n}@example.com\n" for n in range(20 * ROWS))
    source.write_text(f"mail\n{mails}x,y\n")
    written = SimpleNamespace(buffer=BytesIO(), fileno=BytesIO().fileno)
    monkeypatch.setattr(sys, "stdout", written)

    with pytest.raises(errors.InputError, match=f"line {20 * ROWS + 2}"):
        await run(source, "-", day)

    assert (day.asked, written.buffer.getvalue()) == (0, b"")


@pytest.mark.parametrize("with_state", [False, True])
async def test_bad_rows_of_a_conversion(tmp_path: Path, *, with_state: bool) -> None:
    """A row that cannot be converted is a bad row; the others are mapped."""
    source, bad = tmp_path / "in.jsonl", tmp_path / "bad.csv"
    lines('"late":1},\n{"mail":"q@example.com","x":"\\ud83d"')(source)
    source.write_text(source.read_text().replace("},\n", "}\n"))
    more = {"state": tmp_path / "people.db"} if with_state else {}

    summary = await run(
        source, tmp_path / "out.csv", Day("first"), bad_rows=bad, **more
    )

    assert (summary.rows, summary.bad_rows, summary.complete) == (ROWS, 2, True)
    with bad.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["LINE"] for row in found] == [str(ROWS + 1), str(ROWS + 2)]
    assert "key is missing" in found[0]["REASON"]
    assert "not valid Unicode" in found[1]["REASON"]


@pytest.mark.parametrize(
    ("delta", "keys", "words"),
    [
        ("delta.json", [], "the format of .json files"),
        ("delta.jsonl", ["x"], HALF),
    ],
)
async def test_a_delta_that_could_not_be_written(
    tmp_path: Path, delta: str, keys: list[str], words: str
) -> None:
    """Its format and the text of keys are checked before requests."""
    source, day = tmp_path / "in.jsonl", Day("first")
    lines('"x":"\\ud83d","CHANGE":"kept"')(source)
    state = tmp_path / "people.db"

    with pytest.raises(errors.InputError, match=re.escape(words)):
        await run(
            source,
            tmp_path / "out.jsonl",
            day,
            state=state,
            delta=tmp_path / delta,
            keys=keys,
        )

    assert day.asked == 0


async def test_the_delta_of_a_refresh(tmp_path: Path) -> None:
    """Its format is checked before the operator is asked about what is due."""
    source, state, day = tmp_path / "in.csv", tmp_path / "people.db", Day("first")
    write_csv(source)
    await run(source, tmp_path / "out.csv", day, state=state)
    due = RefreshOptions(unchecked_for=timedelta(0))

    async with day.client() as client:
        with pytest.raises(errors.InputError, match=r"the format of \.json files"):
            await refresh_state(
                state, client=client, options=due, delta=tmp_path / "delta.json"
            )
    assert day.asked == ROWS
