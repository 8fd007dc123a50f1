"""What every test may ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """Give the fixed-input vectors of the pure functions."""
    text = (HERE / "vectors" / "protocol_vectors.json").read_text(encoding="utf-8")
    return json.loads(text)
