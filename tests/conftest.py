"""What every test may ask for."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path
from typing import Any, Self
from unittest.mock import Mock

import aioresponses.core
import pytest
from aiohttp import ClientResponse
from hypothesis import settings

from connections import Connections
from consent import consent_in
from uid2_async import IdentityScope, UID2Client
from uid2_async.operator import LocalOperator, OperatorData

HERE = Path(__file__).parent

# A busy machine is no failure, and CI sees the same examples in each run.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=int(os.environ.get("UID2_EXAMPLES", "100")),
)
settings.load_profile("project")


# aioresponses 0.7.9 does not know an argument that aiohttp 3.14 asks for.
if "stream_writer" in signature(ClientResponse.__init__).parameters:
    aioresponses.core.ClientResponse = partial(ClientResponse, stream_writer=Mock())


def pytest_collection_finish() -> None:
    """Keep the collected tests out of later garbage collections.

    They are half a million objects, and a full collection then takes 0.25 s.
    """
    gc.collect()
    gc.freeze()


class RawServer:
    """A server that answers every request with the same raw bytes, and hangs up.

    Attributes:
        url: Where it listens.
        requests: The heads of the requests that it read.
    """

    def __init__(
        self,
        answer: bytes,
        *,
        context: ssl.SSLContext | None = None,
        keep: bool = False,
    ) -> None:
        """Prepare to send *answer*; with *keep* the connection stays open."""
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self._context = context
        self._keep = keep
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        """Start on a free port."""
        await self._connections.listen("127.0.0.1", 0, ssl=self._context)
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._connections.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._connections.aclose()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        again = True
        while again:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
            await reader.readexactly(length)
            self.requests.append(head)
            writer.write(self.answer)
            await writer.drain()
            again = self._keep


@pytest.fixture(scope="session", autouse=True)
def foreground_signals() -> Iterator[None]:
    """Handle signals as a program in the foreground does, and so do its children.

    A shell starts jobs in the background with SIGINT ignored, and ``nohup`` and some CI
    runners ignore more. Children inherit that, and wait forever for the signal that a
    test sends.
    """
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, to) for number, to in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """Give the fixed-input vectors of the pure functions."""
    text = (HERE / "vectors" / "protocol_vectors.json").read_text(encoding="utf-8")
    return json.loads(text)


@pytest.fixture(scope="session")
def plugin_options() -> tuple[str, ...]:
    """Give what makes pytest load our plugin where the package is not installed."""
    found = any(one.name == "uid2" for one in entry_points(group="pytest11"))
    return () if found else ("-p", "uid2_async.pytest_plugin")


@pytest.fixture
def raw_server() -> Callable[[bytes], AbstractAsyncContextManager[RawServer]]:
    """Make a server that gives every request the same answer, and hangs up."""
    return RawServer


@pytest.fixture(params=IdentityScope, ids=str)
def scope(request: pytest.FixtureRequest) -> IdentityScope:
    """Run whatever needs an operator in both systems."""
    return request.param


@pytest.fixture
def consent(scope: IdentityScope) -> str | None:
    """Give what generate_token wants to know in the EUID scope."""
    return consent_in(scope)


@pytest.fixture
async def operator(scope: IdentityScope) -> AsyncIterator[LocalOperator]:
    """Run an embedded operator with the built-in world of each system."""
    async with LocalOperator(OperatorData.sample(scope=scope)) as running:
        yield running


@pytest.fixture
async def client(operator: LocalOperator) -> AsyncIterator[UID2Client]:
    """Give a client whose key can do everything."""
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        clock=lambda: operator.now,
    ) as opened:
        yield opened
