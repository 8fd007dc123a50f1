"""The environment of a row of the fault matrix, and the checks after each row."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import pytest
import tenacity

from canaries import API_KEY, CLIENT_SECRET, EMAIL, find_canaries, find_leaks
from fault_server import FaultServer, Seen
from uid2_async import RetryPolicy, SessionPool, UID2Client
from uid2_async.hooks import Event
from virtual_time import VirtualLoop

# The first failure would load it, and time counts.
assert tenacity

# Created once, because that takes longer than many rows.
CONTEXT = ssl.create_default_context()

E = TypeVar("E", bound=BaseException)
Row = Callable[["Bench"], Awaitable[None]]


@attrs.frozen
class Expected:
    """A row of the matrix: what to run, and the expected result.

    Attributes:
        run: The function of the row, or None if it is only marked.
        requests: The minimum and maximum number of requests to servers and transports.
            None if the row uses neither.
        within: The time limit in seconds of its loop.
        virtual: Whether it runs in virtual time.
        loop: The event loop, if the row has its own.
        reason: Why it is not run.
    """

    run: Row | None
    requests: tuple[int, int] | None = None
    within: float = 5.0
    virtual: bool = False
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    reason: str | None = None


class Bench:
    """Creates servers and clients for a row, and checks all of them after it."""

    def __init__(self, row_id: str) -> None:
        """Store the ID of the row, for rows that share a function."""
        self.id = row_id
        self.servers: list[FaultServer] = []
        self.wires: list[Any] = []
        self.clients: list[UID2Client] = []
        self.pools: list[SessionPool] = []
        self.errors: list[BaseException] = []
        self.events: list[Event] = []
        self.delays: list[float] = []

    # --- for rows ---------------------------------------------------------------------

    def server(self, *script: Any, **options: Any) -> FaultServer:
        """Create a server. The caller must enter it."""
        server = FaultServer(*script, **options)
        self.servers.append(server)
        return server

    def wire(self, wire: Any) -> Any:
        """Observe a transport that replaces sockets."""
        self.wires.append(wire)
        return wire

    def client(
        self,
        where: Any,
        *,
        retry: dict[str, Any] | None = None,
        pool: dict[str, Any] | None = None,
        **options: Any,
    ) -> UID2Client:
        """Create a client of a URL, a server or a transport, with shorter waits."""
        policy: dict[str, Any] = {"_sleep": self.sleep, "_random": lambda: 0.5}
        policy |= retry or {}
        url = getattr(where, "url", where)
        if isinstance(url, str):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The API key is sent unencrypted")
                options_of_pool = {"grace": 0.05, "ssl": CONTEXT} | (pool or {})
                url = SessionPool(url, allow_http=True, **options_of_pool)
            self.pools.append(url)
        client = UID2Client(
            "http://127.0.0.1",
            api_key=API_KEY,
            client_secret=CLIENT_SECRET,
            transport=url,
            retry=RetryPolicy(**policy),
            hooks=[self.events.append],
            **options,
        )
        self.clients.append(client)
        return client

    async def sleep(self, seconds: float) -> None:
        """Wait for a hundredth of the time, and record the full time."""
        self.delays.append(seconds)
        await asyncio.sleep(seconds / 100)

    async def fails(self, kind: type[E], call: Awaitable[Any]) -> E:
        """Expect an error of exactly this class, and keep it for the leak check."""
        try:
            await call
        except kind as error:
            caught = error
        else:
            raise AssertionError(f"{kind.__name__} was due")
        self.errors.append(caught)
        assert type(caught) is kind, caught
        return caught

    async def generate(self, client: UID2Client, **options: Any) -> Any:
        """Make the call that most rows use."""
        return await client.generate_token(EMAIL, **options)

    @property
    def requests(self) -> list[Seen]:
        """The requests that all servers have received."""
        return [one for server in self.servers for one in server.requests]

    def spent(self, client: UID2Client) -> int:
        """Return how much of a client's retry budget has been used."""
        budget = client._retry.budget
        assert budget is not None
        return budget.capacity - budget.level

    # --- after each row ---------------------------------------------------------------

    async def check(self, expected: Expected) -> None:
        """Check what must hold after every row."""
        self._check_requests(expected)
        self._check_envelopes()
        self._check_clients()
        for pool in self.pools:
            await pool.aclose()
        await self._check_closed()
        leaks = [leak for error in self.errors for leak in find_leaks(error)]
        assert leaks == []
        assert not find_canaries(repr(self.events))
        assert not find_canaries(repr(self.clients) + repr(self.pools))

    def _check_requests(self, expected: Expected) -> None:
        if expected.requests is None:
            return
        count = len(self.requests) + sum(wire.requests for wire in self.wires)
        least, most = expected.requests
        assert least <= count <= most, f"{count} requests"

    def _check_envelopes(self) -> None:
        """Check that no IV or nonce was used twice, and that no envelope was old."""
        seen = [one for one in self.requests if one.iv is not None]
        assert len({one.iv for one in seen}) == len(seen), "an IV was used twice"
        assert len({one.nonce for one in seen}) == len(seen), "a nonce was used twice"
        for wire in self.wires:
            assert len(set(wire.ivs)) == len(wire.ivs), "an IV was used twice"

    def _check_clients(self) -> None:
        """Check that no connection, waiter or socket is left; check the budget."""
        for client in self.clients:
            budget = client._retry.budget
            assert budget is None or 0 <= budget.level <= budget.capacity
            for semaphore in client._connection_limit._semaphores.values():
                assert semaphore._value == client._connection_limit._size
                assert not semaphore._waiters
        for pool in self.pools:
            assert pool._running.total() == 0
            for session in (pool._pooled, pool._fresh, *pool._retired):
                if session is not None and session.connector is not None:
                    assert not session.connector._acquired
                    assert not session.connector._waiters

    async def _check_closed(self) -> None:
        """Check that no connection outlives its pool."""
        for _ in range(100):
            if not any(server.open for server in self.servers):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("connections are left open")


def run_row(row_id: str, expected: Expected) -> None:
    """Run one row in its own loop, and capture everything that could show a canary."""
    assert expected.run is not None
    with warnings.catch_warnings():
        # Warnings about what a failed row has left behind do not belong to this row.
        warnings.simplefilter("ignore")
        gc.collect()
    kind = VirtualLoop if expected.virtual else expected.loop
    with asyncio.Runner(debug=True, loop_factory=kind) as runner:
        runner.run(_run(row_id, expected))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gc.collect()
    assert not [str(one.message) for one in caught]


async def _run(row_id: str, expected: Expected) -> None:
    assert expected.run is not None
    bench = Bench(row_id)
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 5.0
    started = loop.time()
    await expected.run(bench)
    took = loop.time() - started
    # Other tests may use the processor at the same time. Virtual time is exact.
    within = expected.within * (1 if expected.virtual else 3)
    assert took <= within, f"{took:.2f} s"
    await bench.check(expected)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    # Let tasks that are ending end.
    if left:
        _, pending = await asyncio.wait(left, timeout=1)
        assert not pending, pending


class Rows:
    """The rows of one part of the matrix."""

    def __init__(self) -> None:
        """Start without rows."""
        self._rows: dict[str, Expected] = {}

    def add(
        self, *ids: str, requests: int | tuple[int, int] | None = None, **options: Any
    ) -> Callable[[Row], Row]:
        """Register a function for one row, or for several similar rows."""
        both = (requests, requests) if isinstance(requests, int) else requests

        def take(run: Row) -> Row:
            for one in ids:
                assert one not in self._rows
                self._rows[one] = Expected(run=run, requests=both, **options)
            return run

        return take

    def mark(self, *ids: str, reason: str) -> None:
        """Register rows that are not run, with the reason."""
        for one in ids:
            self._rows[one] = Expected(run=None, reason=reason)

    def test(self) -> Callable[..., None]:
        """Return the parametrized test of all rows."""

        @pytest.mark.parametrize("row", self._rows)
        def test_fault(row: str, run_fault: Callable[[str, Expected], None]) -> None:
            """Each row of the matrix ends as stated, and leaves nothing behind."""
            run_fault(row, self._rows[row])

        return test_fault
