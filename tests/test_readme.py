"""What the README says runs as it stands; tests/docs has the pages beside it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

import pages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = list(pages.blocks(pages.README, "python"))


@pytest.mark.parametrize("block", BLOCKS, ids=[block.where for block in BLOCKS])
def test_every_python_block_runs(
    block: pages.Block, tmp_path: Path, plugin_options: tuple[str, ...]
) -> None:
    """Each block is a program, or a file of tests."""
    done = pages.run(block, tmp_path, plugin_options, os.environ)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_example_is_short() -> None:
    """A newcomer sees at most 20 lines of code."""
    lines = [line for line in BLOCKS[0].code.splitlines() if line.strip()]

    assert len(lines) <= 20


def test_ci_runs_the_command_of_the_readme() -> None:
    """What CI calls is what the README promises, to the letter."""
    command = "python -m pip install -q nox && python -m nox -s tests"

    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_an_index_can_show_it() -> None:
    """The build keeps no relative link or picture, which an index could not follow."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = pyproject["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = README
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)

    assert hook["fragments"] == [{"path": "README.md"}]
    assert "](docs/" in README
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == []
    assert "`docs/web.md`" in text
