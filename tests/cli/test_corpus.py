"""The commands write the reference outputs of tests/bulk/corpus, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from uid2_async.operator import LocalOperator, OperatorData

CORPUS = Path(__file__).parent.parent / "bulk" / "corpus"
CASES = json.loads((CORPUS / "cases.json").read_text())
# The day on which the reference was written: salts rotate, and raw UIDs with them.
DAY = datetime(2026, 11, 28, 23, tzinfo=UTC)
# A token is never the same.
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


@pytest.fixture(scope="module")
def env_then() -> Iterator[dict[str, str]]:
    """Run the operator of that day, and name it as a user's environment does."""
    data = OperatorData.sample(base=DAY)
    with LocalOperator.in_thread(data, clock=lambda: DAY) as operator:
        key = operator.credentials["everything"]
        yield {
            "UID2_BASE_URL": operator.url,
            "UID2_API_KEY": key.api_key,
            "UID2_SECRET_KEY": key.client_secret,
        }


@pytest.mark.parametrize("name", sorted(CASES))
def test_reference_outputs(
    name: str, uid2: Callable[..., Any], env_then: dict[str, str], tmp_path: Path
) -> None:
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

    found = uid2(case["command"], *options, *files, env=env_then)

    assert found.exit_code == case["exit"], found.output
    expected = CORPUS / name / case["target"]
    assert comparable(made, encoding) == comparable(expected, encoding)
