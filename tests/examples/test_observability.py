"""The example of docs/observability.md runs as it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_spans_and_metrics_come_out_on_the_console(run: Callable[..., Any]) -> None:
    """The job's tree, the retry, and every metric; nobody by name."""
    pytest.importorskip("opentelemetry.sdk")

    done = run("observability.py")

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
