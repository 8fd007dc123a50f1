"""An event loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _NoWait(selectors.SelectSelector):
    """A selector that never waits, but records how long it would have waited."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Add the time instead of waiting. A turn of the loop also takes some time."""
        ready = super().select(0)
        if not ready:
            self.waited += timeout or 1e-6
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        """Start at time zero."""
        self.virtual = _NoWait()
        super().__init__(self.virtual)

    def time(self) -> float:
        """Return the virtual time."""
        return self.virtual.waited


def run_virtual(main: Coroutine[Any, Any, Any]) -> Any:
    """Run *main* in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
