"""Whatever aiohttp, a connector or a resolver raises comes out as an error of ours."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver

from canaries import API_KEY, CLIENT_SECRET, EMAIL, find_leaks
from uid2_async import RetryPolicy, SessionPool, UID2Client, errors


def subclasses(root: type[BaseException]) -> Iterator[type[BaseException]]:
    """Give a class and all that is made from it."""
    yield root
    for one in root.__subclasses__():
        yield from subclasses(one)


class OddError(Exception):
    """Fails in whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        """Fail."""
        raise RuntimeError(API_KEY)

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError(API_KEY)


def connection_key() -> Any:
    """Make what the errors of aiohttp's connectors are about."""
    return inspect.getmodule(aiohttp.ClientRequest).ConnectionKey(  # type: ignore[union-attr] # it has a module
        host="x",
        port=1,
        is_ssl=True,
        ssl=True,
        proxy=None,
        proxy_auth=None,
        proxy_headers_hash=None,
    )


def bare(kind: type[BaseException]) -> BaseException:
    """Make an exception of any class, whatever its constructor wants."""
    error = kind.__new__(kind, API_KEY)
    error.args = (API_KEY,)
    return error


AIOHTTP = sorted(set(subclasses(aiohttp.ClientError)), key=lambda kind: kind.__name__)
# Those of the standard library: other tests import libraries that have more.
SYSTEM = sorted(
    {
        kind
        for kind in subclasses(OSError)
        if kind.__module__.partition(".")[0] in {*sys.stdlib_module_names, "aiohttp"}
    },
    key=lambda kind: kind.__name__,
)
MADE: list[BaseException] = [
    *map(bare, AIOHTTP),
    *map(bare, SYSTEM),
    aiohttp.ClientConnectorError(connection_key(), OSError(API_KEY)),
    aiohttp.ClientConnectorDNSError(connection_key(), OSError(API_KEY)),
    aiohttp.ClientConnectorSSLError(connection_key(), ssl.SSLError(API_KEY)),
    aiohttp.ClientConnectorCertificateError(
        connection_key(), ssl.SSLCertVerificationError(API_KEY)
    ),
    socket.gaierror(socket.EAI_NONAME, API_KEY),
    ssl.SSLZeroReturnError(API_KEY),
    asyncio.IncompleteReadError(API_KEY.encode(), 9),
    asyncio.LimitOverrunError(API_KEY, 9),
    asyncio.InvalidStateError(API_KEY),
    asyncio.QueueFull(API_KEY),
    BrokenPipeError(API_KEY),
    RuntimeError(API_KEY),
    AssertionError(API_KEY),
    NotImplementedError(API_KEY),
    KeyError(API_KEY),
    UnicodeEncodeError("ascii", API_KEY, 0, 1, API_KEY),
    MemoryError(API_KEY),
    RecursionError(API_KEY),
    ExceptionGroup(API_KEY, [ValueError(API_KEY)]),
    OddError(API_KEY),
    errors.ServerError("ours", status=503),
    errors.ConnectError("ours"),
]


class Session:
    """A session that raises, as deep below the call as aiohttp would."""

    closed = False
    connector = None

    def __init__(self, error: BaseException) -> None:
        """Raise *error* at each request."""
        self.error = error

    def post(self, url: str, *, headers: Any, **_options: Any) -> Any:
        """Hold the API key in a frame, and raise."""
        authorization = dict(headers)
        assert API_KEY in repr(authorization)
        raise self.error


class Resolver(AbstractResolver):
    """A resolver that raises, or knows no address."""

    def __init__(self, error: BaseException | None) -> None:
        """Raise *error*, or give an empty answer."""
        self.error = error

    async def resolve(self, *_: Any, **__: Any) -> list[Any]:
        """Find nothing."""
        if self.error is not None:
            raise self.error
        return []

    async def close(self) -> None:
        """Hold nothing."""


class Connector(aiohttp.TCPConnector):
    """A connector that raises."""

    def __init__(self, error: BaseException) -> None:
        """Raise *error* at each connection."""
        super().__init__()
        self.error = error

    async def connect(self, *_: Any, **__: Any) -> Any:
        """Make no connection."""
        raise self.error


async def no_wait(_seconds: float) -> None:
    """Retry at once."""


async def fail(session: Any) -> list[errors.UID2Error]:
    """Call twice over a session that fails; return the errors, which hold nothing."""
    client = UID2Client(
        "http://localhost:1",
        api_key=API_KEY,
        client_secret=CLIENT_SECRET,
        transport=SessionPool("http://localhost:1", session=session),
        retry=RetryPolicy(_sleep=no_wait),
    )
    found = []
    for _ in range(2):
        with pytest.raises(errors.UID2Error) as caught:
            await client.generate_token(EMAIL)
        found.append(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert find_leaks(caught.value) == []
    assert found[0] is not found[1]
    return found


def session_with(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """Make a session over a connector."""
    return aiohttp.ClientSession(connector=connector)


def resolving(error: BaseException | None) -> aiohttp.TCPConnector:
    """Make a connector whose names resolve as told."""
    return aiohttp.TCPConnector(resolver=Resolver(error))


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", [Session, Connector, resolving])
async def test_every_exception_is_mapped_and_detached(
    error: BaseException, place: Callable[[BaseException], Any]
) -> None:
    """No class is left out, no text is shown, and nothing of it can be reached."""
    made = place(error)
    if isinstance(made, Session):
        found = await fail(made)
        ours = isinstance(error, errors.UID2Error)
        assert ours or type(error).__name__ in found[0].message
        assert error not in found
    else:
        async with session_with(made) as session:
            await fail(session)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt])
async def test_what_ends_a_task_or_a_program_goes_through(kind: type) -> None:
    """They are not errors of a call."""
    with pytest.raises(kind):
        await fail(Session(kind()))


async def test_an_empty_answer_of_the_resolver_is_an_error_of_ours() -> None:
    """An AssertionError is what aiohttp makes of it, nothing to be shown."""
    async with session_with(resolving(None)) as session:
        await fail(session)


async def test_a_closed_session_is_named() -> None:
    """It is not the network, and no attempt can mend it."""
    session = aiohttp.ClientSession()
    await session.close()
    for error in await fail(session):
        assert type(error) is errors.ClientClosedError
        assert "session" in error.message
        assert error.attempts == 1


def test_the_classes_of_the_installed_aiohttp_are_all_there() -> None:
    """The table above is made from them, not written down."""
    assert len(AIOHTTP) > 25
    assert aiohttp.ClientConnectorDNSError in AIOHTTP
