"""Files that earlier versions have written are the reference, byte for byte.

Of each case the appended cells are taken from the expected output, so that only reading
and writing are compared; tests/cli/test_corpus.py runs the commands themselves.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from uid2_async.bulk.columns import find_identifiers
from uid2_async.bulk.files import open_output, open_reader
from uid2_async.bulk.paths import Content, FileFormatOptions, FilePair

CORPUS = Path(__file__).parent.parent / "corpus"
CASES = json.loads((CORPUS / "cases.json").read_text())


def option(case: Any, name: str) -> Any:
    """Return what the command line says of an option."""
    options = case["options"]
    return options[options.index(name) + 1] if name in options else None


def read_table(path: Path, encoding: str, delimiter: str) -> tuple[list[str], Any]:
    """Read a whole file, by other means than ours."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if ".csv" in path.name:
        text = io.StringIO(data.decode(encoding).lstrip("\ufeff"), newline="")
        header, *rows = (row for row in csv.reader(text, delimiter=delimiter) if row)
        return header, [[cell or None for cell in row] for row in rows]
    if ".jsonl" in path.name:
        found = [
            json.loads(one) for one in data.decode("utf-8-sig").splitlines() if one
        ]
        header = list(dict.fromkeys(key for row in found for key in row))
        return header, [[row.get(key) for key in header] for row in found]
    feather = pytest.importorskip("pyarrow.feather")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = (parquet if path.suffix == ".parquet" else feather).read_table(path)
    return table.column_names, [list(row.values()) for row in table.to_pylist()]


def rows_of_file(case: Any, header: list[str], rows: Any, added: list[str]) -> Any:
    """Say to which row of the input each row of the output belongs."""
    if "--explode" not in case["options"]:
        return None
    places = [header.index(name) for name in header if name not in added]
    seen = [tuple(row[at] for at in places) for row in rows]
    return [sorted(set(seen), key=seen.index).index(one) for one in seen]


@pytest.mark.parametrize("name", sorted(CASES))
def test_outputs(name: str, tmp_path: Path) -> None:
    """Every input comes out as it did, with the same columns appended."""
    case = CASES[name]
    source, expected = CORPUS / name / case["source"], CORPUS / name / case["target"]
    delimiter = (option(case, "--delimiter") or ",").replace("\\t", "\t")
    encoding = option(case, "--encoding") or "utf-8"
    options = FileFormatOptions(
        delimiter=delimiter,
        encoding=encoding,
        spreadsheet_safe="--spreadsheet-safe" in case["options"],
        iso=True if option(case, "--refresh-from") == "iso" else None,
    )
    before, _ = read_table(source, encoding, delimiter)
    header, rows = read_table(expected, encoding, delimiter)
    names = [one for one in header if one not in before]
    if ".csv" in case["source"]:
        names = header[len(before) :]
    if name == "parquet-empty":
        assert rows == []
    how, written = FilePair(source, tmp_path / case["target"]).formats(options)
    reader = open_reader(source, how)
    added = {
        one: Content.INSTANT if one.upper() == "REFRESH_FROM" else Content.TEXT
        for one in names
    }
    reader.select([], added=added)
    output = open_output(
        reader, attrs_iso(written, case), tmp_path / "part", added=added
    )
    repeat = rows_of_file(case, header, rows, names)
    columns = {one: [row[header.index(one)] for row in rows] for one in names}
    for one, content in added.items():
        if content is Content.INSTANT:
            columns[one] = [seconds(cell) for cell in columns[one]]
    done = 0
    while True:
        some = reader.take(10_000)
        if some is not None:
            count = len(rows) if repeat else some.count
            part = {one: cells[done : done + count] for one, cells in columns.items()}
            output.write(output.format(some, part, repeat))
            done += count
        elif not reader.load():
            break
    output.sync()
    output.finish(tmp_path / case["target"])
    reader.close()

    made = tmp_path / case["target"]
    assert done == len(rows)
    if made.suffix in (".parquet", ".arrow"):
        assert read_table(made, "", "") == (header, rows)
    elif made.suffix == ".gz":
        # How well it is compressed depends on the library that does it.
        assert gzip.decompress(made.read_bytes()) == gzip.decompress(
            expected.read_bytes()
        )
    else:
        assert made.read_bytes() == expected.read_bytes()


def attrs_iso(options: FileFormatOptions, case: Any) -> FileFormatOptions:
    """Keep instants that the expected file has as text."""
    assert options.iso is (True if "iso" in case["options"] else None)
    return options


def seconds(cell: Any) -> Any:
    """Return an instant as seconds since the epoch."""
    if isinstance(cell, str) and not cell.isdigit():
        cell = datetime.fromisoformat(cell)
    if isinstance(cell, datetime):
        return int(cell.timestamp())
    return None if cell is None else int(cell)


@pytest.mark.parametrize("name", sorted(CASES))
def test_inputs_are_kept(name: str) -> None:
    """Each case has its files, and each text input is read to its end."""
    case = CASES[name]
    reader = open_reader(
        CORPUS / name / case["source"],
        FileFormatOptions(
            delimiter=(option(case, "--delimiter") or ",").replace("\\t", "\t"),
            encoding=option(case, "--encoding") or "utf-8",
        ),
    )
    column = option(case, "--column") or option(case, "--email") or reader.header[0]
    found = find_identifiers(reader.header, column=column, kind="email", several={})
    reader.select(found.wanted)
    count = 0
    while True:
        some = reader.take(10)
        if some is not None:
            count += len(some.values(found.wanted[0]))
        elif not reader.load():
            break
    reader.close()
    assert count > 0 or name == "parquet-empty"
