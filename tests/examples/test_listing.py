"""examples/README.md says what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_listed() -> None:
    """Each file and folder is named, and nothing that is not there."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)]+)\)", page))
    scripts = {one.name for one in EXAMPLES.glob("*.[pi][yp]*")} - {"make_customers.py"}

    assert all((EXAMPLES / one).exists() for one in linked)
    assert {one.partition("/")[0] for one in linked} == scripts | {"publisher_site"}
    assert "`make_customers.py`" in page


@pytest.mark.parametrize("name", ["aiohttp_site", "django_site", "flask_site"])
@pytest.mark.parametrize("page", ["FORM", "ARTICLE"])
def test_pages_are_for_phones_and_the_dark(
    load: Callable[[str], ModuleType], name: str, page: str
) -> None:
    """A browser shows them as wide as it is, in the colors that the visitor chose."""
    pytest.importorskip(name.partition("_")[0])
    html = getattr(load(name), page)

    assert '<meta name="viewport" content="width=device-width">' in html
    assert '<meta name="color-scheme" content="light dark">' in html
