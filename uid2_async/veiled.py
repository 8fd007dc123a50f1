"""A base class for structs whose repr hides personal data."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

__all__ = ["RedactedRepr"]


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
