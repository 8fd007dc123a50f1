"""BlockingClient: the client for synchronous code and for many threads.

Each method runs the coroutine method of the same name in an event loop that all threads
of the process share, and blocks until it ends. Signatures, docstrings and errors are
those of the coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial, wraps
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
)

from uid2_async._portal import Portal
from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.client import UID2Client
from uid2_async.errors import ClientLoopError
from uid2_async.keystore import KeyStore
from uid2_async.protocol.keyring import KeyRing
from uid2_async.publisher.generate import try_generate
from uid2_async.publisher.refresher import TokenRefresher

if TYPE_CHECKING:
    from uid2_async.bulk.database import Query, Table
    from uid2_async.bulk.options import FileProgress, JobSummary, MapOptions
    from uid2_async.bulk.state import MappingState
    from uid2_async.models import IdentityScope

P = ParamSpec("P")
T = TypeVar("T")
O = TypeVar("O", UID2Client, TokenRefresher, KeyStore)  # noqa: E741 - what is opened


class _ObjectInLoop(Unpicklable, Generic[O]):
    """An async object in the event loop, whose coroutine methods can be called.

    The first call in each process creates a separate object.
    """

    def __init__(
        self, portal: Portal, make: Callable[[], Coroutine[Any, Any, O]]
    ) -> None:
        self._portal = portal
        self._make: Callable[[], Coroutine[Any, Any, O]] = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._object: O
        self._lock_loop: asyncio.AbstractEventLoop | None = None
        self._lock: asyncio.Lock

    def __enter__(self) -> Self:
        """Return the object. Nothing is started before the first call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the object. It is safe to call this twice."""
        if self._is_open():
            self._portal.run(self._object.aclose)

    def submit(
        self,
        method: Callable[Concatenate[O, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]:
        """Start a coroutine method, and return a future without waiting.

        To await the future in an event loop, use ``asyncio.wrap_future``. One client
        can therefore serve all threads and event loops of a process. Canceling the
        future cancels the coroutine.

        Example:
            >>> future = uid2.submit(UID2Client.generate_token, "user@example.com")
            >>> tokens = await asyncio.wrap_future(future)

        Args:
            method: A coroutine function whose first argument is the async object, such
                as ``UID2Client.generate_token``.
            args: Its other positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            ClientClosedError: If the client is closed.
        """
        return self._portal.submit(self._perform, method, *args, **kwargs)

    def _call(
        self,
        method: Callable[Concatenate[O, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call *method* of the object, and return its result."""
        if _is_in_loop():
            raise ClientLoopError(
                f"A {type(self).__name__} would block the running event loop.",
                hint=(
                    "Await the async class instead, or the future that submit() "
                    "returns."
                ),
            )
        return self._portal.run(self._perform, method, *args, **kwargs)

    async def _perform(
        self,
        method: Callable[Concatenate[O, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await method(await self._get(), *args, **kwargs)

    async def _get(self) -> O:
        """Return the object of the running loop, which closes it on exit."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self._open(loop)
        return self._object

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Create the object of *loop*, unless another call has created it."""
        if self._lock_loop is not loop:  # The lock of a parent process may be held.
            self._lock_loop, self._lock = loop, asyncio.Lock()
        async with self._lock:
            if self._loop is not loop:
                made: O = await self._make()
                self._object = await self._portal.enter(made)
                self._loop = loop

    def _is_open(self) -> bool:
        """Return whether this process has created its object."""
        return self._loop is not None and self._loop is self._portal.loop


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[[Callable[..., object]], Callable[Concatenate[Any, P], T]]:
    """Replace a function with the blocking form of a coroutine method."""

    def call(self: _ObjectInLoop[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(method, *args, **kwargs)

    # Unwrapped, because the result is wrapped by strip_tracebacks itself.
    blocking = wraps(unwrapped(method))(call)
    return lambda _: blocking


def _adds_self(
    original: Callable[P, Any],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Set the parameters of a method to its own first one and those of *original*."""
    return lambda function: _take_parameters(function, original, skipped=0)


def _replaces_first(
    original: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Set the parameters of a method to those of *original*, except the first one."""
    return lambda function: _take_parameters(function, original, skipped=1)


def _take_parameters(
    function: Callable[..., T], original: Callable[..., Any], *, skipped: int
) -> Callable[..., T]:
    """Copy the parameters of *original*, except the first *skipped* ones."""
    own = inspect.signature(function)
    first = next(iter(own.parameters.values()))
    others = list(inspect.signature(original).parameters.values())[skipped:]
    made = own.replace(parameters=[first, *others])
    function.__signature__ = made  # type: ignore[attr-defined] # PEP 362
    return function


class BlockingTokenRefresher(_ObjectInLoop[TokenRefresher]):
    """A :class:`~uid2_async.TokenRefresher` for synchronous code, thread-safe.

    Created by :meth:`~uid2_async.BlockingClient.token_refresher`.
    """

    @_blocking(TokenRefresher.ensure_fresh)
    def ensure_fresh(self) -> None: ...


class BlockingKeyStore(_ObjectInLoop[KeyStore]):
    """A :class:`~uid2_async.KeyStore` for synchronous code, thread-safe.

    Created by :meth:`~uid2_async.BlockingClient.bidstream_keys` and
    :meth:`~uid2_async.BlockingClient.sharing_keys`. The first use fetches the keys, and
    a background task refreshes them. Pass it as *keys* to a BidstreamClient or
    SharingClient.
    """

    @_blocking(KeyStore.ensure_fresh)
    def ensure_fresh(self) -> None: ...

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], Coroutine[Any, Any, KeyStore]],
        *,
        required: bool,
    ) -> None:
        """Create the store. Nothing is fetched yet."""
        super().__init__(portal, make)
        self._required = required

    def __enter__(self) -> Self:
        """Load the keys.

        Raises:
            UID2Error: The error of the fetch, if there are no usable keys but they are
                required.
        """
        store = self._store()
        if self._required and not store.ready:
            self.ensure_fresh(math.inf)
        return self

    @property
    def ring(self) -> KeyRing:
        """The last good ring. The first use in a process fetches it.

        Raises:
            KeysUnavailableError: If there is none.
        """
        return self._store().ring

    @property
    def ready(self) -> bool:
        """Whether there is a valid key and a refresh task. False before first use."""
        return self._is_open() and self._object.ready

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ring to a file. See :meth:`uid2_async.KeyStore.save`."""
        self._store().save(path)

    def _store(self) -> KeyStore:
        if not self._is_open():
            self._call(_do_nothing)
        return self._object


async def _do_nothing(_: object) -> None:
    """Open the object when called."""


class BlockingClient(_ObjectInLoop[UID2Client]):
    """A client of a UID2 or EUID operator for synchronous code, thread-safe.

    It has the arguments of :class:`UID2Client` and blocking methods. Share one client
    between all threads of a process. The first call starts an event loop in a daemon
    thread. After a fork, the child process starts its own. The connections are closed
    on exit from ``with``, by :meth:`close`, or when the program ends.

    A call ends after its *timeout*, and is canceled if the caller is interrupted
    (Ctrl-C). In a running event loop, calls raise a ClientLoopError. Use
    :class:`UID2Client` or :meth:`submit` there.

    Example:
        >>> with BlockingClient.from_env() as uid2:
        ...     tokens = uid2.generate_token("user@example.com")
    """

    @_adds_self(UID2Client)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Validate the settings like :class:`UID2Client`. Nothing is opened yet."""
        self._set_up(partial(UID2Client, *args, **kwargs))

    @classmethod
    @_adds_self(UID2Client.from_env)
    def from_env(cls, *args: Any, **kwargs: Any) -> BlockingClient:
        """Create a client from the environment. See :meth:`UID2Client.from_env`."""
        client = object.__new__(cls)
        client._set_up(partial(UID2Client.from_env, *args, **kwargs))
        return client

    def _set_up(self, make: Callable[[], UID2Client]) -> None:
        """Create the first client, so that invalid settings raise immediately."""
        self._settings = make()
        unused = [self._settings]

        async def make_client() -> UID2Client:
            return unused.pop() if unused else make()

        super().__init__(Portal("uid2-blocking"), make_client)
        self._owns_portal = True

    @_replaces_first(UID2Client.with_options)
    def with_options(self, **options: Any) -> BlockingClient:
        """Return a client with other options that shares this client's connections.

        See :meth:`UID2Client.with_options`.
        """
        other = object.__new__(type(self))
        other._settings = self._settings.with_options(**options)

        async def make() -> UID2Client:
            return (await self._get()).with_options(**options)

        _ObjectInLoop.__init__(other, self._portal, make)
        other._owns_portal = False
        return other

    def close(self) -> None:
        """Close the connections and stop the loop. It is safe to call this twice.

        Running and later calls raise a ClientClosedError. A client that
        :meth:`with_options` returned does not close the connections.
        """
        if self._owns_portal:
            self._portal.close()

    @property
    def scope(self) -> IdentityScope:
        """The system that the operator serves."""
        return self._settings.scope

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The operator's URLs, in order of preference."""
        return self._settings.base_urls

    @property
    def clock_skew(self) -> float:
        """The seconds that the operator's clock is ahead of this machine's."""
        return self._object.clock_skew if self._is_open() else 0.0

    def __repr__(self) -> str:
        """Return the scope and base URLs."""
        return f"<BlockingClient {self.scope} {', '.join(self.base_urls)}>"

    @_blocking(UID2Client.generate_token)
    def generate_token(self) -> None: ...

    @_blocking(UID2Client.refresh_token)
    def refresh_token(self) -> None: ...

    @_blocking(UID2Client.validate_token)
    def validate_token(self) -> None: ...

    @_blocking(UID2Client.map_identities)
    def map_identities(self) -> None: ...

    @_blocking(UID2Client.map_identities_v2)
    def map_identities_v2(self) -> None: ...

    @_blocking(UID2Client.identity_buckets)
    def identity_buckets(self) -> None: ...

    @_blocking(UID2Client.opt_out_status)
    def opt_out_status(self) -> None: ...

    @_blocking(UID2Client.fetch_sharing_keys)
    def fetch_sharing_keys(self) -> None: ...

    @_blocking(UID2Client.fetch_bidstream_keys)
    def fetch_bidstream_keys(self) -> None: ...

    @_blocking(UID2Client.opt_out)
    def opt_out(self) -> None: ...

    @_blocking(UID2Client.run_call)
    def run_call(self) -> None: ...

    @_blocking(try_generate)
    def try_generate(self) -> None: ...

    @_replaces_first(TokenRefresher)
    def token_refresher(self, **options: Any) -> BlockingTokenRefresher:
        """Return a :class:`TokenRefresher` with blocking methods, for all threads.

        Args:
            options: The arguments of :class:`TokenRefresher`, without the client.
        """

        async def make() -> TokenRefresher:
            return TokenRefresher(await self._get(), **options)

        TokenRefresher(self._settings, **options)  # so that wrong options are found now
        return BlockingTokenRefresher(self._portal, make)

    @_replaces_first(KeyStore)
    def bidstream_keys(self, **options: Any) -> BlockingKeyStore:
        """Return a store of the keys that decrypt bidstream tokens.

        Args:
            options: The arguments of :class:`KeyStore`, without *fetch*.
        """
        return self._keys(UID2Client.fetch_bidstream_keys, options)

    @_replaces_first(KeyStore)
    def sharing_keys(self, **options: Any) -> BlockingKeyStore:
        """Return a store of the keys for encryption and decryption.

        Args:
            options: The arguments of :class:`KeyStore`, without *fetch*.
        """
        return self._keys(UID2Client.fetch_sharing_keys, options)

    def _keys(
        self,
        fetch: Callable[[UID2Client], Coroutine[Any, Any, KeyRing]],
        options: dict[str, Any],
    ) -> BlockingKeyStore:
        # A store that has been opened knows when to try again after a failure.
        required = options.pop("required", True)

        async def make() -> KeyStore:
            fetch_here = partial(fetch, await self._get())
            return KeyStore(fetch_here, required=False, **options)

        return BlockingKeyStore(self._portal, make, required=required)

    def map_file(
        self,
        source: str | os.PathLike[str] | Query,
        target: str | os.PathLike[str] | Table,
        *,
        options: MapOptions | None = None,
        state: MappingState | str | os.PathLike[str] | None = None,
        delta: str | os.PathLike[str] | None = None,
        on_progress: Callable[[FileProgress], object] | None = None,
    ) -> JobSummary:
        """Map a file or the files of a folder. See :func:`~uid2_async.map_file`.

        An interrupt (Ctrl-C) stops the job. The same call resumes it. *on_progress* is
        called in the thread of the event loop.
        """
        # Imported here, because web applications do not need it.
        from uid2_async.bulk.jobs import map_file  # noqa: PLC0415 - reason above

        async def work(client: UID2Client) -> JobSummary:
            return await map_file(
                source,
                target,
                client=client,
                options=options,
                state=state,
                delta=delta,
                on_progress=on_progress,
            )

        return self._call(work)


strip_tracebacks(globals())
