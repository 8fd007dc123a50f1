"""What changes while an embedded operator runs: clock, faults and the log of calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import ms_from_datetime


@attrs.frozen(kw_only=True)
class Fault:
    """What goes wrong with one answer; several things can at once.

    Attributes:
        status: Answer with this HTTP status and *body*, whatever the request is.
        body: The body that goes with *status*.
        content_type: The content type that goes with *status*, None for none.
        retry_after: The ``Retry-After`` header that goes with *status*: seconds or an
            HTTP date, as it stands.
        headers: Further headers of the answer.
        delay: How many seconds to wait before answering.
        cut_after: Close the connection after so many bytes of the body.
        drop: Close the connection without any answer.
        payload: Seal these bytes in place of the JSON of a 200.
        wrong_nonce: Seal a 200 with another nonce than the request's.
        wrong_key: Seal a 200 with another key than the client's.
        clock_offset: By how many seconds the operator's clock is off for this call.
        date: Send a ``Date`` header, which a real operator does not.
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


# A long-running sandbox must not fill the memory with its log.
_CALLS_KEPT = 10_000


@attrs.frozen(kw_only=True)
class Call:
    """A request that an embedded operator answered; contains no DII, token or key.

    Attributes:
        method: The HTTP method.
        path: The path, without double and trailing slashes.
        status: The HTTP status of the answer; 0 where the connection was dropped.
        client: The name of the API key, None for none or a wrong one.
        trace_id: The ``UID-Trace-Id`` header, or None.
        client_version: The ``X-UID2-Client-Version`` header, or None.
        binary: Whether the reply was asked for as raw bytes.
        sealed: Whether the reply was sealed.
        keys: The known keys of the request's JSON, such as ``("email_hash",)``.
        items: How many identities or raw UIDs the request named.
        size: The length of the request's body in bytes.
        headers: The request's headers by lower-case name, without ``Authorization``.
        fault: The fault that was made, or None.
    """

    method: str
    path: str
    status: int
    client: str | None = None
    trace_id: str | None = None
    client_version: str | None = None
    binary: bool = False
    sealed: bool = False
    keys: tuple[str, ...] = ()
    items: int = 0
    size: int = 0
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    fault: Fault | None = None


@attrs.frozen
class Armed:
    """A fault that waits for its calls.

    Attributes:
        number: Tells it from the others.
        fault: What should go wrong.
        times: How often still.
        path: The one path that it concerns; None for all.
    """

    number: int
    fault: Fault
    times: int
    path: str | None


class OperatorState:
    """The clock, the armed faults and the calls; safe to use from several threads."""

    def __init__(self, clock: Callable[[], datetime] | None = None) -> None:
        """Start with *clock*, or the real time."""
        self._clock = clock or _utc_now
        self._lock = Lock()
        self._offset_ms = 0
        self._armed: dict[int, Armed] = {}
        self._ever_armed = 0
        self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        self._in_flight = 0
        self._most_in_flight = 0
        self._resets = 0

    def now_ms(self) -> int:
        """Read the operator's clock, in ms since the Unix epoch."""
        return ms_from_datetime(self._clock()) + self._offset_ms

    def advance(self, seconds: float) -> None:
        """Set the clock forward by *seconds*, or back by a negative number."""
        with self._lock:
            self._offset_ms += round(seconds * 1000)

    @property
    def ahead_ms(self) -> int:
        """How far the clock has been set forward, in ms."""
        return self._offset_ms

    def set_right(self) -> None:
        """Undo every advance of the clock."""
        with self._lock:
            self._offset_ms = 0

    def arm(self, fault: Fault, *, times: int, path: str | None) -> None:
        """Make *fault* at the next *times* calls, or only those of *path*."""
        with self._lock:
            self._ever_armed += 1
            number = self._ever_armed
            self._armed[number] = Armed(number, fault, times, path)

    @property
    def armed(self) -> list[Armed]:
        """The faults that wait, the oldest first."""
        with self._lock:
            return list(self._armed.values())

    def disarm(self, number: int) -> bool:
        """Forget an armed fault; return whether there was one of that *number*."""
        with self._lock:
            return self._armed.pop(number, None) is not None

    def take_fault(self, path: str) -> Fault | None:
        """Return the oldest fault armed for *path*, and use it up."""
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
    def answering(self) -> Iterator[None]:
        """Count a request as being in flight for as long as the block lasts."""
        with self._lock:
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    @property
    def most_in_flight(self) -> int:
        """How many requests were in flight at once, at most."""
        with self._lock:
            return self._most_in_flight

    @property
    def resets(self) -> int:
        """How often everything was forgotten."""
        return self._resets

    def record(self, call: Call, *, resets: int) -> bool:
        """Add *call* to the log; the oldest of very many is dropped.

        Args:
            call: What was answered.
            resets: What :attr:`resets` was when the call came: an answer that was still
                under way during a reset is not recorded.

        Returns:
            Whether it was added.
        """
        with self._lock:
            if resets != self._resets:
                return False
            self._calls.append(call)
            return True

    @property
    def calls(self) -> list[Call]:
        """The calls so far, oldest first."""
        with self._lock:
            return list(self._calls)

    def reset(self) -> None:
        """Forget calls and faults, and set the clock right again."""
        with self._lock:
            self._offset_ms = 0
            self._armed.clear()
            self._calls.clear()
            self._most_in_flight = self._in_flight
            self._resets += 1


def _utc_now() -> datetime:
    return datetime.now(UTC)


strip_tracebacks(globals())
