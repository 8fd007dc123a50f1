"""The pictures are what their script draws."""

from __future__ import annotations

import re
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
    """It has a title and a description, and a text wherever a page shows it."""
    root = ET.parse(SCRIPT["FOLDER"] / name).getroot()  # noqa: S314 - our own picture
    texts = [page.read_text(encoding="utf-8") for page in pages.SITE]
    shown = re.findall(rf"!\[(.*)\]\(pictures/{name}\)", "\n".join(texts))

    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    assert shown
    assert all(shown)


@pytest.mark.parametrize("name", SCRIPT["PICTURES"])
def test_the_picture_can_be_read_on_a_telephone(name: str) -> None:
    """It is 400 px wide at most, and no line of text leaves it."""
    root = ET.parse(SCRIPT["FOLDER"] / name).getroot()  # noqa: S314 - our own picture
    width = int(root.attrib["width"])

    assert width <= 400
    for text in root.iter(f"{SVG}text"):
        small = "small" in text.attrib["class"]
        length = len(text.text or "") * (6.2 if small else 7.2)
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        start = int(text.attrib["x"]) - share * length
        assert start >= 0, text.text
        assert start + length <= width, text.text
