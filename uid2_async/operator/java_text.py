"""Text and dates as Java writes and reads them.

The operator does not refuse a value of the wrong type. It turns the value into text by
``toString()`` and judges that (docs/protocol.md 1.3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Self

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
    rejects in a list of identities: null, a list or an object.
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
    """Yield the values of a list and the text between them."""
    yield "["
    for at, item in enumerate(items):
        if at:
            yield ", "
        yield item
    yield "]"


def _map_parts(items: dict[str, object]) -> Iterator[object]:
    """Yield the values of an object and the text between them."""
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


# Java's SignStyle.EXCEEDS_PAD: four digits without a sign, more of them with "+".
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

# The calendar repeats after 400 years; counted from 1 March 0000, leap days end years.
_ERA_DAYS = 146_097
_EPOCH_DAY = 719_468


def parse_local_date_time(text: str) -> int | None:
    """Read *text* into ms since the Unix epoch, rounded down.

    Returns:
        The instant, or None if *text* is no local date and time to Java.

    Raises:
        OverflowError: If it is one, but its ms do not fit into 64 bits: years beyond
            about 292,000,000 in either direction.
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
        raise OverflowError("The instant does not fit into 64 bits of ms.")
    return ms


def format_local_date_time(ms: int) -> str:
    """Print *ms* since the Unix epoch as ``yyyy-MM-dd'T'HH:mm:ss.SSS`` in UTC.

    Years after 9999 get a ``+``. Java's ``yyyy`` is the year of the era, so that the
    year 0 prints as 0001 and the years before it count up again.
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
    """Return whether there is such a day in the Gregorian calendar and in Java."""
    if abs(year) > _MAX_YEAR or not 1 <= month <= len(_MONTH_DAYS):
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= _MONTH_DAYS[month - 1] + (leap and month == _FEBRUARY)


def _is_time(hour: int, minute: int, second: int) -> bool:
    """Return whether there is such a time of day; Java has no 24:00 and no :60."""
    return hour < 24 and minute < 60 and second < 60  # noqa: PLR2004 - the clock


def _day_from_date(year: int, month: int, day: int) -> int:
    """Count the days from the Unix epoch to a date."""
    year -= month <= _FEBRUARY
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month - 3) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * _ERA_DAYS + day_of_era - _EPOCH_DAY


def _date_from_day(day: int) -> tuple[int, int, int]:
    """Turn days since the Unix epoch into year, month and day of the month."""
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
