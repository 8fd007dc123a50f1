"""For tests of applications: an operator in a thread, scripted replies, and a clock.

The fixtures of :mod:`uid2_async.pytest_plugin` use these classes. Without pytest, use
them directly (docs/testing.md).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeAlias

from uid2_async._portal import Portal
from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.clock import Clock, system_clock
from uid2_async.errors import InputError, UID2Error
from uid2_async.models import IdentityScope, ms_from_datetime
from uid2_async.operator import LocalOperator, OperatorData
from uid2_async.operator.envelope import (
    DecryptedRequest,
    RequestEnvelopeError,
    decrypt_request,
    encrypt_reply,
)
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import IV_BYTES
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Reply, Request, SessionPool, refuse_second_loop

__all__ = [
    "ManualClock",
    "OperatorThread",
    "ScriptedTransport",
    "Step",
    "retry_at_once",
]

_KEY: Final = bytes(range(32))
_BINARY: Final = "application/octet-stream"


def retry_at_once(**options: Any) -> RetryPolicy:
    """Return a retry policy that does not wait between attempts.

    Args:
        options: Keyword arguments of :class:`~uid2_async.RetryPolicy`.
    """
    return RetryPolicy(_sleep=_no_wait, **options)


async def _no_wait(seconds: float) -> None:
    """Return immediately."""


class ManualClock:
    """A clock that stands still until a test moves it.

    Pass the same one as ``clock=`` to clients, key stores, token refreshers and
    operators. Key stores and token refreshers measure durations with its
    :meth:`monotonic`. It can be read from any thread.
    """

    def __init__(self, start: datetime | None = None) -> None:
        """Start at *start*, an aware datetime. Defaults to the current time.

        Raises:
            InputError: If *start* has no time zone.
        """
        now = system_clock() if start is None else start
        ms_from_datetime(now)
        self._now = now
        self._passed = 0.0

    def __call__(self) -> datetime:
        """Return the time."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which this clock has moved forward."""
        return self._passed

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*.

        A negative number sets the time back, as a wall clock can be set, and does not
        change :meth:`monotonic`.
        """
        self.set(self._now + timedelta(seconds=seconds))
        self._passed += max(0.0, seconds)

    def set(self, now: datetime) -> None:
        """Set the time to *now*, an aware datetime, as a wall clock can be set.

        This does not change :meth:`monotonic`.

        Raises:
            InputError: If *now* has no time zone.
        """
        ms_from_datetime(now)
        self._now = now

    def __repr__(self) -> str:
        """Return the time."""
        return f"<ManualClock {self._now.isoformat()}>"


Step: TypeAlias = (
    Mapping[str, Any] | int | Reply | UID2Error | Callable[[Request], Reply]
)
"""The reply to one request, or how to make it."""


class ScriptedTransport:
    """A transport that returns scripted replies without I/O, one for each request.

    A step is the JSON of a reply, which is encrypted as by an operator; an HTTP status
    without a body; a ``Reply``; an error to raise; or a function of the request. After
    the last step, a request fails with an AssertionError. For longer tests, an embedded
    operator is easier to use.

    Attributes:
        requests: The requests of all attempts.
        questions: The JSON in their envelopes. None for a request without an envelope.
    """

    max_connections: int = 100

    def __init__(self, *steps: Step) -> None:
        """Reply with *steps*, in order."""
        self.requests: list[Request] = []
        self.questions: list[Any] = []
        self._steps = list(steps)

    def client(self, **options: Any) -> UID2Client:
        """Return a client that uses this transport and retries immediately.

        Args:
            options: Keyword arguments of :class:`~uid2_async.UID2Client`.
        """
        settings: dict[str, Any] = {
            "api_key": "scripted",
            "client_secret": base64.encode_text(_KEY),
            "retry": retry_at_once(),
        }
        url = "https://operator.example"
        return UID2Client(url, transport=self, **(settings | options))

    async def send(self, request: Request) -> Reply:
        """Return the next step of the script."""
        decrypted = _decrypt(request)
        self.requests.append(request)
        self.questions.append(
            wire.decode(decrypted.payload, object)
            if decrypted and decrypted.payload
            else None
        )
        if not self._steps:
            raise AssertionError(
                f"The script has ended, but {request.path} was called."
            )
        step = self._steps.pop(0)
        if isinstance(step, UID2Error):
            raise step
        if isinstance(step, Reply):
            return step
        if isinstance(step, int):
            return Reply(status=step, headers={}, body=b"")
        if not isinstance(step, Mapping):
            return step(request)
        if decrypted is None:
            raise AssertionError(
                f"A request to {request.path} has no envelope, so the reply cannot be "
                "JSON. Use a Reply as the step, or LocalOperator."
            )
        encrypted = encrypt_reply(
            wire.encode(step),
            key=_KEY,
            now_ms=decrypted.sent_ms,
            nonce=decrypted.nonce,
            iv=os.urandom(IV_BYTES),
        )
        body = encrypted if _is_binary(request) else base64.encode(encrypted)
        return Reply(status=200, headers={}, body=body)

    async def aclose(self) -> None:
        """Do nothing, because there are no connections."""

    def __repr__(self) -> str:
        """Return the number of requests and of remaining steps."""
        return f"<ScriptedTransport {len(self.requests)} sent, {len(self._steps)} left>"


def _decrypt(request: Request) -> DecryptedRequest | None:
    """Decrypt a request, or return None if it has no envelope."""
    body = request.body if _is_binary(request) else base64.decode(request.body)
    try:
        return decrypt_request(body or b"", _KEY)
    except RequestEnvelopeError:
        return None


def _is_binary(request: Request) -> bool:
    """Return whether both bodies are raw bytes instead of base64 text."""
    return request.headers.get("Content-Type") == _BINARY


class OperatorThread:
    """Embedded operators in a thread with its own event loop.

    The connections of its clients belong to the same thread, so that they can be closed
    after the event loop of a test has ended. A client still raises if it is used in a
    second event loop while the first one is open. Everything is stopped on exit.

    Attributes:
        clock: The clock of the operators. It can be replaced while they run.

    Example:
        >>> with OperatorThread() as thread:
        ...     operator = thread.operator()
        ...     with thread.client(operator) as client:
        ...         asyncio.run(client.generate_token("user@example.com"))
    """

    def __init__(self, *, clock: Clock = system_clock) -> None:
        """Create the thread object. *clock* is the clock of the operators."""
        self.clock: Clock = clock
        self._operators: dict[IdentityScope, LocalOperator] = {}
        self._portal = Portal("uid2-testing")

    def __enter__(self) -> Self:
        """Return the thread object. The first operator starts the thread."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the operators and the thread."""
        self._portal.close()

    def _now(self) -> datetime:
        return self.clock()

    def operator(self, scope: IdentityScope = IdentityScope.UID2) -> LocalOperator:
        """Return the operator of *scope* with the built-in data.

        The first call starts it. Later calls return the same one in its current state.
        Call ``operator.reset()`` to restore the initial state.
        """
        if scope not in self._operators:
            data = OperatorData.sample(scope=scope, base=self.clock())
            operator = LocalOperator(data, clock=self._now)
            self._operators[scope] = self._portal.open(operator)
        return self._operators[scope]

    @contextmanager
    def client(
        self, operator: LocalOperator, *, role: str = "everything"
    ) -> Iterator[UID2Client]:
        """Return a client that uses the operator's clock and retries immediately.

        Its connections are closed on exit.

        Args:
            operator: A running operator, in this thread or elsewhere.
            role: The role whose credentials it uses, such as ``publisher``.

        Raises:
            InputError: If the operator has no credentials of that name.
        """
        credentials = operator.credentials.get(role)
        if credentials is None:
            raise InputError(
                f"The operator has no credentials of {role!r}.",
                hint=f"Choose one of {', '.join(operator.credentials)}.",
            )
        pool = SessionPool(operator.url)
        try:
            yield UID2Client(
                operator.url,
                api_key=credentials.api_key,
                client_secret=credentials.client_secret,
                scope=operator.data.scope,
                transport=_Relay(pool, self._portal),
                retry=retry_at_once(),
                clock=lambda: operator.now,
            )
        finally:
            self._portal.run(pool.aclose)

    def __repr__(self) -> str:
        """Return the operators."""
        return f"<OperatorThread {list(self._operators.values())}>"


class _Relay:
    """Sends requests through a pool that belongs to another event loop.

    It raises for a second event loop as the pool itself does.
    """

    def __init__(self, pool: SessionPool, portal: Portal) -> None:
        self.max_connections = pool.max_connections
        self._pool = pool
        self._portal = portal
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, request: Request) -> Reply:
        """Send a request through the pool. A cancellation cancels the request."""
        refuse_second_loop(self._loop)
        self._loop = asyncio.get_running_loop()
        return await asyncio.wrap_future(self._portal.submit(self._pool.send, request))

    async def aclose(self) -> None:
        """Do nothing, because the owner closes the pool."""


strip_tracebacks(globals())
