"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
SITE: Final = sorted((ROOT / "docs").rglob("*.md"))
# Its code requires servers. tests/stores/test_page.py runs it.
STORES: Final = ROOT / "docs" / "guides" / "stores.md"
NOT_RUN: Final = "# Not run by the tests: "

# ``python`` blocks are run. ``{code-block} python`` begins with NOT_RUN and the
# reason.
_FENCE = re.compile(
    r"^( *)```(\{code-block\} )?(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL
)
IS_TEST: Final = re.compile(r"^ *(async )?def test_", re.MULTILINE)
# A later block of the page may import such a file.
_SAVED = re.compile(
    r"Save this as `((?!test_)\w+\.py)`[^`]*?\n\n```python\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@attrs.frozen
class Block:
    """A code block in a page.

    Attributes:
        where: The page and line.
        language: The language, such as ``python``.
        code: The code.
        marked: Whether the page states that the block is not run.
    """

    where: str
    language: str
    code: str
    marked: bool


def blocks(page: Path, language: str) -> Iterator[Block]:
    """Yield the blocks in *language* of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        if found[3] == language:
            line = text.count("\n", 0, found.start()) + 1
            where = f"{page.relative_to(ROOT)}:{line}"
            code = textwrap.dedent(found[4])
            yield Block(where, language, code, marked=bool(found[2]))


def saved_files(block: Block) -> dict[str, str]:
    """Return the files that a block's page has saved, by name, for its imports."""
    page, _, _ = block.where.partition(":")
    return dict(_SAVED.findall((ROOT / page).read_text(encoding="utf-8")))


def has_tests(block: Block) -> bool:
    """Return whether a block has tests for pytest."""
    return IS_TEST.search(block.code) is not None


def run(
    block: Block, folder: Path, options: tuple[str, ...], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a block as a program, or with pytest if it has tests. Warnings are errors.

    Args:
        block: The block to run.
        folder: The folder that it may write to.
        options: The options with which pytest loads our plugin.
        env: The environment variables.
    """
    for name, code in saved_files(block).items():
        (folder / name).write_text(code, encoding="utf-8")
    script = folder / "test_block.py"
    script.write_text(block.code, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    if has_tests(block):
        config = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder))
        command[3:3] = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [*config, *options]
    return subprocess.run(  # noqa: S603 - our own documentation
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT)},
    )
