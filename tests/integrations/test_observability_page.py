"""What docs/observability.md says is so."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from uid2_async.hooks import AttemptStarted
from uid2_async.testing import ScriptedTransport

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
TEXT = PAGE.read_text(encoding="utf-8")
OTEL, PROMETHEUS, LOGS = re.findall(
    r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
)


def load(block: str) -> dict[str, Any]:
    """Run a block; give its names."""
    names: dict[str, Any] = {"__name__": "block"}
    code = compile(block, PAGE.name, "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - our own documentation
    return names


async def test_the_log_hook_logs_the_fields(caplog: pytest.LogCaptureFixture) -> None:
    """One record for each call, with what the event holds."""
    caplog.set_level(logging.INFO, "app.uid2")
    hook = load(LOGS)["log_calls"]
    hook(AttemptStarted(endpoint="/x", attempt=1, trace_id="t"))
    client = ScriptedTransport(503, {"status": "optout"}).client(hooks=[hook])

    await client.generate_token("canary@example.com")

    (record,) = [one for one in caplog.records if one.name == "app.uid2"]
    assert record.__dict__["endpoint"] == "/v2/token/generate"
    assert record.__dict__["attempts"] == 2
    assert "canary" not in str(record.__dict__)


def test_the_hook_of_the_page_can_be_made() -> None:
    """With the global providers."""
    pytest.importorskip("opentelemetry")

    assert "hook" in load(OTEL)


def test_the_alarms_are_about_metrics_of_the_table() -> None:
    """By the names that Prometheus shows."""
    table = set(re.findall(r"\| `(uid2_client_\w+)` \|", TEXT))
    used = set(re.findall(r"uid2_client_\w+", TEXT.split("```yaml")[1]))

    assert len(table) == 8
    assert {name.removesuffix("_count") for name in used} <= table
    assert "MeterProvider([PrometheusMetricReader()])" in PROMETHEUS
