"""The compose file: its command lines, run without any container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import uid2_async

yaml = pytest.importorskip("yaml")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def services() -> dict[str, Any]:
    """Read the services."""
    text = (EXAMPLES / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def line_of(service: dict[str, Any]) -> str:
    """Return what a service runs once it is installed; exec makes it process 1."""
    shell, option, line = service["command"]
    install, _, command = line.partition(" && ")
    assert (shell, option) == ("sh", "-c")
    assert install == "pip install -q 'uid2-async[cli]'"
    assert command.startswith("exec uid2 ")
    return str(command)


def test_the_lines_work_together(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox starts, is healthy, answers the application, and stops on SIGTERM."""
    shim = tmp_path / "uid2"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m uid2_async "$@"\n')
    shim.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(uid2_async.__file__).parents[1]))
    source = tmp_path / "customers.csv"
    source.write_text("INPUT,INPUT_TYPE\njane@example.com,email\n")
    line = line_of(services["sandbox"]).replace("8080", "0")
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, text=True) as box:  # noqa: S603, S607 - our own line
        try:
            assert box.stdout is not None
            exports: list[str] = []
            while len(exports) < 5:
                text = box.stdout.readline()
                assert text
                exports += [text] if text.startswith("export ") else []
            words = exports[-1].split()[1:]
            printed = dict(word.split("=", 1) for word in words)
            port = printed["UID2_BASE_URL"].rpartition(":")[2]
            check = services["sandbox"]["healthcheck"]["test"][-1].replace("8080", port)
            subprocess.run([sys.executable, "-c", check], check=True, timeout=60)  # noqa: S603 - as above
            env = dict(services["application"]["environment"])
            for name in ("API_KEY", "SECRET_KEY"):
                secret = tmp_path / name
                secret.write_text(printed[f"UID2_{name}"])
                assert env[f"UID2_{name}_FILE"] == f"/run/secrets/uid2_{name.lower()}"
                env[f"UID2_{name}_FILE"] = str(secret)
            env["UID2_BASE_URL"] = f"http://127.0.0.1:{port}"
            command = line_of(services["application"]).replace("/data", str(tmp_path))
            subprocess.run(  # noqa: S603 - as above
                ["sh", "-c", command],  # noqa: S607 - as above
                check=True,
                timeout=60,
                env={**os.environ, **env},
            )
        finally:
            box.terminate()
        assert box.wait(60) == 0
    assert printed["UID2_BASE_URL"].startswith("http://sandbox:")
    assert (tmp_path / "mapped.csv").read_text().count("\n") == 2
