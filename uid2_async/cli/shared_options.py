"""Options that several commands take, declared once: typer wants each of them named."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints

import attrs

__all__ = ["with_shared_options"]


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options in groups.

    A parameter whose type is an attrs class stands for an option for each of its
    fields, and *command* gets them as an object of that class.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if attrs.has(kind):
            groups[parameter.name] = kind
            parameters += map(_as_parameter, attrs.fields(attrs.resolve_types(kind)))
        else:
            parameters.append(parameter.replace(annotation=kind))

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, group in groups.items():
            mine = {one.name: given.pop(one.name) for one in attrs.fields(group)}
            given[name] = group(**mine)
        command(**given)

    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # PEP 362
    return flat


def _as_parameter(field: attrs.Attribute[Any]) -> inspect.Parameter:
    """Make the parameter of an option."""
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=field.type,
    )
