"""Encodes and decodes JSON with msgspec. Errors contain a path but never a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ProtocolError
from uid2_async.models import datetime_from_ms

T = TypeVar("T")
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999, which a datetime can represent, in ms since the Unix epoch."""

EpochMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LAST_MS)]
"""A time in ms since the Unix epoch, up to the year 9999, as for a datetime."""

# msgspec ends its messages with the path: "... - at `$.body.email_hash[3].u`". The
# rest can contain the rejected value (of an enum) and is discarded.
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
"""Encode a value as compact UTF-8 JSON."""


# Decoders by type, cached because creating one costs more than a small reply.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode(data: bytes | str, kind: type[T]) -> T:
    """Decode JSON *data* as a value of type *kind*.

    Raises:
        ProtocolError: If it is not JSON or does not have the expected structure. The
            message contains only the JSON path. The error is raised outside the
            handler, so that it does not reference another error that may contain the
            reply.
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
        message = f"The reply has an unexpected structure at {path or 'the top level'}."
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise ProtocolError(message, path=path)


def iso(ms: int) -> str:
    """Format *ms* since the Unix epoch as ISO 8601 in UTC, with ms only if needed.

    A time out of a datetime's range, such as the end of a key that never expires, is
    returned in ms.
    """
    try:
        instant = datetime_from_ms(ms)
    except OverflowError:
        return f"{ms} ms"
    unit = "milliseconds" if ms % 1000 else "seconds"
    return instant.isoformat(timespec=unit).replace("+00:00", "Z")


strip_tracebacks(globals())
