"""The public API: the names in the API reference, and every method of its classes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

_PAGES = Path(__file__).parents[2] / "docs" / "api"
_DIRECTIVE = re.compile(
    r"^\s*\.\. (?:auto(?:module|class|function)|py:module):: ([\w.]+)", re.MULTILINE
)
_METHODS = frozenset(
    {"__init__", "__post_init__", "__call__", "__getitem__", "__contains__", "__len__"}
    | {"__iter__", "__next__", "__aiter__", "__anext__"}
    | {"__enter__", "__exit__", "__aenter__", "__aexit__"}
)


@attrs.frozen
class PublicCallable:
    """A callable that users can call.

    Attributes:
        path: The module, class and name.
        function: The function that runs, in the form in which it is called.
        owner: The class of a method.
        kind: ``function``, ``constructor``, ``method``, ``classmethod``,
            ``staticmethod`` or ``property``.
    """

    path: str
    function: Callable[..., Any]
    owner: type | None = None
    kind: str = "function"


def public_modules() -> list[str]:
    """Return the modules whose public names are all public API."""
    found = {"uid2_async"}
    for page in _PAGES.rglob("*.rst"):
        for target in _DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            found.add(_module_of(target))
    return sorted(found)


def _module_of(target: str) -> str:
    """Return the module that contains the target of a directive."""
    parts = target.split(".")
    while parts:
        try:
            importlib.import_module(".".join(parts))
        except ModuleNotFoundError:
            parts.pop()
        else:
            break
    return ".".join(parts)


def public_callables() -> list[PublicCallable]:
    """Return every public function, constructor, method and property."""
    found: dict[str, PublicCallable] = {}
    for name in public_modules():
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None)
        for one in names if names is not None else vars(module):
            value = getattr(module, one)
            if one.startswith("_") or not _is_ours(value):
                continue
            if names is None and value.__module__ != name:
                continue
            for item in _items(value):
                found[item.path] = item
    return [found[path] for path in sorted(found)]


def _is_ours(value: object) -> bool:
    home = getattr(value, "__module__", None) or ""
    return home.startswith("uid2_async") and (
        inspect.isclass(value) or inspect.isroutine(value)
    )


def _items(value: Any) -> Iterator[PublicCallable]:
    path = f"{value.__module__}.{value.__qualname__}"
    if not inspect.isclass(value):
        yield PublicCallable(path, value)
        return
    if getattr(value, "_is_protocol", False):
        return
    # Enum look-ups are Python's own. A TypedDict, or an exception without a
    # constructor, accepts anything.
    builtin = issubclass(value, Enum | dict) or (
        issubclass(value, Exception) and not inspect.isfunction(value.__init__)
    )
    if not builtin:
        yield PublicCallable(path, value, value, "constructor")
    for base in value.__mro__:
        if not base.__module__.startswith("uid2_async"):
            continue
        for name, member in vars(base).items():
            item = _member(value, f"{path}.{name}", name, member)
            if item is not None:
                yield item


def _member(owner: type, path: str, name: str, member: Any) -> PublicCallable | None:
    if name.startswith("_") and name not in _METHODS - {"__init__", "__post_init__"}:
        return None
    if isinstance(member, classmethod | staticmethod):
        return PublicCallable(path, member.__func__, owner, type(member).__name__)
    if isinstance(member, property | cached_property):
        getter = getattr(member, "fget", None) or getattr(member, "func", None)
        return PublicCallable(path, getter, owner, "property")  # type: ignore[arg-type] # it has one
    if inspect.isfunction(member):
        return PublicCallable(path, member, owner, "method")
    return None
