"""The loggers of the package, in whose records nothing can forge a line."""

from __future__ import annotations

import logging

from uid2_async._private import printable

__all__ = ["access_logger", "http_logger", "logger"]


def _make_printable(record: logging.LogRecord) -> bool:
    """Escape the message of *record*: paths and operators' texts are in some."""
    message = record.getMessage()
    shown = printable(message)
    if shown != message:
        record.msg, record.args = shown, ()
    return True


logger: logging.Logger = logging.getLogger("uid2_async")
# The requests that the embedded operator answers.
http_logger: logging.Logger = logging.getLogger("uid2_async.http")
# Each request that it answers, at level INFO, without any content.
# A separate channel: logging the library does not include it.
access_logger: logging.Logger = logging.getLogger("uid2_async.access")
access_logger.propagate = False

# A filter of a logger does not see the records of its children.
for _one in (logger, http_logger, access_logger):
    _one.addFilter(_make_printable)
