"""The operator's "no": HTTP status, status word and message (docs/protocol.md 1.7)."""

from __future__ import annotations

from uid2_async._traceback import strip_tracebacks

__all__ = [
    "RefusedError",
    "client_error",
    "reply_error",
    "text_error",
    "unknown_error",
]


class RefusedError(Exception):
    """A request that the operator refuses.

    The operator raises and answers it; the client never sees this class.

    Attributes:
        status: The HTTP status.
        code: The status word, or None for a plain-text answer.
        message: The message; None where there is none (401).
    """

    def __init__(self, status: int, code: str | None, message: str | None) -> None:
        """Keep what to answer."""
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


def client_error(message: str) -> RefusedError:
    """Refuse with 400 ``client_error``."""
    return RefusedError(400, "client_error", message)


def unknown_error(message: str) -> RefusedError:
    """Refuse with 500 ``unknown``."""
    return RefusedError(500, "unknown", message)


def reply_error() -> RefusedError:
    """Refuse because the reply cannot be built (docs/protocol.md 1.7)."""
    return RefusedError(500, "error", "")


def text_error() -> RefusedError:
    """Refuse with the plain text of an uncaught exception (docs/protocol.md 1.9)."""
    return RefusedError(500, None, "Internal Server Error")


strip_tracebacks(globals())
