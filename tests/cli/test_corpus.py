"""The commands write the reference outputs of tests/bulk/corpus, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from uid2_async.operator import LocalOperator, OperatorData

CORPUS = Path(__file__).parent.parent / "bulk" / "corpus"
CASES = json.loads((CORPUS / "cases.json").read_text())
# The day on which the reference was written.
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


def salts_of(day: datetime) -> OperatorData:
    """Make an operator whose raw UIDs are those of *day*, and as old as they were."""
    data = OperatorData.sample(base=day)
    (*_, snapshot) = (
        one for one in data.salts.snapshots if one.effective <= day.timestamp() * 1000
    )
    passed = 86_400_000 * (datetime.now(UTC) - day).days
    rows = [
        attrs.evolve(
            row,
            last_updated=row.last_updated + passed,
            refresh_from=row.refresh_from + passed,
        )
        for row in snapshot.rows
    ]
    one = attrs.evolve(snapshot, effective=0, rows=rows)
    return attrs.evolve(data, salts=attrs.evolve(data.salts, snapshots=[one]))


@pytest.fixture(scope="module")
def env_then() -> Iterator[dict[str, str]]:
    """Name an operator with the salts of that day, as a user's environment does."""
    with LocalOperator.in_thread(salts_of(DAY)) as operator:
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
        files = [source, str(made)]

    found = uid2(case["command"], *options, *files, env=env_then)

    assert found.exit_code == case["exit"], found.output
    expected = CORPUS / name / case["target"]
    assert comparable(made, encoding) == comparable(expected, encoding)
