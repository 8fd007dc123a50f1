"""Java's ISO_LOCAL_DATE_TIME, taken as UTC (docs/protocol.md 2.4).

Plain arithmetic, since datetime ends with the year 9999 and the operator does not.
"""

from __future__ import annotations

import re

from uid2_async._traceback import strip_tracebacks

__all__ = ["format_local_date_time", "parse_local_date_time"]

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
        The instant, or None where *text* is no local date and time to Java.

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
    """Tell whether there is such a day in the Gregorian calendar and in Java."""
    if abs(year) > _MAX_YEAR or not 1 <= month <= len(_MONTH_DAYS):
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= _MONTH_DAYS[month - 1] + (leap and month == _FEBRUARY)


def _is_time(hour: int, minute: int, second: int) -> bool:
    """Tell whether there is such a time of day; Java knows no 24:00 and no 60."""
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


strip_tracebacks(globals())
