"""An inspection as plain fields, for a command, a page or JSON."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, IntEnum
from typing import Any

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import ms_from_datetime
from uid2_async.protocol.inspection import Inspection
from uid2_async.protocol.instants import iso

__all__ = ["describe"]


def describe(found: Inspection) -> dict[str, Any]:
    """Turn *found* into fields that JSON has; what it does not tell is left out."""
    report: dict[str, Any] = {"kinds": [kind.value for kind in found.kinds]}
    for field in attrs.fields(Inspection):
        value = getattr(found, field.name)
        if field.name in {"kinds", "parts", "notes"} or value is None:
            continue
        report[field.name] = _plain(value)
    for name, part in found.parts.items():
        report[name] = describe(part)
    report["notes"] = [str(note) for note in found.notes]
    return report


def _plain(value: object) -> object:
    """Turn a value into one that JSON has."""
    if isinstance(value, datetime):
        return iso(ms_from_datetime(value))
    if isinstance(value, IntEnum):
        return value.name.lower()
    return value.value if isinstance(value, Enum) else value


strip_tracebacks(globals())
