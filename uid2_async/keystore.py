"""KeyStore: the keys of a bidder or sharer, kept fresh (docs/protocol.md 6)."""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol, Self, TypeAlias

import msgspec

from uid2_async._call import positive
from uid2_async._failures import CONTROL_FLOW, fresh_error, is_stray
from uid2_async._private import Unpicklable, logger
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import (
    NS_PER_MS,
    Clock,
    Monotonic,
    monotonic_of,
    ns_clock,
    suspend_aware_sleep,
)
from uid2_async.errors import CallTimeoutError, KeysUnavailableError, ProtocolError
from uid2_async.protocol import wire
from uid2_async.protocol.keyring import KeyRing

# This fraction of each interval is random, so that machines that started together do
# not fetch together.
_JITTER: Final = 0.2
_FIRST_RETRY_SECONDS: Final = 10.0
_LAST_RETRY_SECONDS: Final = 300.0
# Without usable keys, recovery after an outage must not take minutes.
_LAST_RETRY_WITHOUT_KEYS_SECONDS: Final = 60.0
_MOST_DOUBLINGS: Final = 10
_MS: Final = 0.001


class KeyStore(Unpicklable):
    """Keeps a key ring, and replaces it with a newer one every hour.

    Entering ``async with`` loads the keys and starts a background task, which ends on
    exit. If a refresh fails, the last good ring is used, the error is in
    :attr:`last_error`, and retries follow after 10 s, 20 s and so on, up to every 5
    minutes, or every minute while there are no usable keys. In a process that is frozen
    between requests, call :meth:`ensure_fresh` instead of using ``async with``.

    Durations are measured with a monotonic clock that keeps running while the machine
    is suspended. Setting the wall clock does not change them. Only the expiry times of
    keys are compared with *clock*.

    Example:
        >>> async with KeyStore(client.fetch_bidstream_keys) as keys:
        ...     bidstream = BidstreamClient(keys)
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[KeyRing]],
        *,
        refresh_every: float = 3600.0,
        timeout: float = 60.0,
        required: bool = True,
        clock: Clock | None = None,
        monotonic: Monotonic | None = None,
        _random: Callable[[], float] = random.random,
        _sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """Store the settings. Nothing is fetched yet.

        Args:
            fetch: Fetches the keys, such as ``client.fetch_bidstream_keys``.
            refresh_every: The maximum time between fetches, in seconds. Each interval
                is shortened at random by up to a fifth.
            timeout: How long a fetch may take, in seconds.
            required: Whether ``async with`` raises if there are no usable keys. If not,
                check :attr:`ready`.
            clock: Returns the current time as an aware datetime. Defaults to the system
                clock.
            monotonic: Returns a monotonic time in seconds. Defaults to
                ``clock.monotonic`` if that exists, and otherwise to the system's.

        Raises:
            ConfigError: If *refresh_every* or *timeout* is not above zero.
        """
        self._fetch = fetch
        self._refresh_every = positive(refresh_every, "refresh_every")
        self._timeout = positive(timeout, "timeout")
        self._required = required
        self._now_ns = ns_clock(clock)
        self._monotonic = monotonic_of(clock, monotonic)
        self._random = _random
        self._sleep = _sleep or suspend_aware_sleep(self._monotonic)
        self._ring: KeyRing | None = None
        self._fetched_at = 0.0
        self._failures = 0
        self._rest_until = -math.inf
        self._last_error: Exception | None = None
        self._rounds = 0
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    # --- the current keys -------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """The last good ring, regardless of its age.

        Raises:
            KeysUnavailableError: If there is none.
        """
        if self._ring is None:
            raise KeysUnavailableError("No keys have been loaded yet.")
        return self._ring

    @property
    def age(self) -> float:
        """The seconds since the keys were fetched, or infinity if there are none."""
        if self._ring is None:
            return math.inf
        return max(0.0, self._monotonic() - self._fetched_at)

    @property
    def last_error(self) -> Exception | None:
        """Why the last refresh failed, or None if it succeeded."""
        return self._last_error

    @property
    def ready(self) -> bool:
        """Whether there is a valid key and, in ``async with``, a refresh task.

        Use it in health checks. It is false if the background task ended unexpectedly.
        Enter ``async with`` again to start a new one.
        """
        return self._is_usable() and (self._task is None or _is_running(self._task))

    def _now_ms(self) -> int:
        return self._now_ns() // NS_PER_MS

    def _is_usable(self) -> bool:
        return self._ring is not None and self._ring.has_valid_key(self._now_ms())

    def __repr__(self) -> str:
        """Return the state and age, but no keys."""
        state = "ready" if self.ready else "not ready"
        return f"<KeyStore {state} age={self.age:.0f}s>"

    # --- lifecycle --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Load the keys, and start to refresh them in the background.

        Raises:
            RuntimeError: If the store is already in use.
            Exception: The error of the fetch, if there are no usable keys but they are
                required.
        """
        if self._task is not None and _is_running(self._task):
            raise RuntimeError("This KeyStore is already in use.")
        await self._refresh()
        if self._required:
            self._require()
        self._task = asyncio.create_task(self._keep_fresh(), name="uid2-keystore")
        self._task.add_done_callback(self._on_task_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the background task."""
        await self.aclose()

    async def aclose(self) -> None:
        """End the background task, but keep the ring. It is safe to call this twice."""
        task, self._task = self._task, None
        if task is None or not _is_running(task):
            return
        if task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        else:
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def _keep_fresh(self) -> None:
        task = asyncio.current_task()
        # A fetch may have swallowed the cancellation.
        while self._task is task:
            await self._sleep(self._delay())
            await self._refresh()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """Report a background task that ended although the store was not closed."""
        failure = None if task.cancelled() else task.exception()
        if task is not self._task:
            return
        name = "CancelledError" if failure is None else type(failure).__name__
        logger.error("The background refresh of the keys ended with %s", name)
        self._last_error = KeysUnavailableError(
            f"The background refresh of the keys ended with {name}.",
            hint="Leave the `async with` block of the KeyStore and enter it again.",
        )

    def _delay(self) -> float:
        """Return the seconds until the next refresh, fewer after a failure."""
        delay = self._retry_seconds() if self._failures else self._refresh_every
        return delay * (1 - _JITTER * self._random())

    def _retry_seconds(self) -> float:
        """Return the seconds to wait after a failure, which grow with each one."""
        doublings = min(self._failures - 1, _MOST_DOUBLINGS)
        longest = _LAST_RETRY_SECONDS
        if not self._is_usable():
            longest = _LAST_RETRY_WITHOUT_KEYS_SECONDS
        retry = min(_FIRST_RETRY_SECONDS * 2.0**doublings, longest)
        return min(retry, self._refresh_every)

    # --- fetching ---------------------------------------------------------------------

    async def ensure_fresh(self, max_age: float) -> KeyRing:
        """Return the ring. Fetch it first if it is older than *max_age* seconds.

        Concurrent callers share one fetch. After a failure, there is no further fetch
        for 10 s, 20 s and so on, as described for the class. In the meantime, callers
        receive the last good keys if one of them is valid, or otherwise a copy of the
        last error, without waiting. Keys that have already expired when they arrive are
        fetched again after 10 s. With valid keys, only *max_age* limits the fetches: 0
        fetches each time.

        Raises:
            Exception: The error of the fetch, if there are no usable keys.
        """
        is_stale = not self._is_usable() or self.age > max_age
        if is_stale and not self._is_resting():
            await self._refresh()
        return self._require()

    def _is_resting(self) -> bool:
        """Return whether the last fetch is too recent for another one."""
        if self._failures == 0 and self._is_usable():
            return False
        return self._monotonic() < self._rest_until

    def _require(self) -> KeyRing:
        """Return the ring if it is usable, or raise the reason."""
        if self._is_usable():
            return self.ring
        if self._last_error is not None:
            # A copy, because each caller that raises an object adds its frames to it.
            raise fresh_error(self._last_error)
        raise KeysUnavailableError("All keys have expired.")

    async def _refresh(self) -> None:
        """Fetch the keys, unless another caller did so while this one waited.

        This does not start a task. If the caller that fetches is canceled, the next one
        fetches.
        """
        rounds = self._rounds
        async with self._lock_here():
            if self._rounds != rounds:
                return
            self._last_error = await self._try_fetch()
            self._rounds += 1
            self._failures = self._failures + 1 if self._last_error else 0
            rest = self._retry_seconds() if self._failures else _FIRST_RETRY_SECONDS
            self._rest_until = self._monotonic() + rest

    async def _try_fetch(self) -> Exception | None:
        """Fetch and keep the keys, or return the error."""
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._timeout):
                ring = await self._fetch()
            now_ms = self._now_ms()
        except CONTROL_FLOW as failure:
            if not is_stray(failure, task):
                raise
            name = type(failure).__name__
            error: Exception = KeysUnavailableError(f"The fetch ended with {name}.")
        except TimeoutError:
            error = CallTimeoutError("The keys were not received in time.")
        except Exception as failure:  # noqa: BLE001 - whatever a foreign fetch raises
            # The error is stored, and its frames and causes contain keys and secrets.
            error = fresh_error(failure)
        else:
            if ring.has_valid_key(now_ms):
                self._ring, self._fetched_at = ring, self._monotonic()
                return None
            error = KeysUnavailableError("All fetched keys have expired.")
        logger.warning("Fetching the keys failed with %s", type(error).__name__)
        return error

    def _lock_here(self) -> asyncio.Lock:
        """Return the lock of the running loop. A frozen process may run several."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._lock = asyncio.Lock()
        return self._lock

    # --- cold starts ------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ring atomically to a file that only its owner can read.

        The file contains the keys. Anyone who can read it can decrypt and create
        tokens. Protect it like the client secret.

        Raises:
            KeysUnavailableError: If there is no ring.
            OSError: If the file cannot be written.
        """
        reply = msgspec.Raw(self.ring.to_json())
        fetched_ms = max(0, self._now_ms() - round(self.age * 1000))
        saved = _Saved(fetched_ms=fetched_ms, reply=reply)
        _write_private(Path(path), wire.encode(saved))

    def load(self, path: str | os.PathLike[str]) -> bool:
        """Load the ring that :meth:`save` wrote, to start without an operator.

        Call it before ``async with``, which then succeeds without the operator as long
        as one of the keys is valid.

        Returns:
            Whether keys were loaded. False if the file is missing or has older keys.

        Raises:
            ProtocolError: If the file was not written by :meth:`save`.
            OSError: If it cannot be read.
        """
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return False
        ring, fetched_ms = _read_saved(data)
        now_ms = self._now_ms()
        if fetched_ms > now_ms:
            fetched_ms = 0  # The clock was wrong, so the age is unknown.
        age = (now_ms - fetched_ms) / 1000
        if age >= self.age - _MS:
            return False
        self._ring, self._fetched_at = ring, self._monotonic() - age
        return True

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        check_every: float = 1.0,
        clock: Clock | None = None,
        monotonic: Monotonic | None = None,
    ) -> FileKeyStore:
        """Create a store of keys that another process fetches and saves.

        For several workers on one machine, whose keys one process or job fetches.

        Args:
            path: The file that the other process passes to :meth:`save`.
            check_every: The seconds between checks for a change of the file.
            clock: Returns the current time as an aware datetime. Defaults to the system
                clock.
            monotonic: Returns a monotonic time in seconds, as for the class.

        Returns:
            A store that never fetches. It is thread-safe, and needs neither
            ``async with`` nor an event loop.
        """
        return FileKeyStore(
            path, check_every=check_every, clock=clock, monotonic=monotonic
        )


class FileKeyStore(KeyStore):
    """Reads the keys from a file whenever it changes. See ``KeyStore.from_file``.

    If the file is missing or damaged, the last good ring is used, and the error is in
    ``last_error``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        check_every: float = 1.0,
        clock: Clock | None = None,
        monotonic: Monotonic | None = None,
    ) -> None:
        """Store the settings. The file is read on first use."""
        super().__init__(_fetch_nothing, clock=clock, monotonic=monotonic)
        self._path = Path(path)
        self._check_every = check_every
        self._next_check = -math.inf
        self._signature: object = None

    @property
    def ring(self) -> KeyRing:
        """The ring from the file, or the last good one.

        Raises:
            KeysUnavailableError: If there is none.
        """
        self._reload()
        if self._ring is None and self._last_error is not None:
            raise fresh_error(self._last_error)
        return super().ring

    @property
    def ready(self) -> bool:
        """Whether there is a valid key."""
        self._reload()
        return self._is_usable()

    async def __aenter__(self) -> Self:
        """Read the file.

        Raises:
            UID2Error: If there is no valid key.
        """
        await self.ensure_fresh(math.inf)
        return self

    async def ensure_fresh(self, max_age: float) -> KeyRing:  # noqa: ARG002 - nothing is fetched
        """Return the ring from the file, regardless of its age.

        Raises:
            UID2Error: If there is no valid key.
        """
        self._reload()
        return self._require()

    def _reload(self) -> None:
        now = self._monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._check_every
        try:
            stat = self._path.stat()
            signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if signature == self._signature:
                return
            self.load(self._path)
        except (OSError, ProtocolError) as failure:
            name = type(failure).__name__
            if self._last_error is None:
                logger.warning("Reading the key file failed with %s", name)
            self._last_error = KeysUnavailableError(
                f"The key file cannot be read: {name}.",
                hint="Let another process fetch the keys and save() them to this file.",
            )
        else:
            self._signature, self._last_error = signature, None


async def _fetch_nothing() -> KeyRing:
    raise KeysUnavailableError("A KeyStore that reads a file cannot fetch keys.")


class _HasRing(Protocol):
    """An object with a current ring, such as a KeyStore."""

    @property
    def ring(self) -> KeyRing: ...


Keys: TypeAlias = _HasRing | KeyRing
"""A source of keys: a KeyStore, a BlockingKeyStore, or a ring."""


def ring_of(keys: Keys) -> KeyRing:
    """Return the current ring.

    Raises:
        KeysUnavailableError: If a KeyStore has none.
    """
    return keys if isinstance(keys, KeyRing) else keys.ring


def _is_running(task: asyncio.Task[None]) -> bool:
    """Return whether *task* is running: neither it nor its event loop has ended."""
    return not task.done() and not task.get_loop().is_closed()


class _Saved(msgspec.Struct):
    """The content of a key file: when the keys were fetched, in ms, and the reply."""

    fetched_ms: wire.EpochMs
    reply: msgspec.Raw


def _read_saved(data: bytes) -> tuple[KeyRing, int]:
    """Read a key file. Errors do not describe its content."""
    try:
        saved = wire.decode(data, _Saved)
        return KeyRing.from_json(bytes(saved.reply)), saved.fetched_ms
    except ProtocolError:
        pass
    raise ProtocolError(
        "The key file was not written by KeyStore.save().",
        hint="Delete it. The next save() writes a new one.",
    )


def _write_private(target: Path, data: bytes) -> None:
    """Replace *target* with a new file of mode 0600."""
    # A name of 255 bytes, the longest one, could not be extended.
    fresh = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a Path has no descriptor
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


strip_tracebacks(globals())
