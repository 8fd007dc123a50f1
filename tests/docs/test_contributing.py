"""What contributing.md says of the project is so."""

from __future__ import annotations

import ast
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


def test_every_guard_has_its_tests() -> None:
    """The table of guards names tests, and rows of the fault matrix, that exist."""
    table = PAGE.split("\n## Guards\n")[1]
    cells = re.findall(r"^\| (?!guard|---).* \| (.*) \|$", table, re.MULTILINE)
    there: set[str] = set()
    for file in (pages.ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                there.add(node.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "rows.add":
                there |= {str(ast.literal_eval(one)) for one in node.args}

    assert len(cells) > 35
    for cell in cells:
        assert re.findall(r"`(\w+)`", cell)
        assert set(re.findall(r"`(\w+)`", cell)) <= there


def test_every_place_of_a_rule_exists() -> None:
    """The table of rules names files, folders and sessions that exist."""
    table = PAGE.split("\n## Where each rule is defined\n")[1].split("\n## ")[0]
    places = re.findall(r"`([\w./]+)`", table)

    assert len(places) > 15
    for place in places:
        assert (pages.ROOT / place).exists(), place


def test_every_file_that_is_tested_once_is_listed() -> None:
    """The table names the files with such tests, and no other."""
    table = PAGE.split("| marked `once` |")[1].split("\n\n")[0]
    marked = {
        path.relative_to(pages.ROOT).as_posix()
        for path in (pages.ROOT / "tests").rglob("test_*.py")
        if re.search(
            r"^(@|pytestmark = )pytest\.mark\.once$",
            path.read_text("utf-8"),
            re.MULTILINE,
        )
    }

    assert set(re.findall(r"`(tests/\S+)`", table)) == marked
