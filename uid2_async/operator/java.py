"""JSON, text, dates and charsets as the real operator's Java reads and writes them.

The operator parses JSON with Vert.x on Jackson (docs/protocol.md 1.3). Here, the
standard library's scanner does that. It is made as strict as Jackson where it is more
lenient (``NaN``, long numbers and names, deep nesting), and as lenient where it is
stricter (comments).

The operator does not reject a value of the wrong type. It converts the value to text
with ``toString()`` and validates the text. Numbers that Java reads as ``Double`` are
therefore :class:`JavaDouble`.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from calendar import timegm
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Final, Self

# --- JSON -----------------------------------------------------------------------------

# The defaults of Jackson's StreamReadConstraints.
_MAX_DEPTH = 1_000
_MAX_NUMBER_DIGITS = 1_000
_MAX_NAME_UNITS = 50_000

_recursion_lock = Lock()

# Java's decoder replaces an encoded surrogate, even a truncated one, by one
# replacement character. Python's replaces each byte.
_ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]?")
_REPLACEMENT = "\ufffd".encode()

# Strings come first, so that nothing inside a string matches anything else. Jackson
# rejects control characters in comments, too.
_LEXEME = re.compile(
    r"""
    (?P<string>  "[^"\\]*+(?:\\.[^"\\]*+)*+" )
  | (?P<comment> /\*[^\x00-\x08\x0b\x0c\x0e-\x1f]*?\*/ | //[^\x00-\x08\x0a-\x1f]* )
  | (?P<open>    [\[{] )
  | (?P<close>   [\]}] )
  | (?P<stray>   ["/] )
    """,
    re.VERBOSE | re.DOTALL,
)

_ZERO_FIRST = re.compile(r"-?0(?:\.[0-9]+|[eE].+)\Z")


class JavaJsonError(ValueError):
    """The operator would reject this as JSON. The error does not quote the input."""


def decode_utf8(data: bytes) -> str:
    """Decode *data* like Java's ``new String(data, UTF_8)``, which never fails."""
    return _ENCODED_SURROGATE.sub(_REPLACEMENT, data).decode("utf-8", "replace")


def parse(data: bytes | str) -> object:
    """Parse the payload of a request to None, bool, int, JavaDouble, str, list or dict.

    If a key is repeated, the last value wins. Lone surrogates are preserved.

    Raises:
        JavaJsonError: If Jackson would reject it.
    """
    text = data if isinstance(data, str) else decode_utf8(data)
    try:
        return _decode(_without_comments(text))
    except ValueError:
        pass
    # Raised outside the handler, because the scanner's own error holds the whole
    # text.
    raise JavaJsonError("The operator would not accept this as JSON.")


def _decode(text: str) -> object:
    """Parse JSON without comments, however deep the interpreter's stack already is."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        pass
    # Before Python 3.12, the scanner shares the interpreter's recursion limit, which is
    # about as low as Jackson's.
    with _recursion_lock:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 2 * _MAX_DEPTH)
        try:
            return _DECODER.decode(text)
        finally:
            sys.setrecursionlimit(limit)


def parse_raw(data: bytes) -> object:
    """Parse bytes as Jackson does if it reads them directly (docs/protocol.md 2.10).

    Invalid UTF-8 is an error. A byte order mark, UTF-16 and UTF-32 are accepted.
    """
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        text = ""
    return parse(text)


def parse_object(data: bytes | str) -> dict[str, object] | None:
    """Parse the payload of a request, or return None if it is not a JSON object."""
    try:
        value = parse(data)
    except JavaJsonError:
        return None
    return value if isinstance(value, dict) else None


def _without_comments(text: str) -> str:
    """Replace each comment in *text* by a space, and check the nesting depth."""
    brackets = text.count("[") + text.count("{")
    if brackets <= _MAX_DEPTH and "/*" not in text and "//" not in text:
        return text
    pieces = []
    done = depth = 0
    for found in _LEXEME.finditer(text):
        kind = found.lastgroup
        depth += (kind == "open") - (kind == "close")
        if depth > _MAX_DEPTH or kind == "stray":
            raise JavaJsonError
        if kind == "comment":
            pieces.append(text[done : found.start()])
            done = found.end()
            # Jackson requires white space after a number at the top level.
            if depth == 0 and pieces[-1][-1:].isdigit():
                raise JavaJsonError
    pieces.append(text[done:])
    return " ".join(pieces)


def _number(text: str) -> str:
    """Return a number, unless it has more digits than Jackson accepts.

    The digits of the exponent count.
    """
    # Most numbers are short, and need not be counted.
    if len(text) <= _MAX_NUMBER_DIGITS:
        return text
    digits = sum(map(str.isdigit, text))
    # Jackson does not count a lone 0 before a point or an exponent, unless both
    # follow.
    digits -= _ZERO_FIRST.match(text) is not None
    if digits > _MAX_NUMBER_DIGITS:
        raise JavaJsonError
    return text


def _constant(_name: str) -> object:
    """Reject NaN, Infinity and -Infinity."""
    raise JavaJsonError


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object. A repeated key keeps its first position and its last value."""
    for name, _ in pairs:
        if len(name) * 2 > _MAX_NAME_UNITS and utf16_length(name) > _MAX_NAME_UNITS:
            raise JavaJsonError
    return dict(pairs)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=lambda text: int(_number(text)),
    parse_float=lambda text: JavaDouble(_number(text)),
    parse_constant=_constant,
)


# --- text -----------------------------------------------------------------------------

_TRIMMED = "".join(map(chr, range(0x21)))


def trim(text: str) -> str:
    """Trim like Java's ``trim()``, which removes everything up to U+0020."""
    return text.strip(_TRIMMED)


def utf16_length(text: str) -> int:
    """Return the length in UTF-16 code units, like Java's ``length()``."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def replace_surrogates(text: str) -> str:
    """Replace each lone surrogate by ``?``, as Java does when it encodes *text*."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class JavaDouble(float):
    """A JSON number with a fraction or an exponent: a ``Double`` in Java.

    ``text`` is the number as written in the JSON, such as ``1.50``.
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        """Parse the JSON number *text*. If it is out of range, it is infinite."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def literal_text(value: object) -> str | None:
    """Return the text of a scalar as v3/identity/map reads it (docs/protocol.md 2.6).

    A number keeps its text from the JSON. Null, a list and an object return None,
    because that endpoint rejects them in a list of identities.
    """
    if isinstance(value, JavaDouble):
        return value.text
    if value is None or isinstance(value, list | dict):
        return None
    return as_java_string(value)


def as_java_string(value: object) -> str | None:
    """Convert parsed JSON to text like Java's ``toString()`` (docs/protocol.md 1.3).

    A list is ``[a, null]``, an object ``{a=1}``. None, which counts as absent, is None.
    """
    if value is None:
        return None
    pieces: list[str] = []
    # Not recursive, because the nesting may be deeper than the interpreter's stack.
    ahead = [value]
    while ahead:
        item = ahead.pop()
        if isinstance(item, list | dict):
            ahead.extend(reversed(list(_parts(item))))
        else:
            pieces.append(_scalar_string(item))
    return "".join(pieces)


def _parts(item: list[object] | dict[str, object]) -> Iterator[object]:
    """Yield the values of a list or an object, and the text between them."""
    start, end = "[]" if isinstance(item, list) else "{}"
    names: Iterable[str] = [""] * len(item)
    values: Iterable[object] = item
    if isinstance(item, dict):
        names, values = (f"{key}=" for key in item), item.values()
    yield start
    for at, (name, value) in enumerate(zip(names, values, strict=True)):
        yield f", {name}" if at else name
        yield value
    yield end


def _scalar_string(value: object) -> str:
    """Return the text of a value that is neither a list nor an object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _double_string(value) if isinstance(value, float) else str(value)


def _double_string(value: float) -> str:
    """Format *value* like ``Double.toString`` since Java 19, with fewest digits."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:  # noqa: PLR2004 - where Java switches to exponents
        return float.__repr__(value)
    # Imported here, because it is slow to import and numbers in place of strings are
    # rare.
    from decimal import Decimal  # noqa: PLC0415 - reason above

    digits = f"{Decimal(float.__repr__(value)).normalize():E}"
    if "." not in digits:
        # Java prints at least two digits, and chooses the nearest number of two:
        # 4.9E-324.
        digits = f"{float(value):.1E}"
    mantissa, _, exponent = digits.partition("E")
    return f"{mantissa}E{int(exponent)}"


# --- dates ----------------------------------------------------------------------------

# Java's SignStyle.EXCEEDS_PAD: four digits have no plus sign, more digits have one.
_LOCAL_DATE_TIME = re.compile(
    r"(?P<year>[0-9]{4}|\+[0-9]{5,10}|-[0-9]{4,10})"
    r"-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"[Tt](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{0,9}))?)?"
)

_MAX_YEAR = 999_999_999
_LONG = range(-(2**63), 2**63)

# The calendar repeats every 400 years, so the years that Python lacks are computed in
# the cycle that begins with this one.
_CYCLE_START = datetime(2000, 1, 1, tzinfo=UTC)
_CYCLE = timedelta(days=146_097) // timedelta(milliseconds=1)
_CYCLE_YEARS = 400


def parse_local_date_time(text: str) -> int | None:
    """Parse a local date and time as Java does, into ms since the Unix epoch.

    Return None if Java does not accept *text*.

    Raises:
        OverflowError: If the ms of an accepted time do not fit into 64 bits.
    """
    found = _LOCAL_DATE_TIME.fullmatch(text)
    if found is None:
        return None
    year = int(found["year"])
    if abs(year) > _MAX_YEAR or (year == 0 and found["year"][0] == "-"):
        return None
    cycles, year = divmod(year - _CYCLE_START.year, _CYCLE_YEARS)
    month, day, hour, minute, second = (
        int(found[name] or 0) for name in ("month", "day", "hour", "minute", "second")
    )
    year += _CYCLE_START.year
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    fraction_ms = int((found["fraction"] or "")[:3].ljust(3, "0"))
    ms = timegm(moment.timetuple()) * 1000 + fraction_ms + cycles * _CYCLE
    if ms not in _LONG:
        raise OverflowError("The time in ms does not fit into 64 bits.")
    return ms


def format_local_date_time(ms: int) -> str:
    """Format *ms* since the Unix epoch as ``yyyy-MM-dd'T'HH:mm:ss.SSS`` in UTC.

    Years after 9999 get a ``+``. Java's ``yyyy`` is the year of the era, so the year 0
    is printed as 0001, and the years before it count up again.
    """
    start_ms = timegm(_CYCLE_START.timetuple()) * 1000
    cycles, rest = divmod(ms - start_ms, _CYCLE)
    moment = _CYCLE_START + timedelta(milliseconds=rest)
    year = moment.year + cycles * _CYCLE_YEARS
    year_of_era = year if year > 0 else 1 - year
    sign = "+" if year_of_era > 9999 else ""  # noqa: PLR2004 - four digits are unsigned
    fraction = moment.microsecond // 1000
    return f"{sign}{year_of_era:04}{moment:-%m-%dT%H:%M:%S}.{fraction:03}"


# --- charsets -------------------------------------------------------------------------

# Java assumes big-endian if there is no byte order mark.
_MARKS: Final = {
    "utf_16": (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE),
    "utf_32": (codecs.BOM_UTF32_BE, codecs.BOM_UTF32_LE),
}


@cache
def _codecs() -> dict[str, str]:
    """Read Python's codec for each charset name of Java (docs/protocol.md 1.2).

    All that matters about a body is whether it parses as base64 or JSON. A charset
    without a codec in Python is therefore replaced by one that agrees with it on those
    characters.
    """
    text = (files("uid2_async.operator") / "java_charsets.txt").read_text("ascii")
    lines = map(str.split, text.splitlines())
    return {name: codec for codec, *names in lines for name in names}


def codec_of(charset: str) -> str | None:
    """Find Python's codec for a charset of Java, ignoring case, or return None."""
    return _codecs().get(charset.lower())


def decode_charset(data: bytes, codec: str) -> str:
    """Decode *data* with a codec of :func:`codec_of`, replacing invalid bytes."""
    marks = _MARKS.get(codec)
    if marks is not None and not data.startswith(marks):
        codec += "_be"
    return data.decode(codec, "replace")
