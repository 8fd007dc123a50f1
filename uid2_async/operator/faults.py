"""Faults that an embedded operator can be told to make."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from uid2_async._traceback import strip_tracebacks

__all__ = ["Fault"]


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


strip_tracebacks(globals())
