"""KeyStore: the keys of a bidder or sharer, kept fresh (docs/protocol.md 6)."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random as _random
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import msgspec

from uid2_async._call import positive
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, ms_clock
from uid2_async.errors import CallTimeoutError, KeysUnavailableError, ProtocolError
from uid2_async.protocol import wire
from uid2_async.protocol.keyring import KeyRing

__all__ = ["KeyStore", "Keys", "ring_of"]

_logger = logging.getLogger("uid2_async")

# A fleet that was started at once spreads over this part of each interval.
_JITTER: Final = 0.2
_FIRST_RETRY_SECONDS: Final = 10.0
_LAST_RETRY_SECONDS: Final = 300.0
_MOST_DOUBLINGS: Final = 10


class KeyStore:
    """Holds a key ring and replaces it by a newer one every hour.

    Entering its block loads the keys and starts a background task; leaving it ends the
    task. Where a refresh fails, the last good ring is kept and served, the error is in
    :attr:`last_error`, and another try follows soon. A process that is frozen between
    requests leaves the block out and awaits :meth:`ensure_fresh` instead.

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
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep the settings; nothing is fetched yet.

        Args:
            fetch: Fetches the keys, such as ``client.fetch_bidstream_keys``.
            refresh_every: After how many seconds they are fetched again, at most; a
                random part of up to a fifth is left out each time.
            timeout: How long a fetch may take, in seconds.
            required: Whether entering the block fails without usable keys; if not,
                :attr:`ready` tells when there are some.
            clock: Gives the time as an aware datetime; the system's by default.
            random: Gives floats in [0, 1).
            sleep: Waits for some seconds.

        Raises:
            ConfigError: If *refresh_every* or *timeout* is not above zero.
        """
        self._fetch = fetch
        self._refresh_every = positive(refresh_every, "refresh_every")
        self._timeout = positive(timeout, "timeout")
        self._required = required
        self._now_ms = ms_clock(clock)
        self._random = random
        self._sleep = sleep
        self._ring: KeyRing | None = None
        self._fetched_ms = 0
        self._failures = 0
        self._failed_ms = 0
        self._last_error: Exception | None = None
        self._rounds = 0
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    # --- what is held -----------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """The last good ring, however old.

        Raises:
            KeysUnavailableError: If there is none.
        """
        if self._ring is None:
            raise KeysUnavailableError("No keys have been loaded yet.")
        return self._ring

    @property
    def age(self) -> float:
        """How many seconds ago the ring was fetched; infinity where there is none."""
        if self._ring is None:
            return math.inf
        return max(0, self._now_ms() - self._fetched_ms) / 1000

    @property
    def last_error(self) -> Exception | None:
        """Why the last refresh failed; None after one that succeeded."""
        return self._last_error

    @property
    def ready(self) -> bool:
        """Whether there is a ring with a key that holds; what a health check asks."""
        return self._ring is not None and self._ring.has_valid_key(self._now_ms())

    def __repr__(self) -> str:
        """Show state and age, never a key."""
        state = "ready" if self.ready else "not ready"
        return f"<KeyStore {state} age={self.age:.0f}s>"

    # --- life -------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Load the keys, and keep them fresh from then on.

        Raises:
            RuntimeError: If the block was entered already.
            Exception: What the fetch met, if there are no usable keys and some are
                required.
        """
        if self._task is not None:
            raise RuntimeError("This KeyStore is in use by a block already.")
        await self._refresh()
        if self._required:
            self._require()
        self._task = asyncio.create_task(self._keep_fresh(), name="uid2-keystore")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the background task."""
        await self.aclose()

    async def aclose(self) -> None:
        """End the background task; safe to call twice. The ring stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _keep_fresh(self) -> None:
        """Refresh for ever."""
        while True:
            await self._sleep(self._delay())
            await self._refresh()

    def _delay(self) -> float:
        """Compute the seconds until the next refresh: fewer after a failure."""
        delay = self._retry_seconds() if self._failures else self._refresh_every
        return delay * (1 - _JITTER * self._random())

    def _retry_seconds(self) -> float:
        """Compute how long to wait after a failure: longer with each one."""
        doublings = min(self._failures - 1, _MOST_DOUBLINGS)
        retry = min(_FIRST_RETRY_SECONDS * 2.0**doublings, _LAST_RETRY_SECONDS)
        return min(retry, self._refresh_every)

    # --- fetching ---------------------------------------------------------------------

    async def ensure_fresh(self, max_age: float) -> KeyRing:
        """Give the ring, fetching it first if it is older than *max_age* seconds.

        However many ask at once, one of them fetches. Where that fails, the last good
        ring is given as long as one of its keys holds, and for some seconds nobody
        tries again; see :attr:`last_error`.

        Raises:
            Exception: What the fetch met, if there are no usable keys.
        """
        if not self.ready or (self.age > max_age and not self._rests()):
            await self._refresh()
        return self._require()

    def _rests(self) -> bool:
        """Tell whether the last failure is too recent for another try."""
        passed = (self._now_ms() - self._failed_ms) / 1000
        return self._failures > 0 and 0 <= passed < self._retry_seconds()

    def _require(self) -> KeyRing:
        """Give the ring if it is usable, and raise what keeps it from being so."""
        if not self.ready:
            raise self._last_error or KeysUnavailableError("All keys have expired.")
        return self.ring

    async def _refresh(self) -> None:
        """Fetch once, unless another one did so while this one waited.

        No task of its own: if the one that fetches is cancelled, the next one fetches.
        """
        rounds = self._rounds
        async with self._lock_here():
            if self._rounds != rounds:
                return
            self._last_error = await self._try_fetch()
            self._rounds += 1
            self._failures = self._failures + 1 if self._last_error else 0
            self._failed_ms = self._now_ms()

    async def _try_fetch(self) -> Exception | None:
        """Fetch, and take the keys over; say why if they could not be had."""
        try:
            async with asyncio.timeout(self._timeout):
                ring = await self._fetch()
            now_ms = self._now_ms()
        except TimeoutError:
            error: Exception = CallTimeoutError("The keys did not arrive in time.")
        except Exception as failure:  # noqa: BLE001 - whatever a foreign fetch raises
            error = failure
        else:
            if ring.has_valid_key(now_ms):
                self._ring, self._fetched_ms = ring, now_ms
                return None
            error = KeysUnavailableError("All of the keys that came have expired.")
        _logger.warning("Fetching the keys failed with %s", type(error).__name__)
        return error

    def _lock_here(self) -> asyncio.Lock:
        """Give the lock of the running loop: a frozen process may run several."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._lock = asyncio.Lock()
        return self._lock

    # --- cold starts ------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ring to a file that only its owner can read, in one step.

        The file holds the secrets of the keys: whoever reads it can open tokens, and
        make them. Keep it where the client secret may be kept, and nowhere else.

        Raises:
            KeysUnavailableError: If there is no ring.
            OSError: If the file cannot be written.
        """
        reply = msgspec.Raw(self.ring.to_json())
        saved = _Saved(fetched_ms=self._fetched_ms, reply=reply)
        _write_private(Path(path), wire.encode(saved))

    def load(self, path: str | os.PathLike[str]) -> bool:
        """Take over the ring that :meth:`save` wrote, for a start without operator.

        Do so before entering the block, which then succeeds as long as one of the keys
        holds, whether the operator answers or not.

        Returns:
            Whether it was taken; not if there is no such file, or an older ring in it.

        Raises:
            ProtocolError: If the file is none that :meth:`save` wrote.
            OSError: If it cannot be read.
        """
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return False
        ring, fetched_ms = _read_saved(data)
        if fetched_ms > self._now_ms():
            fetched_ms = 0  # written by a wrong clock: of unknown age
        if self._ring is not None and fetched_ms <= self._fetched_ms:
            return False
        self._ring, self._fetched_ms = ring, fetched_ms
        return True


Keys: TypeAlias = KeyStore | KeyRing
"""Where keys come from: kept fresh, or as they are."""


def ring_of(keys: Keys) -> KeyRing:
    """Give the ring to work with now.

    Raises:
        KeysUnavailableError: If a KeyStore has none.
    """
    return keys if isinstance(keys, KeyRing) else keys.ring


class _Saved(msgspec.Struct):
    """What a key file holds: when the keys were fetched, in ms, and the reply."""

    fetched_ms: wire.EpochMs
    reply: msgspec.Raw


def _read_saved(data: bytes) -> tuple[KeyRing, int]:
    """Read a key file; what is wrong with it is not shown."""
    try:
        saved = wire.decode(data, _Saved)
        return KeyRing.from_json(bytes(saved.reply)), saved.fetched_ms
    except ProtocolError:
        pass
    raise ProtocolError(
        "The key file is none that KeyStore.save() wrote.",
        hint="Delete it; the next save() writes a new one.",
    )


def _write_private(target: Path, data: bytes) -> None:
    """Replace *target* by a file of mode 0600 that was new when it was written."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
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
