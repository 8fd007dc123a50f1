"""A wrapper for what must not be shown, whoever prints, logs or pickles it."""

from __future__ import annotations

from typing import Generic, NoReturn, SupportsIndex, TypeVar

__all__ = ["Secret", "Unpicklable"]

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
            f"A {name} is neither copied nor pickled: it holds secrets. Make one where "
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
        """Give the value: to be used in place and not to be kept."""
        return self.__value

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"

    def __format__(self, spec: str) -> str:
        """Show nothing, whatever the format."""
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Be equal to itself alone: comparing takes time, which tells."""
        return self is other

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self)
