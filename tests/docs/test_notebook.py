"""The example notebook runs as a user's would, with one event loop for all cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pages import ROOT

NOTEBOOK = ROOT / "examples" / "mapping.ipynb"
# In a process of its own: what Jupyter warns of is not ours.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
source, target = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, timeout=60).execute()
nbformat.write(notebook, target)
"""


def read_cells(path: Path) -> list[Any]:
    """Read the cells with code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [one for one in cells if one["cell_type"] == "code"]


def test_its_outputs_are_not_kept() -> None:
    """A saved output is soon out of date, and may be personal data."""
    for cell in read_cells(NOTEBOOK):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_it_runs(tmp_path: Path) -> None:
    """Without an error or warning, up to a chart and a table of outcomes."""
    target = tmp_path / "executed.ipynb"
    done = subprocess.run(  # noqa: S603 - our own notebook
        [sys.executable, "-c", EXECUTE, NOTEBOOK, target],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    outputs = [one for cell in read_cells(target) for one in cell["outputs"]]
    text = json.dumps([{**one, "data": None} for one in outputs])
    assert "writing: 100%" in text
    assert "Warning" not in text
    shown = [one["data"] for one in outputs if "data" in one]
    assert any("image/png" in one for one in shown)
    assert any("OPTOUT" in "".join(one.get("text/plain", ())) for one in shown)
