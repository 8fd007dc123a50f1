"""The tests that docs/testing.md shows pass in a project of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_passes(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """All of them together: two tests, one, one, three, one, two."""
    pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    pytest.importorskip("flask")
    for number, block in enumerate(BLOCKS):
        pytester.makepyfile(**{f"test_block_{number}": block})

    run("", "--asyncio-mode=auto").assert_outcomes(passed=10)


def test_the_page_names_every_fixture() -> None:
    """And says of each what it is."""
    for name in ("uid2_operator", "uid2_client", "uid2_clock", "uid2_env"):
        assert f"| `{name}` |" in PAGE
