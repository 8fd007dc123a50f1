"""Text and dates as Java writes and parses them.

The operator does not reject a value of the wrong type. It converts the value to text
with ``toString()`` and validates the text (docs/protocol.md 1.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Self

_TRIMMED = "".join(map(chr, range(0x21)))


def trim(text: str) -> str:
    """Trim like Java's ``trim()``, which removes everything up to U+0020."""
    return text.strip(_TRIMMED)


def utf16_length(text: str) -> int:
    """Return the length in UTF-16 code units, like Java's ``length()``."""
    return len(text) if text.isascii() else len(_utf16(text)) // 2


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def replace_surrogates(text: str) -> str:
    """Replace each lone surrogate by ``?``, as Java does when it encodes *text*."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class JavaDouble(float):
    """A JSON number with a fraction or an exponent: a ``Double`` in Java.

    Attributes:
        text: The number as written in the JSON, such as ``1.50``.
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

    Returns:
        Text such as ``true``, ``1000.0``, ``[a, null]`` or ``{a=1}``. A str is returned
        unchanged. None is returned for None, which counts as absent.
    """
    if value is None:
        return None
    pieces: list[str] = []
    # Not recursive, because the nesting may be deeper than the interpreter's stack.
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
    """Yield the values of a list, and the text between them."""
    yield "["
    for at, item in enumerate(items):
        if at:
            yield ", "
        yield item
    yield "]"


def _map_parts(items: dict[str, object]) -> Iterator[object]:
    """Yield the values of an object, and the text between them."""
    yield "{"
    for at, (key, item) in enumerate(items.items()):
        yield f", {key}=" if at else f"{key}="
        yield item
    yield "}"


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


# Java's SignStyle.EXCEEDS_PAD: four digits have no plus sign, more digits have one.
_LOCAL_DATE_TIME = re.compile(
    r"(?P<year>[0-9]{4}|\+[0-9]{5,10}|-[0-9]{4,10})"
    r"-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"[Tt](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{0,9}))?)?"
)

_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MAX_YEAR = 999_999_999
_FEBRUARY = 2
_DAY_MS = 86_400_000
_LONG = range(-(2**63), 2**63)

# The calendar repeats every 400 years. If years start on March 1, leap days come
# last.
_ERA_DAYS = 146_097
_EPOCH_DAY = 719_468


def parse_local_date_time(text: str) -> int | None:
    """Parse *text* into ms since the Unix epoch, rounded down.

    Returns:
        The time, or None if Java does not accept *text* as a local date and time.

    Raises:
        OverflowError: If Java accepts *text*, but its ms do not fit into 64 bits. That
            affects years beyond about 292,000,000 in either direction.
    """
    found = _LOCAL_DATE_TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
    hour, minute, second = (
        int(found[name] or 0) for name in ("hour", "minute", "second")
    )
    if (year == 0 and found["year"][0] == "-") or not (
        _is_date(year, month, day) and _is_time(hour, minute, second)
    ):
        return None
    fraction_ms = int((found["fraction"] or "")[:3].ljust(3, "0"))
    day_ms = ((hour * 60 + minute) * 60 + second) * 1000 + fraction_ms
    ms = _day_from_date(year, month, day) * _DAY_MS + day_ms
    if ms not in _LONG:
        raise OverflowError("The time in ms does not fit into 64 bits.")
    return ms


def format_local_date_time(ms: int) -> str:
    """Format *ms* since the Unix epoch as ``yyyy-MM-dd'T'HH:mm:ss.SSS`` in UTC.

    Years after 9999 get a ``+``. Java's ``yyyy`` is the year of the era, so the year 0
    is printed as 0001, and the years before it count up again.
    """
    day, rest = divmod(ms, _DAY_MS)
    year, month, day_of_month = _date_from_day(day)
    seconds, fraction = divmod(rest, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    year_of_era = year if year > 0 else 1 - year
    sign = "+" if year_of_era > 9999 else ""  # noqa: PLR2004 - four digits are unsigned
    return (
        f"{sign}{year_of_era:04}-{month:02}-{day_of_month:02}"
        f"T{hour:02}:{minute:02}:{second:02}.{fraction:03}"
    )


def _is_date(year: int, month: int, day: int) -> bool:
    """Return whether the day exists in the Gregorian calendar and in Java."""
    if abs(year) > _MAX_YEAR or not 1 <= month <= len(_MONTH_DAYS):
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= _MONTH_DAYS[month - 1] + (leap and month == _FEBRUARY)


def _is_time(hour: int, minute: int, second: int) -> bool:
    """Return whether the time of day exists. Java rejects 24:00 and a second of 60."""
    return hour < 24 and minute < 60 and second < 60  # noqa: PLR2004 - the limits of a clock


def _day_from_date(year: int, month: int, day: int) -> int:
    """Return the number of days from the Unix epoch to a date."""
    year -= month <= _FEBRUARY
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month - 3) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * _ERA_DAYS + day_of_era - _EPOCH_DAY


def _date_from_day(day: int) -> tuple[int, int, int]:
    """Convert days since the Unix epoch to year, month and day of the month."""
    era, day_of_era = divmod(day + _EPOCH_DAY, _ERA_DAYS)
    leap_days = day_of_era // 1_460 - day_of_era // 36_524 + day_of_era // 146_096
    year_of_era = (day_of_era - leap_days) // 365
    day_of_year = day_of_era - (
        365 * year_of_era + year_of_era // 4 - year_of_era // 100
    )
    march_month = (5 * day_of_year + 2) // 153
    month = (march_month + 2) % 12 + 1
    year = era * 400 + year_of_era + (month <= _FEBRUARY)
    return year, month, day_of_year - (153 * march_month + 2) // 5 + 1
