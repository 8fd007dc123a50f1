"""The changing state of an embedded operator: its clock, faults and call log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import datetime_from_ms, ms_from_datetime
from uid2_async.operator.http_messages import clean_path

_STATUSES = range(200, 600)


@attrs.frozen(kw_only=True)
class Fault:
    """A fault in one reply. Several parameters can be combined.

    Attributes:
        status: Send this HTTP status and *body*, whatever the request is.
        body: The body to send with *status*.
        content_type: The content type to send with *status*, or None to send none.
        retry_after: The ``Retry-After`` header to send with *status*: seconds, or an
            HTTP date as text.
        headers: Additional response headers.
        delay: Seconds to wait before sending the reply.
        cut_after: Close the connection after this many bytes of the body.
        drop: Close the connection without sending anything.
        payload: Encrypt these bytes instead of the JSON of a 200 reply.
        wrong_nonce: Encrypt a 200 reply with a nonce that differs from the request's.
        wrong_key: Encrypt a 200 reply with a key other than the client's.
        clock_offset: Seconds by which the operator's clock is ahead during this call.
        date: Send a ``Date`` header, which real operators do not send.
    """

    status: int | None = None
    body: bytes | str = b""
    content_type: str | None = None
    retry_after: str | float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    delay: float = 0.0
    cut_after: int | None = None
    drop: bool = False
    payload: bytes | None = attrs.field(default=None, repr=False)
    wrong_nonce: bool = False
    wrong_key: bool = False
    clock_offset: float = 0.0
    date: bool = False

    def __attrs_post_init__(self) -> None:
        """Reject what cannot be sent.

        Raises:
            InputError: If *status* is not between 200 and 599, *cut_after* is negative,
                or a header has a line end.
        """
        if self.status is not None and self.status not in _STATUSES:
            raise InputError("The status of a fault must be between 200 and 599.")
        if self.cut_after is not None and self.cut_after < 0:
            raise InputError("cut_after must not be negative.")
        texts = (*self.headers, *self.headers.values(), str(self.retry_after))
        if any(mark in text for mark in "\r\n\0" for text in texts):
            raise InputError("A header of a fault must not have line ends.")


NO_FAULT = Fault()

# The log of a long-running sandbox must not fill the memory.
_CALLS_KEPT = 10_000


@attrs.frozen(kw_only=True)
class RecordedCall:
    """A request that an embedded operator answered, without DII, tokens or keys.

    Attributes:
        method: The HTTP method.
        path: The path, without repeated or trailing slashes.
        status: The HTTP status, or 0 if the connection was closed without a reply.
        client: The name of the API key, or None if there was none or it was wrong.
        trace_id: The ``UID-Trace-Id`` header, or None.
        client_version: The ``X-UID2-Client-Version`` header, or None.
        binary: Whether the request asked for a reply in raw bytes.
        encrypted: Whether the reply was encrypted.
        keys: The known keys of the request's JSON, such as ``("email_hash",)``.
        items: The number of identities or raw UIDs in the request.
        size: The length of the request body in bytes.
        headers: The request headers, except ``Authorization``, by lowercase name.
        fault: The injected fault, or None.
    """

    method: str
    path: str
    status: int
    client: str | None = None
    trace_id: str | None = None
    client_version: str | None = None
    binary: bool = False
    encrypted: bool = False
    keys: tuple[str, ...] = ()
    items: int = 0
    size: int = 0
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    fault: Fault | None = None


@attrs.frozen
class ArmedFault:
    """A fault for the next *times* calls of *path*; None means any path."""

    number: int
    fault: Fault
    times: int
    path: str | None


class OperatorState:
    """The clock, the armed faults and the calls. Thread-safe."""

    def __init__(self, clock: Callable[[], datetime] | None = None) -> None:
        """Start with *clock*, or with the real time if it is None."""
        self._clock = clock or (lambda: datetime.now(UTC))
        self._lock = Lock()
        self._offset_ms = 0
        self._armed: dict[int, ArmedFault] = {}
        self._ever_armed = 0
        self._calls: deque[RecordedCall] = deque(maxlen=_CALLS_KEPT)
        self._in_flight = 0
        self._most_in_flight = 0
        self._resets = 0

    def now_ms(self) -> int:
        """Return the operator's time, in ms since the Unix epoch."""
        return ms_from_datetime(self._clock()) + self._offset_ms

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*, or back if it is negative.

        Raises:
            InputError: If the clock would leave the years 1 to 9999.
        """
        with self._lock:
            try:
                offset_ms = self._offset_ms + round(seconds * 1000)
                datetime_from_ms(ms_from_datetime(self._clock()) + offset_ms)
            except (OverflowError, ValueError):
                raise InputError(
                    "The operator's clock must stay between the years 1 and 9999."
                ) from None
            self._offset_ms = offset_ms

    @property
    def clock_offset_ms(self) -> int:
        """How far the clock has been moved forward, in ms."""
        return self._offset_ms

    def arm(self, fault: Fault, *, times: int, path: str | None) -> None:
        """Inject *fault* into the next *times* calls, or only into those of *path*.

        Raises:
            InputError: If *times* is less than 1.
        """
        if times < 1:
            raise InputError("A fault must be injected at least once.")
        path = None if path is None else clean_path(path)
        with self._lock:
            self._ever_armed += 1
            number = self._ever_armed
            self._armed[number] = ArmedFault(number, fault, times, path)

    @property
    def armed(self) -> list[ArmedFault]:
        """The armed faults, oldest first."""
        with self._lock:
            return list(self._armed.values())

    def disarm(self, number: int) -> bool:
        """Remove an armed fault. Return whether a fault with that *number* existed."""
        with self._lock:
            return self._armed.pop(number, None) is not None

    def take_fault(self, path: str) -> Fault | None:
        """Return the oldest fault armed for *path*, and decrement its count."""
        with self._lock:
            for number, armed in self._armed.items():
                if armed.path in {None, path}:
                    if armed.times > 1:
                        left = attrs.evolve(armed, times=armed.times - 1)
                        self._armed[number] = left
                    else:
                        del self._armed[number]
                    return armed.fault
        return None

    @contextmanager
    def answering(self) -> Iterator[int]:
        """Count a request as in flight while the block runs.

        Yield the number of resets so far, for :meth:`record`.
        """
        with self._lock:
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
            resets = self._resets
        try:
            yield resets
        finally:
            with self._lock:
                self._in_flight -= 1

    @property
    def most_in_flight(self) -> int:
        """The highest number of concurrent requests."""
        with self._lock:
            return self._most_in_flight

    def record(self, call: RecordedCall, *, resets: int) -> bool:
        """Add *call* to the log, and return whether it was added.

        *resets* is what :meth:`answering` yielded: a request that was in flight during
        a reset is not recorded.
        """
        with self._lock:
            if resets != self._resets:
                return False
            self._calls.append(call)
            return True

    @property
    def calls(self) -> list[RecordedCall]:
        """The calls so far, oldest first."""
        with self._lock:
            return list(self._calls)

    def reset(self) -> None:
        """Clear the calls and faults, and restore the clock."""
        with self._lock:
            self._offset_ms = 0
            self._armed.clear()
            self._calls.clear()
            self._most_in_flight = self._in_flight
            self._resets += 1


strip_tracebacks(globals())
