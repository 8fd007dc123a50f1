"""Instants as people read them."""

from __future__ import annotations

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import datetime_from_ms

__all__ = ["iso"]


def iso(ms: int) -> str:
    """Write *ms* since the Unix epoch as ISO 8601 in UTC, ms only where there are some.

    What no calendar holds, such as the end of a key that never ends, stays a number.
    """
    try:
        instant = datetime_from_ms(ms)
    except OverflowError:
        return f"{ms} ms"
    unit = "milliseconds" if ms % 1000 else "seconds"
    return instant.isoformat(timespec=unit).replace("+00:00", "Z")


strip_tracebacks(globals())
