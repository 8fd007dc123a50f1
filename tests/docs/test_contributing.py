"""What contributing.md says of the project is so."""

from __future__ import annotations

import re
import tomllib

import pages

PAGE = (pages.ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
TABLED = set(
    re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*? \|", PAGE, re.MULTILINE)))
)


def test_every_session_is_listed() -> None:
    """By the names of noxfile.py."""
    noxfile = (pages.ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)\(", noxfile, re.MULTILINE)

    assert len(sessions) > 10
    assert set(sessions) <= TABLED


def test_every_layer_is_listed() -> None:
    """By the names of the contract that lint checks."""
    pyproject = tomllib.loads((pages.ROOT / "pyproject.toml").read_text("utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in pyproject["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )

    assert set(re.findall(r"\w+", " ".join(layers))) - {"_version"} <= TABLED
