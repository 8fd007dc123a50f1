"""The commands write the reference outputs of tests/bulk/corpus, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

CORPUS = Path(__file__).parent.parent / "bulk" / "corpus"
CASES = json.loads((CORPUS / "cases.json").read_text())
# When the operator's salts rotate depends on the day, and a token is never the same.
CHANGING = re.compile(rb"\b1[0-9]{9}\b|\b20[0-9-]{8}T[0-9:]{8}Z|A4AAAA[\w-]{60,}")


def comparable(path: Path, encoding: str) -> Any:
    """Read a file, less what changes."""
    if path.suffix in (".parquet", ".arrow"):
        feather = pytest.importorskip("pyarrow.feather")
        parquet = pytest.importorskip("pyarrow.parquet")
        module = parquet if path.suffix == ".parquet" else feather
        table = module.read_table(path)
        rows = table.drop_columns("REFRESH_FROM").to_pylist()
        return table.schema, rows
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return CHANGING.sub(b"-", data.decode(encoding).encode())


@pytest.mark.parametrize("name", sorted(CASES))
def test_reference_outputs(name: str, uid2: Any, tmp_path: Path) -> None:
    """What earlier versions have written is written again."""
    case = CASES[name]
    options = case["options"]
    encoding = "utf-8"
    if "--encoding" in options:
        encoding = options[options.index("--encoding") + 1]
    source = str(CORPUS / name / case["source"])
    made = tmp_path / case["target"]
    files = [source, str(made)]
    if case["command"] != "map":
        files = ["--in", source, "--out", str(made)]

    found = uid2(case["command"], "--sandbox", *options, *files)

    assert found.exit_code == case["exit"]
    expected = CORPUS / name / case["target"]
    assert comparable(made, encoding) == comparable(expected, encoding)
