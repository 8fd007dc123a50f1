"""An event loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _NoWait(selectors.SelectSelector):
    """A selector that never waits, but reports how long it would have."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Count the time instead of spending it; a turn of the loop takes some too."""
        ready = super().select(0)
        if not ready:
            self.waited += timeout or 1e-6
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        """Start at zero."""
        self.virtual = _NoWait()
        super().__init__(self.virtual)

    def time(self) -> float:
        """Tell the virtual time."""
        return self.virtual.waited


def run_virtual(main: Coroutine[Any, Any, Any]) -> Any:
    """Run *main* in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
