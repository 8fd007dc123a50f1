"""What keeps private values out of output: secrets, redacted reprs, escaped text."""

from __future__ import annotations

import unicodedata
from typing import Any, ClassVar, Generic, NoReturn, SupportsIndex, TypeVar

import msgspec

T = TypeVar("T")


class Unpicklable:
    """The base of what holds secrets: it refuses to be copied or pickled.

    A pickle takes secrets to places that nobody looks after: queues, caches, workers.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: Always. It names the class only.
        """
        name = type(self).__name__
        raise TypeError(
            f"A {name} cannot be copied or pickled, because it has secrets. Create "
            "one where "
            "it is used, from settings that are read there."
        )


class Secret(Unpicklable, Generic[T]):
    """Holds a value, and gives it out only where :meth:`reveal` is written.

    It is neither a str nor bytes, so that nothing prints, formats, compares or joins it
    by accident; it refuses to be copied or pickled. Python cannot wipe memory: a secret
    stays there as long as anything refers to it, and longer.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T) -> None:
        """Hide *value*."""
        self.__value = value

    def reveal(self) -> T:
        """Return the value. Use it in place, and do not keep it."""
        return self.__value

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"

    def __format__(self, spec: str) -> str:
        """Show nothing, whatever the format."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Be equal only to itself: the time of a comparison would leak the content."""
        return self is other

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)


class RedactedRepr(msgspec.Struct, frozen=True):
    """A struct whose repr shows only the fields named in ``_repr_fields``.

    It is for values that exist by the thousand, for which an attrs class would cost too
    much. A field is hidden unless it is named.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        """Return the class name and the fields in ``_repr_fields``."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the same fields to rich, which would print every field."""
        return [(name, getattr(self, name)) for name in self._repr_fields]


def printable(text: str) -> str:
    r"""Return *text* with everything that is not printable as a backslash escape.

    Control characters would steer a terminal, a line feed would forge a line of a log,
    a bidirectional override would reorder what is read, and the lone surrogates of a
    file name that is not UTF-8 cannot be encoded. ``"\x1b[2J"`` becomes ``r"\x1b[2J"``.
    Spaces of all widths stay.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else _escape(char) for char in text)


def _is_harmless(char: str) -> bool:
    """Whether *char* may be shown as it is."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    """Write *char* as a string literal of Python would."""
    return char.encode("unicode_escape").decode("ascii")
