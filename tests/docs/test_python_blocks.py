"""What the pages show in Python runs as it stands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

import pages

# tests/test_readme.py runs those of the README, on every Python.
PAGES = [page for page in pages.SITE if page != pages.STORES]
BLOCKS = [block for page in PAGES for block in pages.blocks(page, "python")]
MARKED = [block for block in BLOCKS if block.marked]
RUN = [block for block in BLOCKS if not block.marked]
# How many blocks of a page cannot be run here; each says why in its first line.
NOT_RUN = {
    "docs/index.md": 2,
    "docs/guides/dataframes.md": 1,
    "docs/guides/from-official-sdk.md": 1,
    "docs/guides/processes.md": 2,
    "docs/spark.md": 3,
    "docs/web.md": 1,
}


@pytest.mark.parametrize("block", RUN, ids=[block.where for block in RUN])
def test_every_block_runs(
    block: pages.Block,
    tmp_path: Path,
    plugin_options: tuple[str, ...],
    environment: Mapping[str, str],
) -> None:
    """Each block is a program, or a file of tests."""
    done = pages.run(block, tmp_path, plugin_options, environment)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", pages.SITE, ids=lambda page: page.name)
def test_no_block_is_overlooked(page: Path) -> None:
    """However it is indented, fenced and named, code is in a form that is looked at."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(
        r"^[ >]*(?:```+|~~~+|:::+) *(?:\{.*\} *)?(?:py|sh\b|bash|shell|zsh|console).*",
        text,
        re.MULTILINE,
    )
    found = [list(pages.blocks(page, one)) for one in ("python", "sh", "console")]

    assert len(fences) == sum(map(len, found))


def test_what_is_not_run_says_why() -> None:
    """And there is not more of it than listed."""
    for block in MARKED:
        assert block.code.startswith(pages.NOT_RUN), block.where
    assert Counter(block.where.split(":")[0] for block in MARKED) == NOT_RUN
