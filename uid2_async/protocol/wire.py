"""JSON on the wire, by msgspec, with errors that name a place and never a value."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ProtocolError
from uid2_async.models import datetime_from_ms

T = TypeVar("T")
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999, which a datetime can hold, in ms since the Unix epoch."""

EpochMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LAST_MS)]
"""An instant in ms that a datetime can hold, from 1970 to the end of 9999."""

# msgspec ends its messages with the place: "... - at `$.body.email_hash[3].u`". The
# rest can hold the rejected value (enums) and is thrown away.
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """Write *value* as compact UTF-8 JSON."""
    return _encoder.encode(value)


# Readers by kind, made when first needed: making one costs more than a small reply.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode(data: bytes | str, kind: type[T]) -> T:
    """Read JSON *data* as a value of *kind*.

    Raises:
        ProtocolError: If it is not JSON or not of the shape; names only the path. It is
            raised outside of the handler, so that no foreign error that may contain
            the reply stays reachable from it.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    path = ""
    message = "The reply is not JSON."
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        path = found["path"] if found else ""
        message = f"The reply does not have the documented form at {path or 'the top'}."
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise ProtocolError(message, path=path)


def iso(ms: int) -> str:
    """Write *ms* since the Unix epoch as ISO 8601 in UTC, ms only where there are some.

    An instant outside of the calendar, such as the end of a key that never expires,
    stays a number.
    """
    try:
        instant = datetime_from_ms(ms)
    except OverflowError:
        return f"{ms} ms"
    unit = "milliseconds" if ms % 1000 else "seconds"
    return instant.isoformat(timespec=unit).replace("+00:00", "Z")


strip_tracebacks(globals())
