"""Compares arguments with the annotations of a signature after a call has failed."""

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
    """Return a sentence about the first argument that does not match its annotation.

    Elements of containers are not checked. An annotation that cannot be evaluated here,
    such as a name that is imported only for type checkers, matches everything.

    Returns:
        A sentence that does not contain the value, or None if all arguments match.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    names = getattr(function, "__globals__", {})
    for name, value in bound.items():
        parameter = signature.parameters[name]
        # A default is always valid, even a marker such as that of attrs for
        # factories.
        if value is parameter.default or parameter.kind in _VARIABLE:
            continue
        if not _fits(value, _resolve(parameter.annotation, names)):
            what = inspect.formatannotation(parameter.annotation).strip("'")
            return f"{name} must be {what}, not {type(value).__name__}."
    return None


def _resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Evaluate an annotation of our own source, or return Any if that fails."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - the source of this package
    except (AttributeError, NameError, TypeError):
        return Any


def _fits(value: object, hint: Any) -> bool:
    """Whether *value* may match *hint*. If in doubt, return True."""
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
    except TypeError:  # such as a Protocol or a type variable
        return True


# What an annotation also accepts, or accepts instead if isinstance() cannot check it.
_KINDS: dict[Any, Any] = {
    Any: object,
    float: (float, int),
    typing.Literal: (str, int, bytes, bool, type(None)),
}
