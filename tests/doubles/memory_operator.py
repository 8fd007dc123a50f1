"""An operator without sockets, for rows that run in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sealed_answers import iv_of, now_ms, open_body, seal
from uid2_async.transport import Reply, Request


class MemoryOperator:
    """A transport that replies at once, or as configured.

    Attributes:
        requests: The number of requests.
        sent: The requests.
        ivs: The IVs of their envelopes.
        times: The times in their envelopes, in ms since the Unix epoch.
        clock: Returns the operator's time, in ms since the Unix epoch.
    """

    max_connections = 100

    def __init__(self, fate: Callable[[str], Any] | None = None) -> None:
        """Call *fate* with each path: an error, a Reply, seconds to wait, or None."""
        self._fate = fate or (lambda path: None)
        self.sent: list[Request] = []
        self.ivs: list[bytes] = []
        self.times: list[int] = []
        self.renewed = 0
        self.clock = now_ms

    @property
    def requests(self) -> int:
        """The number of requests."""
        return len(self.sent)

    async def send(self, request: Request) -> Reply:
        """Answer one request."""
        self.sent.append(request)
        opened = open_body(request.path, request.body)
        if opened is not None:
            self.ivs.append(iv_of(request.body))
            self.times.append(opened.sent_ms)
        fate = self._fate(request.path)
        await asyncio.sleep(0.05)
        if isinstance(fate, Exception):
            raise fate
        if isinstance(fate, Reply):
            return fate
        if fate is not None:
            await asyncio.sleep(fate)
        off_ms = self.clock() - now_ms()
        body = seal(request.path, request.body, off_ms=off_ms)
        return Reply(status=200, headers={}, body=body)

    async def renew(self) -> None:
        """Count the call."""
        self.renewed += 1

    async def aclose(self) -> None:
        """Do nothing."""


def refusal(status: int, **headers: str) -> Reply:
    """Return a reply with an error status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=b"")
