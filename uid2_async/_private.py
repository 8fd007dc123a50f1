"""Keeps private values out of output: secrets, redacted reprs, text in logs."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any, ClassVar, Generic, NoReturn, SupportsIndex, TypeVar

import msgspec

T = TypeVar("T")


class Unpicklable:
    """The base class of objects with secrets, which cannot be copied or pickled.

    A pickle takes secrets to places that nobody watches: queues, caches and workers.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Raise.

        Raises:
            TypeError: Always. The message contains only the class name.
        """
        name = type(self).__name__
        raise TypeError(
            f"A {name} cannot be copied or pickled: it contains secrets. Create one "
            "where it is used, from settings that are read there."
        )


class Secret(Unpicklable, Generic[T]):
    """Contains a value that is returned only by :meth:`reveal`.

    It is neither a str nor bytes, so that nothing prints, formats, compares or joins it
    by accident. It cannot be copied or pickled. Python cannot wipe memory: a secret
    stays there for as long as something references it, and possibly longer.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T) -> None:
        """Store *value*."""
        self.__value = value

    def reveal(self) -> T:
        """Return the value. Use it in place, and do not store it."""
        return self.__value

    def __repr__(self) -> str:
        """Return a placeholder."""
        return "Secret(***)"

    def __format__(self, spec: str) -> str:
        """Return a placeholder for every format."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Compare by identity, because comparing values would leak timing."""
        return self is other

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)


class RedactedRepr(msgspec.Struct, frozen=True):
    """A struct whose repr contains only the fields in ``_repr_fields``.

    For values that exist by the thousand, for which an attrs class would be too slow. A
    field is hidden unless it is named.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        """Return the class name and the fields in ``_repr_fields``."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the same fields to rich, which would otherwise print every field."""
        return [(name, getattr(self, name)) for name in self._repr_fields]


def printable(text: str) -> str:
    r"""Return *text* with every character that is not printable as a backslash escape.

    Control characters would steer a terminal. A line feed would forge a line of a log.
    A bidirectional override would reorder the visible text. The lone surrogates of a
    file name that is not UTF-8 cannot be encoded. ``"\x1b[2J"`` becomes ``r"\x1b[2J"``.
    Spaces of all widths are kept.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else _escape(char) for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


# --- loggers, in whose records nothing can forge a line -------------------------------


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
