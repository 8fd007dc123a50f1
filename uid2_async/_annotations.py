"""Arguments compared with the annotations of a signature, after a call has failed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["find_mismatch"]

_VARIABLE = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def find_mismatch(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """Return which argument is not of the type of its annotation.

    Elements of containers are not looked at. An annotation that cannot be read here,
    such as a name that only type checkers import, fits everything.

    Returns:
        A sentence without the value, or None.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    names = getattr(function, "__globals__", {})
    for name, value in bound.items():
        parameter = signature.parameters[name]
        # A default is right by itself, such as the mark of attrs for one that is made.
        if value is parameter.default or parameter.kind in _VARIABLE:
            continue
        if not _fits(value, _resolve(parameter.annotation, names)):
            what = inspect.formatannotation(parameter.annotation).strip("'")
            return f"{name} must be {what}, not {type(value).__name__}."
    return None


def _resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Evaluate an annotation of our own source; Any where that cannot be done."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - the source of this package
    except (AttributeError, NameError, TypeError):
        return Any


def _fits(value: object, hint: Any) -> bool:
    """Whether *value* may be what *hint* says; in doubt it is."""
    if hint is None:
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin in {typing.Union, types.UnionType}:
        return any(_fits(value, one) for one in typing.get_args(hint))
    if origin is typing.Annotated:
        return _fits(value, typing.get_args(hint)[0])
    kinds = _KINDS.get(origin, origin)
    if typing.is_typeddict(kinds):
        return isinstance(value, dict)
    try:
        return isinstance(value, kinds)
    except TypeError:  # such as a Protocol, or a type variable
        return True


# What an annotation also allows, or stands for if isinstance cannot check it.
_KINDS: dict[Any, Any] = {
    Any: object,
    float: (float, int),
    typing.Literal: (str, int, bytes, bool, type(None)),
}
