"""What the README and the pages beside it say runs as it stands."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from uid2_async import UID2Client

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Pages whose blocks are programs, too.
PAGES = (
    "bulk.md",
    "sandbox.md",
    "security.md",
    *sorted(f"guides/{page.name}" for page in (ROOT / "docs/guides").glob("*.md")),
)
PROGRAMS = [
    *BLOCKS,
    *(
        block
        for page in PAGES
        for block in re.findall(
            r"^```python\n(.*?)^```$",
            (ROOT / "docs" / page).read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    ),
]


@pytest.mark.parametrize("block", PROGRAMS, ids=range(len(PROGRAMS)))
def test_every_python_block_runs(
    block: str, tmp_path: Path, plugin_options: tuple[str, ...]
) -> None:
    """Each block is a program, or a test that is run as one, or by pytest."""
    script = tmp_path / "block.py"
    tests = re.findall(r"^async def (test_\w+)", block, re.MULTILINE)
    calls = "".join(f"\nimport asyncio\nasyncio.run({name}())\n" for name in tests)
    command = [sys.executable, "-W", "error", str(script)]
    if "import pytest" in block:
        calls = ""
        command[3:3] = ["-m", "pytest", "-c", "pyproject.toml", *plugin_options]
    script.write_text(block + calls, encoding="utf-8")

    done = subprocess.run(  # noqa: S603 - our own README
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr


def test_the_first_example_is_short() -> None:
    """A newcomer sees at most 20 lines of code."""
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]

    assert len(lines) <= 20


def test_ci_runs_the_command_of_the_readme() -> None:
    """What CI calls is what the README promises, to the letter."""
    command = "python -m pip install -q nox && python -m nox -s tests"

    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_named_method_exists() -> None:
    """The table of calls names methods of the client."""
    table = README.split("## What it calls")[1].split("### Settings")[0]
    names = re.findall(r"`(\w+)`", table.split("| --- | --- |")[1])

    assert len(names) > 8
    for name in set(names) - {"KeyRing"}:
        assert inspect.iscoroutinefunction(getattr(UID2Client, name)), name
