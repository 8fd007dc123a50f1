"""What stands in a column that a job adds to its files."""

from __future__ import annotations

from enum import Enum

from uid2_async._traceback import strip_tracebacks

__all__ = ["Content"]


class Content(Enum):
    """What stands in a column that is added; None is a missing value in each."""

    TEXT = "text"
    INTEGER = "an integer of 32 bits"
    INSTANT = "an instant, as seconds since the epoch"


strip_tracebacks(globals())
