"""The example of docs/observability.md runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import uid2_async

EXAMPLE = Path(__file__).parents[2] / "examples" / "observability.py"


def test_spans_and_metrics_come_out_on_the_console() -> None:
    """The job's tree, the retry, and every metric; nobody by name."""
    pytest.importorskip("opentelemetry.sdk")

    done = subprocess.run(  # noqa: S603 - our own example
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(uid2_async.__file__).parents[1])},
    )

    assert done.returncode == 0, done.stderr
    for told in (
        '"name": "morning job"',
        '"name": "uid2 v3/identity/map"',
        '"name": "POST /v3/identity/map"',
        '"http.request.resend_count": 1',
        '"error.type": "ServerError"',
        '"name": "uid2.client.operation.duration"',
        '"name": "uid2.client.identities"',
        '"name": "uid2.client.keys_age"',
    ):
        assert told in done.stdout
    assert "example.com" not in done.stdout + done.stderr
    assert "+12345678901" not in done.stdout + done.stderr
