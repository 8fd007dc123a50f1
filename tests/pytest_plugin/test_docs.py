"""The tests that README and documentation show pass in projects of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pages

pytest_plugins = ["pytester"]

BLOCKS = [
    block
    for page in (pages.README, *pages.SITE)
    for block in pages.blocks(page, "python")
    if pages.has_tests(block)
]
# What is said beside a coroutine, by the projects in which it runs.
ALONE, STRICT, AUTO, ANYIO = "alone", "strict", "auto", "anyio"
PROJECTS = {
    ALONE: ("-p", "no:asyncio", "-p", "no:anyio"),
    STRICT: ("-p", "no:anyio", "--asyncio-mode=strict"),
    AUTO: ("-p", "no:anyio", "--asyncio-mode=auto"),
    ANYIO: ("-p", "no:asyncio"),
}


def projects_of(block: pages.Block) -> set[str]:
    """Return where a block runs: everywhere, unless it shows what it needs."""
    if "@pytest.mark.asyncio" in block.code:
        return {STRICT, AUTO}
    if "@pytest.mark.anyio" in block.code:
        return {ANYIO}
    if "\nasync def test_" in block.code:
        return {AUTO}
    return set(PROJECTS)


@pytest.mark.parametrize("project", PROJECTS)
def test_every_printed_test_passes(
    run: Callable[..., pytest.RunResult], pytester: pytest.Pytester, project: str
) -> None:
    """With pytest alone, and with each plugin that runs coroutines."""
    pytest.importorskip("anyio")
    pytest.importorskip("fastapi.testclient", exc_type=ImportError)
    for needed in ("django", "flask"):
        pytest.importorskip(needed)
    chosen = [block for block in BLOCKS if project in projects_of(block)]
    for number, block in enumerate(chosen):
        pytester.makepyfile(**{f"test_block_{number}": block.code})
    printed = sum(len(pages.IS_TEST.findall(block.code)) for block in chosen)

    found = run("", *PROJECTS[project]).parseoutcomes()

    assert found == {"passed": printed}


def test_only_the_section_on_async_tests_needs_a_plugin() -> None:
    """Three blocks, one for each plugin and mode; all others need pytest alone."""
    needing = [block for block in BLOCKS if projects_of(block) != set(PROJECTS)]

    assert [sorted(projects_of(block)) for block in needing] == [
        [AUTO, STRICT],
        [AUTO],
        [ANYIO],
    ]
    assert len(BLOCKS) - len(needing) == 8


def test_the_page_names_every_fixture() -> None:
    """And says of each what it is."""
    page = (pages.ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    for name in ("uid2_operator", "uid2_client", "uid2_clock", "uid2_env"):
        assert f"| `{name}` |" in page
