"""What runs a row of the fault matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from canaries import find_canaries
from fault_bench import Expected, run_row


@pytest.fixture
def run_fault(caplog: pytest.LogCaptureFixture) -> Callable[[str, Expected], None]:
    """Give what runs a row with every logger at DEBUG, and looks into the log."""

    def run(row_id: str, expected: Expected) -> None:
        if expected.reason is not None:
            pytest.skip(expected.reason)
        caplog.set_level(logging.DEBUG)
        run_row(row_id, expected)
        shown = [record.getMessage() for record in caplog.records]
        assert not find_canaries("\n".join([*shown, caplog.text]))
        assert "never retrieved" not in caplog.text

    return run
