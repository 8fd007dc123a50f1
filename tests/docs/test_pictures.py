"""The pictures are what their script draws."""

from __future__ import annotations

import runpy
from xml.etree import ElementTree as ET

import pytest

import pages

SCRIPT = runpy.run_path(str(pages.ROOT / "docs" / "make_pictures.py"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", SCRIPT["PICTURES"])
def test_the_picture_is_up_to_date(name: str) -> None:
    """``python docs/make_pictures.py`` would change nothing."""
    drawn = SCRIPT["PICTURES"][name]().svg()

    assert (SCRIPT["FOLDER"] / name).read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("name", SCRIPT["PICTURES"])
def test_the_picture_can_be_read_out(name: str) -> None:
    """It has a title and a description, and the page says in words what it shows."""
    root = ET.parse(SCRIPT["FOLDER"] / name).getroot()  # noqa: S314 - our own picture
    page = (pages.ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")

    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    assert f"](pictures/{name})" in page
    assert f"![](pictures/{name})" not in page
