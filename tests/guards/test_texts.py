"""That every guard can be switched off; ``nox -s guards`` then looks who notices."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

GUARDS = runpy.run_path(str(Path(__file__).with_name("__main__.py")), run_name="guards")


@pytest.mark.parametrize("guard", GUARDS["GUARDS"], ids=lambda guard: guard.name)
def test_a_guard_can_be_switched_off(guard: Any) -> None:
    """Its text is in its file once, and what is left without it is Python."""
    source = (GUARDS["ROOT"] / "uid2_async" / guard.path).read_text(encoding="utf-8")

    assert GUARDS["without"](guard, source) != source
