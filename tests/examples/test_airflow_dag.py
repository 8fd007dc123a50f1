"""The Airflow example: its shell line, and what its Python task makes of each code."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

import uid2_async

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "schedulers.md"


class AirflowError(Exception):
    """Airflow tries the task again."""


class AirflowFailError(Exception):
    """Airflow does not."""


class Recorded:
    """An object of Airflow that keeps what it was made of."""

    def __init__(self, *_: Any, **settings: Any) -> None:
        """Keep the settings."""
        self.settings = settings

    def __enter__(self) -> Self:
        """Be the DAG of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the block."""


@pytest.fixture
def dag(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """Import the example where Airflow is not installed."""
    parts = {
        "airflow": {},
        "airflow.sdk.exceptions": {
            "AirflowException": AirflowError,
            "AirflowFailException": AirflowFailError,
        },
        "airflow.providers": {},
        "airflow.providers.standard": {},
        "airflow.providers.standard.operators": {},
        "airflow.providers.standard.operators.bash": {"BashOperator": Recorded},
        "airflow.providers.standard.operators.python": {"PythonOperator": Recorded},
        "airflow.sdk": {"DAG": Recorded},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return load("airflow_dag")


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def install(folder: Path, script: str) -> None:
    """Install a command ``uid2``."""
    command = folder / "uid2"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o700)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130, 143])
def test_the_shell_line_keeps_the_codes(
    dag: ModuleType, bin_folder: Path, code: int
) -> None:
    """Code 3 is a success, and every other code stays what it is."""
    install(bin_folder, f"exit {code}")
    done = subprocess.run(["bash", "-c", dag.BASH_LINE], check=False, timeout=60)  # noqa: S603, S607 - as Airflow

    assert done.returncode == (0 if code == 3 else code)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0, None),
        (3, None),
        (1, AirflowError),
        (5, AirflowError),
        (130, AirflowError),
        (143, AirflowError),
        (2, AirflowFailError),
        (4, AirflowFailError),
    ],
)
def test_the_task_retries_what_a_retry_can_mend(
    dag: ModuleType, bin_folder: Path, code: int, error: type[Exception] | None
) -> None:
    """Wrong input and keys fail at once; what can be resumed is tried again."""
    report = {
        **dict.fromkeys(("rows", "mapped", "failed", "requests"), 1),
        "exit_code": code,
        "error": {"message": "It broke."} if error else None,
    }
    install(bin_folder, f"echo '{json.dumps(report)}'; exit {code}")
    if error is None:
        assert dag.map_customers(dag.COMMAND)["failed"] == 1
        return
    with pytest.raises(error, match="It broke"):
        dag.map_customers(dag.COMMAND)


def test_both_tasks_run(
    dag: ModuleType,
    bin_folder: Path,
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line and the task do the same, with the day that Airflow fills in."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(uid2_async.__file__).parents[1]))
    install(bin_folder, f'exec "{sys.executable}" -m uid2_async "$@"')
    (tmp_path / "customers.csv").write_text("id,mail\n1,jane@example.com\n")

    def filled_in(text: str, day: str) -> str:
        return text.replace("{{ ds }}", day).replace(dag.FOLDER, str(tmp_path))

    line = filled_in(dag.map_by_bash.settings["bash_command"], "2026-01-01")
    subprocess.run(["bash", "-c", line], check=True, timeout=60)  # noqa: S603, S607 - as Airflow
    command = dag.map_by_python.settings["op_kwargs"]["command"]
    done = dag.map_customers(filled_in(command, "2026-01-02"))

    assert (done["rows"], done["mapped"], done["requests"]) == (1, 1, 0)
    for name, count in (("mapped", 2), ("delta", 2)):
        with (tmp_path / f"{name}-2026-01-01.csv").open(newline="") as file:
            assert len(list(csv.reader(file))) == count


def test_the_guide_has_the_same_line(dag: ModuleType) -> None:
    """Whoever copies the line of the guide gets the codes that are tested here."""
    end = dag.BASH_LINE.removeprefix(dag.COMMAND)

    assert end in GUIDE.read_text(encoding="utf-8")
