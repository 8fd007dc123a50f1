"""examples/README.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_listed() -> None:
    """Each file and folder is named, and nothing that is not there."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)]+)\)", page))
    scripts = {one.name for one in EXAMPLES.glob("*.[pi][yp]*")} - {"make_customers.py"}

    assert all((EXAMPLES / one).exists() for one in linked)
    assert {one.partition("/")[0] for one in linked} == scripts | {"publisher_site"}
    assert "`make_customers.py`" in page
