"""Structs that can be printed without showing whom they are about."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

__all__ = ["Veiled"]


class Veiled(msgspec.Struct, frozen=True):
    """A struct whose repr shows only the fields that it names in *shown*.

    For values that are made by the thousand, or inside of the library, where an attrs
    class would cost too much; everything is hidden unless it is named.

    Attributes:
        shown: The fields and properties that are harmless.
    """

    shown: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        """Show the harmless fields."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show the same to rich, which would print every field."""
        return [(name, getattr(self, name)) for name in self.shown]
