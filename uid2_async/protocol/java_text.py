"""Java's ``toString()`` of what a request holds in the place of a string.

The operator does not refuse a value of the wrong type: it turns it into text and judges
that (docs/protocol.md 1.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Self

from uid2_async._traceback import strip_tracebacks

__all__ = [
    "JavaDouble",
    "as_java_string",
    "json_string",
    "literal_text",
    "replace_surrogates",
    "trim",
    "utf16_length",
]


# Jackson's short escapes, and its capital digits.
_ESCAPES = {code: f"\\u{code:04X}" for code in range(0x20)} | {
    8: "\\b",
    9: "\\t",
    10: "\\n",
    12: "\\f",
    13: "\\r",
    34: '\\"',
    92: "\\\\",
}
_SURROGATES = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")


def json_string(text: str) -> bytes:
    """Write *text* as Jackson writes a JSON string into bytes.

    It differs from others in characters beyond U+FFFF: these go out as two escapes.
    """
    escaped = _SURROGATES.sub(_escape_utf16, text.translate(_ESCAPES))
    return f'"{escaped}"'.encode()


def _escape_utf16(found: re.Match[str]) -> str:
    data = found[0].encode("utf-16-be", "surrogatepass").hex().upper()
    return "".join(f"\\u{data[at : at + 4]}" for at in range(0, len(data), 4))


_TRIMMED = "".join(map(chr, range(0x21)))


def trim(text: str) -> str:
    """Trim as Java's ``trim()`` does: everything up to U+0020, and nothing else."""
    return text.strip(_TRIMMED)


def utf16_length(text: str) -> int:
    """Count as Java's ``length()`` does: in UTF-16 code units."""
    return len(text) if text.isascii() else len(_utf16(text)) // 2


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def replace_surrogates(text: str) -> str:
    """Replace each lone surrogate by ``?``, as Java does on encoding *text*."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class JavaDouble(float):
    """A JSON number with a fraction or an exponent: a ``Double`` in Java.

    Attributes:
        text: How it is written in the JSON, such as ``1.50``.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        """Read the JSON number *text*; one out of range is infinite, as in Java."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def literal_text(value: object) -> str | None:
    """Return the text of a scalar as v3/identity/map takes it (docs/protocol.md 2.6).

    A number keeps the text that it has in the JSON. None stands for what that endpoint
    refuses in a list of identities: null, a list or an object.
    """
    if isinstance(value, JavaDouble):
        return value.text
    if value is None or isinstance(value, list | dict):
        return None
    return as_java_string(value)


def as_java_string(value: object) -> str | None:
    """Turn parsed JSON into Java's ``toString()`` (docs/protocol.md 1.3).

    Returns:
        Such as ``true``, ``1000.0``, ``[a, null]`` or ``{a=1}``; a str as it is, and
        None for None, which counts as absent.
    """
    if value is None:
        return None
    pieces: list[str] = []
    # Not recursive: the nesting may be deeper than the interpreter's stack.
    ahead = [value]
    while ahead:
        item = ahead.pop()
        if isinstance(item, list):
            ahead.extend(reversed(list(_list_parts(item))))
        elif isinstance(item, dict):
            ahead.extend(reversed(list(_map_parts(item))))
        else:
            pieces.append(_scalar_string(item))
    return "".join(pieces)


def _list_parts(items: Iterable[object]) -> Iterator[object]:
    """Take a list apart into its values and the text between them."""
    yield "["
    for at, item in enumerate(items):
        if at:
            yield ", "
        yield item
    yield "]"


def _map_parts(items: dict[str, object]) -> Iterator[object]:
    """Take an object apart into its values and the text between them."""
    yield "{"
    for at, (key, item) in enumerate(items.items()):
        yield f", {key}=" if at else f"{key}="
        yield item
    yield "}"


def _scalar_string(value: object) -> str:
    """Print what is neither a list nor an object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _double_string(value) if isinstance(value, float) else str(value)


def _double_string(value: float) -> str:
    """Print *value* as ``Double.toString`` does since Java 19: the shortest digits."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:  # noqa: PLR2004 - where Java changes over
        return float.__repr__(value)
    # Numbers in the place of strings are rare, and this import is not cheap.
    from decimal import Decimal  # noqa: PLC0415 - reason above

    digits = f"{Decimal(float.__repr__(value)).normalize():E}"
    if "." not in digits:
        # Java prints two digits at least, and chooses the nearest of two: 4.9E-324.
        digits = f"{float(value):.1E}"
    mantissa, _, exponent = digits.partition("E")
    return f"{mantissa}E{int(exponent)}"


strip_tracebacks(globals())
